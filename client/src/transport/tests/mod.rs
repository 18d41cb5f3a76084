//! Tests on loopback, with a certificate authority made for each.

mod connections;
mod datagrams;
mod frames;
mod identities;

use super::{Accepted, Acceptor, Connection, Endpoint, Identity, TransportOptions};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// More than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A certificate authority with a directory for its files.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Issues a certificate for 127.0.0.1, changed by `change`, and writes `name.pem` and
    /// `name.key`.
    pub(super) fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.file(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// What was issued, sound or not.
    pub(super) fn certified(&self, name: &str) -> Arc<CertifiedKey> {
        let [cert, key] = ["pem", "key"].map(|extension| self.file(&format!("{name}.{extension}")));
        let chain = CertificateDer::pem_file_iter(cert).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        Arc::new(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).unwrap())
    }

    /// A sound identity.
    pub(super) fn identity(&self, name: &str) -> Identity {
        self.issue(name, |_| ());
        let [cert, key] = ["pem", "key"].map(|extension| self.file(&format!("{name}.{extension}")));
        Identity::load(&self.file("ca.pem"), &cert, &key).unwrap()
    }
}

pub(super) fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A server and a client of one authority, connected.
pub(super) struct Pair {
    pub(super) server: Endpoint,
    pub(super) client: Endpoint,
    pub(super) acceptor: Acceptor,
    pub(super) accepted: Accepted,
    pub(super) connection: Connection,
}

pub(super) async fn pair(server: &TransportOptions, client: &TransportOptions) -> Pair {
    let authority = Authority::new("test CA");
    let (server, mut acceptor) = Endpoint::server(loopback(), &authority.identity("node-1"), server).unwrap();
    let client = Endpoint::client(&authority.identity("writer"), client).unwrap();
    let address = server.local_addr().to_string();
    let (connection, accepted) =
        soon(async { tokio::join!(client.connect(&address), acceptor.accept()) }).await;
    let (connection, accepted) = (connection.unwrap(), accepted.unwrap().unwrap());
    Pair { server, client, acceptor, accepted, connection }
}

/// Waits for what must come.
pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it comes within the deadline")
}

/// Waits until something holds.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} within {PATIENCE:?}");
        sleep(Duration::from_millis(2)).await;
    }
}
