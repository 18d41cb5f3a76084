//! Who we are, and whom we trust: TLS 1.3 with certificates of one CA on both sides.
//!
//! The cryptography is aws-lc-rs, named explicitly, because a process-wide default may not be
//! there. AES-128-GCM comes first: it is 12 to 20 % cheaper than the alternatives on machines with
//! AES instructions, and ChaCha20 costs twice as much there.

use piculet_quorum::wire::ALPN;
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Our certificate with its key, and the CA that both sides' certificates must come from.
#[derive(Clone)]
pub struct Identity {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    key: Arc<CertifiedKey>,
    files: Files,
}

/// Where an identity came from: errors name the file.
#[derive(Clone, Debug)]
struct Files {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

/// Why files are not an identity.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read {what} from {}: {error}", path.display())]
    Read {
        /// What was expected in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file does not hold what was expected.
    #[error("{} holds no {what} in PEM form: {detail}", path.display())]
    Content {
        /// What was expected in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The key is not the certificate's.
    #[error("the private key in {} is not that of the certificate in {}: give the two that were made together", key.display(), cert.display())]
    KeyMismatch {
        /// The file with the certificate.
        cert: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// The certificate is of no use.
    #[error("the certificate in {} {problem}", path.display())]
    Certificate {
        /// The file with the certificate.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
}

const CA: &str = "CA certificate";
const CERTIFICATE: &str = "certificate";
const KEY: &str = "private key";

impl Identity {
    /// Reads an identity from PEM files: the CA's certificates, our certificate with any
    /// intermediate ones behind it, and our private key. The files are read at once, not watched.
    ///
    /// # Errors
    /// When a file cannot be read or does not hold what it should, when key and certificate do not
    /// belong together, or when the certificate has expired, is not valid yet, does not come from
    /// the CA or may not identify a client.
    pub fn load(ca: &Path, cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let files = Files { ca: ca.to_owned(), cert: cert.to_owned(), key: key.to_owned() };
        let provider = Arc::new(provider());
        let mut roots = RootCertStore::empty();
        for certificate in certificates(CA, ca)? {
            roots.add(certificate).map_err(|error| content(CA, ca, error))?;
        }
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(KEY, key, error))?;
        let key = CertifiedKey::from_der(certificates(CERTIFICATE, cert)?, private, &provider)
            .map_err(|error| files.unusable(error))?;
        let identity = Self { provider, roots: Arc::new(roots), key: Arc::new(key), files };
        identity.check_as_client()?;
        Ok(identity)
    }

    /// Our own certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        // `load` has read at least one.
        &self.key.cert[0]
    }

    fn check_as_client(&self) -> Result<(), TlsError> {
        let (end_entity, chain) = (&self.key.cert[0], &self.key.cert[1..]);
        self.client_verifier()?
            .verify_client_cert(end_entity, chain, UnixTime::now())
            .map_err(|error| self.files.invalid(&error, "client"))?;
        Ok(())
    }

    fn check_as_server(&self) -> Result<(), TlsError> {
        let (end_entity, chain) = (&self.key.cert[0], &self.key.cert[1..]);
        let algorithms = self.provider.signature_verification_algorithms.all;
        ParsedCertificate::try_from(end_entity)
            .and_then(|parsed| {
                let now = UnixTime::now();
                verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, chain, now, algorithms)
            })
            .map_err(|error| self.files.invalid(&error, "server"))
    }

    fn client_verifier(&self) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
        WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone())
            .build()
            .map_err(|error| content(CA, &self.files.ca, error))
    }

    /// What a server needs: it demands a certificate of the CA from every client.
    ///
    /// # Errors
    /// When our certificate may not identify a server.
    pub(super) fn server(&self) -> Result<ServerConfig, TlsError> {
        self.check_as_server()?;
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has TLS 1.3 suites")
            .with_client_cert_verifier(self.client_verifier()?)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.key.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.ignore_client_order = true;
        // Sessions live long: resuming one would save nothing.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// What a client needs: it trusts servers with a certificate of the CA and shows its own.
    ///
    /// # Errors
    /// When the CA's certificates are of no use.
    pub(super) fn client(&self) -> Result<ClientConfig, TlsError> {
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots.clone(), self.provider.clone())
            .build()
            .map_err(|error| content(CA, &self.files.ca, error))?;
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has TLS 1.3 suites")
            .with_webpki_verifier(verifier)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.key.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Files {
    fn unusable(&self, error: rustls::Error) -> TlsError {
        match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::KeyMismatch { cert: self.cert.clone(), key: self.key.clone() }
            }
            rustls::Error::InvalidCertificate(_) => content(CERTIFICATE, &self.cert, error),
            _ => content(KEY, &self.key, error),
        }
    }

    fn invalid(&self, error: &rustls::Error, role: &str) -> TlsError {
        use CertificateError::{
            BadSignature, Expired, ExpiredContext, InvalidPurpose, InvalidPurposeContext, NotValidYet,
            NotValidYetContext, UnknownIssuer,
        };
        let problem = match error {
            rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
                format!("has expired: make a new one, or correct this machine's clock ({error})")
            }
            rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
                format!("is not valid yet: correct this machine's clock ({error})")
            }
            rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature) => {
                format!("was not issued by the CA in {}: give the CA that issued it", self.ca.display())
            }
            rustls::Error::InvalidCertificate(InvalidPurpose | InvalidPurposeContext { .. }) => {
                format!("may not identify a {role}: make one with extended key usage {role}Auth")
            }
            other => format!("cannot be used as a {role}: {other}"),
        };
        TlsError::Certificate { path: self.cert.clone(), problem }
    }
}

fn provider() -> CryptoProvider {
    let cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    CryptoProvider { cipher_suites, ..default_provider() }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let list: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(what, path, error))?;
    if list.is_empty() {
        return Err(unreadable(what, path, pem::Error::NoItemsFound));
    }
    Ok(list)
}

fn unreadable(what: &'static str, path: &Path, error: pem::Error) -> TlsError {
    match error {
        pem::Error::Io(error) => TlsError::Read { what, path: path.to_owned(), error },
        pem::Error::NoItemsFound => content(what, path, "there is no such section in the file"),
        other => content(what, path, other),
    }
}

fn content(what: &'static str, path: &Path, detail: impl fmt::Display) -> TlsError {
    TlsError::Content { what, path: path.to_owned(), detail: detail.to_string() }
}
