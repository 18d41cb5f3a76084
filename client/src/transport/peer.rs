//! Who the other side is, as its certificate says.

use quinn::Connection;
use rustls::pki_types::CertificateDer;
use std::fmt;
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
