//! Certificates of a cluster: its CA, and what the CA issues to nodes and clients.
//!
//! Keys are ECDSA P-256, readable by their owner only, and no file is ever overwritten.

use piculet_quorum::ids::{NameError, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

/// Days that a CA is valid by default.
pub const CA_DAYS: u32 = 3650;
/// Days that a node's or client's certificate is valid by default.
pub const LEAF_DAYS: u32 = 365;
/// Most days that a certificate may be valid.
pub const DAYS_MAX: u32 = 36_500;

/// Certificates count from a little before now, for clocks that differ.
const CLOCK_SKEW: Duration = Duration::hours(1);

const CA: &str = "ca";
const ORGANISATION: &str = "piculet";

/// Why a certificate is not made.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The name is none that a node or client may have.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A host is neither an IP address nor a DNS name.
    #[error("host {0:?} is neither an IP address nor a DNS name")]
    Host(String),
    /// A node's certificate needs an address.
    #[error("node {0:?} has no host: name every IP address or DNS name under which it is reached")]
    NoHost(String),
    /// The number of days is out of bounds.
    #[error("a certificate cannot be valid for {0} days: expected 1 to {DAYS_MAX}")]
    Days(u32),
    /// The file is there already.
    #[error("{} exists and is not overwritten: move it away, or choose another name or directory", .0.display())]
    Exists(PathBuf),
    /// There is no CA in the directory.
    #[error("no CA in {}: expected ca.pem and ca.key; make them with `piculet certs ca`", .0.display())]
    NoCa(PathBuf),
    /// The files of the CA are not what they should be.
    #[error("the CA in {} cannot be used: {source}", dir.display())]
    BadCa {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        source: rcgen::Error,
    },
    /// The certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A file cannot be read or written.
    #[error("cannot access {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Makes a CA, valid for `days` ([`CA_DAYS`]): `ca.pem` and `ca.key` in `dir`, which is made if it
/// is missing. Whoever has `ca.key` can join the cluster under any name.
///
/// # Errors
/// When there is one already, or a file cannot be written.
pub fn create_ca(dir: &Path, days: u32) -> Result<(), CertError> {
    let mut params = params("piculet CA", None, days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let cert = params.self_signed(&key)?;
    store(dir, CA, &cert.pem(), &key)
}

/// Issues `{name}.pem` and `{name}.key` in `dir`, by the CA there, to a node that is reached at
/// `hosts` (IP addresses or DNS names), valid for `days` ([`LEAF_DAYS`]). Nodes are clients of each
/// other too.
///
/// # Errors
/// When the name or a host is not valid, there is no CA, or a file exists.
pub fn issue_node(dir: &Path, name: &str, hosts: &[String], days: u32) -> Result<(), CertError> {
    if hosts.is_empty() {
        return Err(CertError::NoHost(name.to_owned()));
    }
    let mut params = params(name, Some("node"), days)?;
    params.subject_alt_names = hosts.iter().map(|host| subject(host)).collect::<Result<_, _>>()?;
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    issue(dir, name, params)
}

/// Issues `{name}.pem` and `{name}.key` in `dir`, by the CA there, to a client, valid for `days`
/// ([`LEAF_DAYS`]).
///
/// # Errors
/// When the name is not valid, there is no CA, or a file exists.
pub fn issue_client(dir: &Path, name: &str, days: u32) -> Result<(), CertError> {
    let mut params = params(name, Some("client"), days)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    issue(dir, name, params)
}

fn params(name: &str, unit: Option<&str>, days: u32) -> Result<CertificateParams, CertError> {
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(CertError::Days(days));
    }
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::days(days.into());
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, ORGANISATION);
    if let Some(unit) = unit {
        params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn subject(host: &str) -> Result<SanType, CertError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let bad = || CertError::Host(host.to_owned());
    rustls::pki_types::DnsName::try_from(host).map_err(|_| bad())?;
    Ok(SanType::DnsName(host.try_into().map_err(|_| bad())?))
}

fn issue(dir: &Path, name: &str, mut params: CertificateParams) -> Result<(), CertError> {
    NodeId::new(name)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let issuer = load_ca(dir)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let cert = params.signed_by(&key, &issuer)?;
    store(dir, name, &cert.pem(), &key)
}

fn load_ca(dir: &Path) -> Result<Issuer<'static, KeyPair>, CertError> {
    let read = |path: PathBuf| match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(CertError::NoCa(dir.to_path_buf())),
        read => read.map_err(|source| CertError::Io { path, source }),
    };
    let (cert, key) = (read(cert_path(dir, CA))?, read(key_path(dir, CA))?);
    let bad = |source| CertError::BadCa { dir: dir.to_path_buf(), source };
    Issuer::from_ca_cert_pem(&cert, KeyPair::from_pem(&key).map_err(bad)?).map_err(bad)
}

fn cert_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.pem"))
}

fn key_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.key"))
}

/// Writes both files or, when that cannot be done, neither.
fn store(dir: &Path, name: &str, cert: &str, key: &KeyPair) -> Result<(), CertError> {
    fs::create_dir_all(dir).map_err(|source| CertError::Io { path: dir.to_path_buf(), source })?;
    let (cert_path, key_path) = (cert_path(dir, name), key_path(dir, name));
    write_new(&cert_path, cert, 0o644)?;
    write_new(&key_path, &key.serialize_pem(), 0o600).inspect_err(|_| {
        // The error to report is the first one; a certificate without its key harms nobody.
        let _ = fs::remove_file(&cert_path);
    })
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CertError> {
    let io = |source| CertError::Io { path: path.to_path_buf(), source };
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(CertError::Exists(path.to_path_buf()));
        }
        opened => opened.map_err(io)?,
    };
    file.write_all(text.as_bytes()).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::ScratchDir;
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use rustls::server::WebPkiClientVerifier;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    const HOSTS: [&str; 2] = ["127.0.0.1", "node.example"];

    /// A directory with a CA, a node and a client.
    fn issued() -> ScratchDir {
        let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        create_ca(dir.path(), CA_DAYS).expect("a CA");
        issue_node(dir.path(), "node-1", &HOSTS.map(str::to_owned), LEAF_DAYS).expect("a node");
        issue_client(dir.path(), "app", LEAF_DAYS).expect("a client");
        dir
    }

    fn cert(dir: &ScratchDir, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(cert_path(dir.path(), name)).expect("a certificate")
    }

    fn roots(dir: &ScratchDir) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(cert(dir, CA)).expect("a CA is a root");
        Arc::new(roots)
    }

    fn server_accepted(ca: &ScratchDir, cert: &CertificateDer<'_>, host: &str, at: UnixTime) -> bool {
        let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca), Arc::new(default_provider()));
        let name = ServerName::try_from(host).expect("a host");
        verifier.build().expect("a verifier").verify_server_cert(cert, &[], &name, &[], at).is_ok()
    }

    fn client_accepted(ca: &ScratchDir, cert: &CertificateDer<'_>, at: UnixTime) -> bool {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca), Arc::new(default_provider()));
        verifier.build().expect("a verifier").verify_client_cert(cert, &[], at).is_ok()
    }

    #[test]
    fn what_the_ca_issues_is_accepted_for_its_use_and_for_nothing_else() {
        let (dir, now) = (issued(), UnixTime::now());
        let (node, app) = (cert(&dir, "node-1"), cert(&dir, "app"));
        for host in HOSTS {
            assert!(server_accepted(&dir, &node, host, now), "{host}");
        }
        assert!(
            !server_accepted(&dir, &node, "127.0.0.2", now) && !server_accepted(&dir, &app, HOSTS[0], now)
        );
        assert!(client_accepted(&dir, &node, now) && client_accepted(&dir, &app, now));
    }

    #[test]
    fn a_foreign_ca_and_a_past_date_are_refused() {
        let (dir, foreign, now) = (issued(), issued(), UnixTime::now());
        let (node, app) = (cert(&foreign, "node-1"), cert(&foreign, "app"));
        assert!(!server_accepted(&dir, &node, HOSTS[0], now) && !client_accepted(&dir, &app, now));
        let days = |days: u32| {
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(
                now.as_secs() + u64::from(days) * 24 * 60 * 60,
            ))
        };
        let node = cert(&dir, "node-1");
        assert!(server_accepted(&dir, &node, HOSTS[0], days(LEAF_DAYS - 1)));
        assert!(!server_accepted(&dir, &node, HOSTS[0], days(LEAF_DAYS + 1)));
    }

    #[test]
    fn keys_fit_their_certificates_and_are_private() {
        let dir = issued();
        for name in [CA, "node-1", "app"] {
            let path = key_path(dir.path(), name);
            assert_eq!(path.metadata().expect("a key").permissions().mode() & 0o777, 0o600, "{name}");
            let key = PrivateKeyDer::from_pem_file(&path).expect("a key");
            let chain = vec![cert(&dir, name)];
            let fits = rustls::sign::CertifiedKey::from_der(chain, key, &default_provider());
            fits.expect("the key is the certificate's");
        }
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_half_written() {
        let dir = issued();
        let hosts = HOSTS.map(str::to_owned);
        for again in [
            create_ca(dir.path(), CA_DAYS),
            issue_node(dir.path(), "node-1", &hosts, LEAF_DAYS),
            issue_client(dir.path(), CA, LEAF_DAYS),
        ] {
            let error = again.expect_err("it exists").to_string();
            assert!(error.contains("not overwritten"), "{error}");
        }
        fs::remove_file(cert_path(dir.path(), "app")).expect("it is there");
        let error = issue_client(dir.path(), "app", LEAF_DAYS).expect_err("its key exists");
        assert!(matches!(&error, CertError::Exists(path) if path.ends_with("app.key")), "{error}");
        assert!(!cert_path(dir.path(), "app").exists());
    }

    #[test]
    fn bad_input_is_refused() {
        let (dir, empty) = (issued(), ScratchDir::create(&std::env::temp_dir()).expect("a directory"));
        let node = |name: &str, host: &str| issue_node(dir.path(), name, &[host.to_owned()], LEAF_DAYS);
        assert!(matches!(node("../up", "::1"), Err(CertError::Name(_))));
        assert!(matches!(node("n", "two words"), Err(CertError::Host(_))));
        assert!(matches!(issue_node(dir.path(), "n", &[], LEAF_DAYS), Err(CertError::NoHost(_))));
        for days in [0, DAYS_MAX + 1] {
            assert!(matches!(issue_client(dir.path(), "c", days), Err(CertError::Days(_))));
        }
        assert!(matches!(issue_client(empty.path(), "c", LEAF_DAYS), Err(CertError::NoCa(_))));
        fs::write(cert_path(dir.path(), CA), "no certificate").expect("it is written");
        assert!(matches!(issue_client(dir.path(), "c", LEAF_DAYS), Err(CertError::BadCa { .. })));
    }
}
