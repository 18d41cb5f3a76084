//! etcd that speaks TLS and wants a certificate from its clients.

use super::faults::{change_of, everything, insist, key, put};
use super::process::Etcd;
use piculet_meta::{MetaError, MetaOptions, connect};
use piculet_quorum::meta::Range;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// A certificate authority whose files lie in a directory of its own.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a certificate can be made"))
                .expect("a certificate can be made");
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).expect("the directory is ours");
        let authority = Self { issuer, dir };
        authority.issue("etcd");
        authority.issue("client");
        authority
    }

    fn issue(&self, name: &str) {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a certificate can be made");
        params.distinguished_name.push(DnType::CommonName, name);
        // etcd is a client of itself.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a certificate can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate can be made");
        std::fs::write(self.file(&format!("{name}.pem")), certificate.pem()).expect("the directory is ours");
        std::fs::write(self.file(&format!("{name}.key")), key.serialize_pem())
            .expect("the directory is ours");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn etcd(&self) -> Etcd {
        let path = |name| self.file(name).to_str().expect("a path of ASCII").to_owned();
        let [ca, cert, key] = ["ca.pem", "etcd.pem", "etcd.key"].map(path);
        let files =
            ["--client-cert-auth", "--trusted-ca-file", &ca, "--cert-file", &cert, "--key-file", &key];
        Etcd::start_with(true, &files)
    }

    fn options(&self) -> MetaOptions {
        MetaOptions {
            ca: Some(self.file("ca.pem")),
            cert: Some(self.file("client.pem")),
            key: Some(self.file("client.key")),
            ..MetaOptions::default()
        }
    }
}

/// What a read says with these options; a transaction is not carried out either.
async fn denial(url: &str, options: &MetaOptions) -> String {
    let store = connect(url, options).await.expect("url and options are fine");
    let read = store.read(&[key("a")], &[]).await.expect_err("they do not accept each other");
    assert!(matches!(read, MetaError::Denied(_)), "{read}");
    store.commit(&put("a", 1)).await.expect_err("they do not accept each other");
    read.to_string()
}

#[tokio::test]
async fn everything_works_with_certificates() {
    let authority = Authority::new();
    let etcd = authority.etcd();
    let store = etcd.connect_with(&authority.options()).await;
    let mut watch = store.watch(Range::Incarnations).await.unwrap();
    let lease = store.grant(Duration::from_secs(5)).await.unwrap();
    let at = insist(&*store, &put("a", 1)).await;
    assert_eq!(change_of(&mut watch, "a").await, at.0);
    assert!(everything(&*store).await.records.contains_key(&key("a")));
    assert_eq!(lease.revoke().await, Ok(()));
}

#[tokio::test]
async fn who_is_not_to_be_trusted_is_told_so() {
    let (authority, other) = (Authority::new(), Authority::new());
    let etcd = authority.etcd();
    let (url, options) = (etcd.url(), authority.options());
    let wrong_ca = MetaOptions { ca: other.options().ca, ..options.clone() };
    let no_cert = MetaOptions { ca: options.ca.clone(), ..MetaOptions::default() };
    let foreign = MetaOptions { ca: options.ca.clone(), ..other.options() };
    let (wrong_ca, no_cert, foreign) =
        tokio::join!(denial(&url, &wrong_ca), denial(&url, &no_cert), denial(&url, &foreign));
    assert!(wrong_ca.contains("check the ca"), "{wrong_ca}");
    for refused in [no_cert, foreign] {
        assert!(refused.contains("check the cert and the key"), "{refused}");
    }
    // Of the system's authorities none has signed it; a bare system has none at all.
    let system = MetaOptions { ca: None, ..options.clone() };
    match connect(&url, &system).await {
        Ok(_) => assert!(denial(&url, &system).await.contains("check the ca")),
        Err(error) => assert!(error.to_string().contains("native certs"), "{error}"),
    }
}

#[tokio::test]
async fn the_wrong_scheme_is_told() {
    let authority = Authority::new();
    let (plain, tls) = (Etcd::start(), authority.etcd());
    let options = authority.options();
    let read = async |url: String, options: &MetaOptions| {
        let store = connect(&url, options).await.expect("url and options are fine");
        store.read(&[key("a")], &[]).await.expect_err("one of them speaks TLS, the other does not")
    };
    let [etcds, etcd] =
        [plain.url().replace("etcd://", "etcds://"), tls.url().replace("etcds://", "etcd://")];
    let default = MetaOptions::default();
    let (with, without) = tokio::join!(read(etcds, &options), read(etcd, &default));
    assert!(with.to_string().contains("speaks TLS"), "{with}");
    for error in [with, without] {
        assert!(matches!(error, MetaError::Unavailable(_)), "{error}");
    }
    let refused = connect(&plain.url(), &options).await.map(|_| ());
    assert!(matches!(refused, Err(MetaError::BadOption { option: "ca", .. })), "{refused:?}");
}

#[tokio::test]
async fn files_that_are_no_certificates_are_refused_by_name() {
    let (authority, other) = (Authority::new(), Authority::new());
    std::fs::write(authority.file("text"), "no certificate").unwrap();
    std::fs::write(
        authority.file("broken"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let good = authority.options();
    let file = |name: &str| Some(authority.file(name));
    for (option, named, options) in [
        ("ca", "missing", MetaOptions { ca: file("missing"), ..good.clone() }),
        ("ca", "text", MetaOptions { ca: file("text"), ..good.clone() }),
        ("ca", "broken", MetaOptions { ca: file("broken"), ..good.clone() }),
        ("cert", "client.key", MetaOptions { cert: file("client.key"), ..good.clone() }),
        ("key", "client.pem", MetaOptions { key: file("client.pem"), ..good.clone() }),
        ("key", "client.key", MetaOptions { key: other.options().key, ..good.clone() }),
    ] {
        let refused = connect("etcds://127.0.0.1:1/x", &options).await.map(|_| ()).expect_err(named);
        assert!(
            matches!(&refused, MetaError::BadOption { option: which, why } if *which == option && why.contains(named)),
            "{refused}"
        );
    }
}
