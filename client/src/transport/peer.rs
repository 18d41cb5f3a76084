//! Who the other side is, as its certificate says.

use quinn::Connection;
use rustls::pki_types::CertificateDer;
use std::fmt;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The peer of a connection, whose certificate the handshake has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Common name of the certificate's subject, when it has one.
    pub common_name: Option<String>,
    /// The certificate.
    pub certificate: CertificateDer<'static>,
}

impl PeerIdentity {
    /// What `certificate` says.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self { common_name: common_name(certificate), certificate: certificate.clone().into_owned() }
    }

    /// The peer of a connection; none before the handshake is over.
    #[must_use]
    pub fn of_connection(connection: &Connection) -> Option<Self> {
        let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        chain.first().map(Self::of)
    }
}

impl PeerIdentity {
    /// The certificate's subject, such as `CN=node-1`; none when the certificate cannot be parsed.
    #[must_use]
    pub fn subject(&self) -> Option<String> {
        let (_, parsed) = X509Certificate::from_der(&self.certificate).ok()?;
        Some(parsed.subject().to_string())
    }

    /// When the certificate expires; none when it cannot be parsed, or names a time before 1970.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        let (_, parsed) = X509Certificate::from_der(&self.certificate).ok()?;
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.common_name {
            Some(name) => write!(f, "{name:?}"),
            None => f.write_str("a certificate without a name"),
        }
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}
