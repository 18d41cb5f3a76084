//! Who gets a connection, and what the others are told.

use super::{Authority, loopback, pair, soon};
use crate::transport::{
    AcceptError, Accepted, Acceptor, Alert, ConnectError, Connection, Endpoint, EndpointError,
    HandshakeError, Identity, TransportOptions,
};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use std::time::Duration;

fn options() -> TransportOptions {
    TransportOptions::default()
}

fn server(identity: &Identity) -> (String, Endpoint, Acceptor) {
    let (endpoint, acceptor) = Endpoint::server(loopback(), identity, &options()).unwrap();
    (endpoint.local_addr().to_string(), endpoint, acceptor)
}

fn client(config: rustls::ClientConfig) -> Endpoint {
    Endpoint::open(loopback(), config, None, &options()).unwrap()
}

async fn meet(
    client: &Endpoint,
    address: &str,
    acceptor: &mut Acceptor,
) -> (Result<Connection, ConnectError>, Result<Accepted, AcceptError>) {
    let (opened, accepted) = soon(async { tokio::join!(client.connect(address), acceptor.accept()) }).await;
    (opened, accepted.expect("the endpoint is open"))
}

/// Both sides' views of a handshake that fails.
async fn refusal(
    client: &Endpoint,
    address: &str,
    acceptor: &mut Acceptor,
) -> (HandshakeError, HandshakeError) {
    let (opened, accepted) = meet(client, address, acceptor).await;
    let ours = match opened.map(|_| ()).unwrap_err() {
        ConnectError::Handshake { address: named, error } if named == address => error,
        other => panic!("not a handshake error that names {address}: {other}"),
    };
    (ours, accepted.map(|_| ()).unwrap_err().error)
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let pair = pair(&options(), &options()).await;
    assert_eq!(pair.accepted.peer.common_name.as_deref(), Some("writer"));
    assert_eq!(pair.accepted.remote.port(), pair.client.local_addr().port());
    let peer = crate::transport::PeerIdentity::of_connection(&pair.connection).unwrap();
    assert_eq!(peer.common_name.as_deref(), Some("node-1"));
    let data = pair.connection.handshake_data().unwrap();
    let data = data.downcast::<quinn::crypto::rustls::HandshakeData>().unwrap();
    assert_eq!(data.protocol.as_deref(), Some(piculet_quorum::wire::ALPN));
}

#[tokio::test]
async fn whoever_must_not_get_in_is_told_why_and_the_server_goes_on() {
    let authority = Authority::new("test CA");
    let writer = authority.identity("writer");
    let (address, _server, mut acceptor) = server(&authority.identity("node-1"));

    let mut nameless = writer.client().unwrap();
    nameless.client_auth_cert_resolver = Arc::new(NoCertificate);
    let (ours, theirs) = refusal(&client(nameless), &address, &mut acceptor).await;
    assert_eq!(ours, HandshakeError::TheyRefused { alert: Alert::CertificateRequired });
    assert!(
        matches!(theirs, HandshakeError::WeRefused { alert: Alert::CertificateRequired, .. }),
        "{theirs}"
    );

    // Of a CA with another name, and of one with the same.
    for foreign in ["another CA", "test CA"] {
        let stranger = Authority::new(foreign).identity("stranger").client().unwrap();
        let mut config = writer.client().unwrap();
        config.client_auth_cert_resolver = stranger.client_auth_cert_resolver;
        let (ours, theirs) = refusal(&client(config), &address, &mut acceptor).await;
        assert_eq!(ours, HandshakeError::TheyRefused { alert: Alert::UnknownCa }, "{foreign}");
        assert!(matches!(theirs, HandshakeError::WeRefused { alert: Alert::UnknownCa, .. }), "{theirs}");
    }

    let mut other = writer.client().unwrap();
    other.alpn_protocols = vec![b"piculet/999".to_vec()];
    let both = refusal(&client(other), &address, &mut acceptor).await;
    assert_eq!(both, (HandshakeError::OtherProtocol, HandshakeError::OtherProtocol));

    let good = Endpoint::client(&writer, &options()).unwrap();
    let (opened, accepted) = meet(&good, &address, &mut acceptor).await;
    assert!(opened.is_ok() && accepted.is_ok(), "{opened:?} {accepted:?}");
}

#[tokio::test]
async fn a_server_that_must_not_be_trusted_is_not() {
    let authority = Authority::new("test CA");
    let good = Endpoint::client(&authority.identity("writer"), &options()).unwrap();
    for foreign in ["another CA", "test CA"] {
        let (address, _server, mut acceptor) = server(&Authority::new(foreign).identity("node-1"));
        let (ours, theirs) = refusal(&good, &address, &mut acceptor).await;
        assert!(matches!(ours, HandshakeError::WeRefused { alert: Alert::UnknownCa, .. }), "{ours}");
        assert_eq!(theirs, HandshakeError::TheyRefused { alert: Alert::UnknownCa });
    }
    // Of the right CA, but made for another host.
    let (address, _server, mut acceptor) = server(&authority.identity("node-1"));
    let elsewhere = address.replace("127.0.0.1", "localhost");
    let (ours, theirs) = refusal(&good, &elsewhere, &mut acceptor).await;
    assert!(matches!(ours, HandshakeError::WeRefused { alert: Alert::BadCertificate, .. }), "{ours}");
    assert!(ours.to_string().contains("localhost"), "{ours}");
    assert_eq!(theirs, HandshakeError::TheyRefused { alert: Alert::BadCertificate });
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_refused_as_that_on_both_sides() {
    let authority = Authority::new("test CA");
    authority.issue("late", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let late = authority.certified("late");
    let (good, node) = (authority.identity("writer"), authority.identity("node-1"));

    let mut config = node.server().unwrap();
    config.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(late.clone()));
    let options = options();
    let endpoint = Endpoint::open(loopback(), node.client().unwrap(), Some(config), &options).unwrap();
    let mut acceptor = endpoint.acceptor(&options);
    let address = endpoint.local_addr().to_string();
    let ours = Endpoint::client(&good, &options).unwrap();
    let (ours, theirs) = refusal(&ours, &address, &mut acceptor).await;
    assert!(matches!(ours, HandshakeError::WeRefused { alert: Alert::Expired, .. }), "{ours}");
    assert!(ours.to_string().contains("has expired"), "{ours}");
    assert_eq!(theirs, HandshakeError::TheyRefused { alert: Alert::Expired });

    let (address, _server, mut acceptor) = server(&node);
    let mut config = good.client().unwrap();
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(late));
    let (ours, theirs) = refusal(&client(config), &address, &mut acceptor).await;
    assert_eq!(ours, HandshakeError::TheyRefused { alert: Alert::Expired });
    assert!(matches!(theirs, HandshakeError::WeRefused { alert: Alert::Expired, .. }), "{theirs}");
}

#[tokio::test]
async fn garbage_datagrams_do_not_disturb_a_server() {
    let authority = Authority::new("test CA");
    let (address, _server, mut acceptor) = server(&authority.identity("node-1"));
    let noise = std::net::UdpSocket::bind(loopback()).unwrap();
    for len in [1_usize, 20, 1200, 9000, 65_000] {
        for first in [0x00, 0x40, 0xc0, 0xff] {
            let mut datagram = vec![0x5a; len];
            datagram[0] = first;
            noise.send_to(&datagram, &address).unwrap();
        }
    }
    let good = Endpoint::client(&authority.identity("writer"), &options()).unwrap();
    let good_one = async {
        loop {
            if let Ok(accepted) = acceptor.accept().await.expect("the endpoint is open") {
                return accepted;
            }
        }
    };
    let (opened, _accepted) = soon(async { tokio::join!(good.connect(&address), good_one) }).await;
    assert!(opened.is_ok(), "{opened:?}");
}

#[tokio::test]
async fn what_cannot_be_reached_is_said_plainly() {
    let authority = Authority::new("test CA");
    let brief = TransportOptions { connect_timeout: Duration::from_millis(300), ..options() };
    let client = Endpoint::client(&authority.identity("writer"), &brief).unwrap();
    // Bound, and silent.
    let silent = std::net::UdpSocket::bind(loopback()).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let error = soon(client.connect(&address)).await.unwrap_err();
    let message = error.to_string();
    let expected = HandshakeError::NoAnswer { waited: brief.connect_timeout };
    assert!(matches!(error, ConnectError::Handshake { error, .. } if error == expected), "{message}");
    assert!(message.contains(&address) && message.contains("UDP is blocked"), "{message}");
    // No longer bound: the machine says so itself.
    drop(silent);
    let error = soon(client.connect(&address)).await.unwrap_err();
    let message = error.to_string();
    assert!(
        matches!(error, ConnectError::Handshake { error: HandshakeError::NobodyListens, .. }),
        "{message}"
    );
    assert!(message.contains(&address) && message.contains("nobody listens"), "{message}");

    let error = soon(client.connect("no-such-host.invalid:7781")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Resolve { .. }), "{error}");
    let error = soon(client.connect("127.0.0.1")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Address { .. }), "{error}");
    client.close();
    let error = soon(client.connect("127.0.0.1:7781")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Local { .. }), "{error}");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let identity = Authority::new("test CA").identity("node-1");
    let (address, _server, _acceptor) = server(&identity);
    let error = Endpoint::server(address.parse().unwrap(), &identity, &options()).unwrap_err();
    assert!(matches!(error, EndpointError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test]
async fn a_closed_endpoint_tells_its_peers_and_accepts_no_more() {
    let mut pair = pair(&options(), &options()).await;
    pair.server.close();
    assert!(soon(pair.acceptor.accept()).await.is_none());
    let reason = soon(pair.connection.closed()).await;
    assert!(matches!(reason, quinn::ConnectionError::ApplicationClosed(_)), "{reason}");
    soon(pair.server.wait_idle()).await;
    pair.client.close();
    soon(pair.client.wait_idle()).await;
}

#[tokio::test]
async fn a_quiet_connection_is_kept_alive() {
    let quick = TransportOptions {
        keep_alive: Duration::from_millis(20),
        idle_timeout: Duration::from_millis(2000),
        ..options()
    };
    let pair = pair(&options(), &quick).await;
    // Discovery of the datagram size sends pings too, far fewer than these.
    super::until("many pings", || pair.accepted.connection.stats().frame_rx.ping >= 200).await;
    assert_eq!(pair.connection.close_reason(), None);
}
