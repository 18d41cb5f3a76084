//! Files that are an identity, and files that are not.

use super::{Authority, loopback};
use crate::transport::{Endpoint, EndpointError, Identity, PeerIdentity, TlsError, TransportOptions};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, date_time_ymd};

fn load(authority: &Authority, cert: &str, key: &str) -> Result<Identity, TlsError> {
    Identity::load(&authority.file("ca.pem"), &authority.file(cert), &authority.file(key))
}

#[test]
fn a_certificate_names_its_owner() {
    let authority = Authority::new("test CA");
    let identity = authority.identity("node-1");
    let peer = PeerIdentity::of(identity.certificate());
    assert_eq!(peer.common_name.as_deref(), Some("node-1"));
    assert_eq!(peer.to_string(), "\"node-1\"");
    let nameless = PeerIdentity::of(&b"not a certificate".to_vec().into());
    assert_eq!(nameless.common_name, None);
}

#[test]
fn private_keys_are_not_printed() {
    let authority = Authority::new("test CA");
    let printed = format!("{:?}", authority.identity("node-1"));
    assert!(printed.contains("node-1.key") && printed.len() < 1000, "{printed}");
}

#[test]
fn files_that_are_missing_or_hold_something_else_are_named() {
    let authority = Authority::new("test CA");
    authority.identity("node-1");
    for (cert, key, missing) in
        [("nowhere.pem", "node-1.key", "nowhere.pem"), ("node-1.pem", "nowhere.key", "nowhere.key")]
    {
        let error = load(&authority, cert, key).unwrap_err();
        assert!(matches!(error, TlsError::Read { .. }), "{error}");
        assert!(error.to_string().contains(missing), "{error}");
    }
    std::fs::write(authority.file("garbage"), "-----BEGIN CERTIFICATE-----\n!!!\n").unwrap();
    std::fs::write(authority.file("empty"), "").unwrap();
    for (cert, key, wrong) in [
        ("node-1.key", "node-1.key", "holds no certificate"),
        ("node-1.pem", "node-1.pem", "holds no private key"),
        ("garbage", "node-1.key", "holds no certificate"),
        ("empty", "node-1.key", "holds no certificate"),
    ] {
        let error = load(&authority, cert, key).unwrap_err();
        assert!(matches!(error, TlsError::Content { .. }), "{error}");
        assert!(error.to_string().contains(wrong), "{error}");
    }
    let key = authority.file("node-1.key");
    let error = Identity::load(&key, &authority.file("node-1.pem"), &key).unwrap_err().to_string();
    assert!(error.contains("node-1.key holds no CA certificate"), "{error}");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let authority = Authority::new("test CA");
    authority.identity("node-1");
    authority.identity("node-2");
    let error = load(&authority, "node-1.pem", "node-2.key").unwrap_err();
    assert!(matches!(error, TlsError::KeyMismatch { .. }), "{error}");
}

#[test]
fn a_certificate_that_nobody_would_accept_is_refused_at_once() {
    type Change = fn(&mut CertificateParams);
    let authority = Authority::new("test CA");
    let cases: [(&str, Change, &str); 3] = [
        ("expired", |params| params.not_after = date_time_ymd(2020, 1, 1), "has expired"),
        ("early", |params| params.not_before = date_time_ymd(4000, 1, 1), "is not valid yet"),
        (
            "usage",
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            "extended key usage clientAuth",
        ),
    ];
    for (name, change, expected) in cases {
        authority.issue(name, change);
        let error = load(&authority, &format!("{name}.pem"), &format!("{name}.key")).unwrap_err();
        assert!(matches!(error, TlsError::Certificate { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    // With another name, and with the same.
    for foreign in ["another CA", "test CA"] {
        let foreign = Authority::new(foreign);
        let [cert, key] = ["node-1.pem", "node-1.key"].map(|name| authority.file(name));
        authority.identity("node-1");
        let error = Identity::load(&foreign.file("ca.pem"), &cert, &key).unwrap_err().to_string();
        assert!(error.contains("was not issued by the CA in"), "{error}");
    }
}

#[tokio::test]
async fn a_server_needs_a_certificate_for_servers() {
    let authority = Authority::new("test CA");
    authority.issue("writer", |params| {
        params.distinguished_name.push(DnType::OrganizationName, "a client only");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let identity = load(&authority, "writer.pem", "writer.key").unwrap();
    let options = TransportOptions::default();
    assert!(Endpoint::client(&identity, &options).is_ok());
    let error = Endpoint::server(loopback(), &identity, &options).unwrap_err();
    assert!(matches!(error, EndpointError::Tls(TlsError::Certificate { .. })), "{error}");
    assert!(error.to_string().contains("serverAuth"), "{error}");
}
