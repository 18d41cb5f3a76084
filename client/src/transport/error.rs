//! Why endpoints and connections do not come about.

use super::config::OptionsError;
use super::tls::TlsError;
use quinn::{ConnectionError, VarInt};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Code with which a connection is closed when its side goes away as planned.
pub const CLOSE_DONE: VarInt = VarInt::from_u32(0);
/// Code with which a stream is reset when its request is given up.
pub const RESET_ABANDONED: VarInt = VarInt::from_u32(1);

/// First and last number of the QUIC errors that carry a TLS alert in their low byte.
const CRYPTO_ERRORS: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;

/// Why an endpoint cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// A setting is outside its bounds.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The identity is of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The port is taken.
    #[error("udp address {address} is in use: stop the process that listens there, or choose another port")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The socket cannot be made.
    #[error("cannot open a udp socket on {address}: {error}")]
    Socket {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
}

/// Why there is no connection to an address.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address has no sound form.
    #[error("{address:?} is not an address: {problem}; expected host:port or [ipv6]:port")]
    Address {
        /// The address.
        address: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The host's name stands for no address.
    #[error("cannot resolve {address}: {error}")]
    Resolve {
        /// The address.
        address: String,
        /// What the resolver says.
        error: std::io::Error,
    },
    /// Our side cannot even try.
    #[error("cannot connect to {address}: {error}")]
    Local {
        /// The address.
        address: String,
        /// What is wrong.
        error: quinn::ConnectError,
    },
    /// The handshake failed.
    #[error("cannot connect to {address}: {error}")]
    Handshake {
        /// The address.
        address: String,
        /// Why.
        error: HandshakeError,
    },
}

/// Why a handshake failed; the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The other side does not answer.
    #[error(
        "no answer within {waited:?}: its UDP port may be closed, UDP is blocked on the way, or the machine is down; that TCP gets through says nothing"
    )]
    NoAnswer {
        /// How long we waited.
        waited: Duration,
    },
    /// The machine is there and says that nobody listens on the port.
    #[error("nobody listens on that UDP port: start the node, or correct the port")]
    NobodyListens,
    /// The two sides have no protocol in common.
    #[error(
        "the other side speaks another version of the protocol, this one speaks {}: run the same version on both sides",
        alpn()
    )]
    OtherProtocol,
    /// The other side ended the TLS handshake.
    #[error("the other side refused us: {alert}")]
    TheyRefused {
        /// Why.
        alert: Alert,
    },
    /// Our side ended the TLS handshake.
    #[error("we refused the other side: {alert} ({detail})")]
    WeRefused {
        /// Why, as the other side has been told.
        alert: Alert,
        /// Why, in more words.
        detail: String,
    },
    /// Anything else.
    #[error("the connection was lost in its handshake: {0}")]
    Lost(ConnectionError),
}

/// Reason that ends a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// The certificate is of a CA that is not trusted.
    UnknownCa,
    /// The certificate has expired, or is not valid yet.
    Expired,
    /// The certificate is not acceptable: for another host, of the wrong kind, or malformed.
    BadCertificate,
    /// There is no certificate.
    CertificateRequired,
    /// Another TLS alert, by its number.
    Other(u8),
}

impl Alert {
    fn from_number(number: u8) -> Self {
        match number {
            // decrypt_error is what a CA of the same name and another key comes to.
            48 | 51 => Self::UnknownCa,
            45 => Self::Expired,
            42..=44 | 46 => Self::BadCertificate,
            116 => Self::CertificateRequired,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCa => {
                f.write_str("the certificate is of another CA; both sides need certificates of the same one")
            }
            Self::Expired => f.write_str(
                "the certificate has expired or is not valid yet; check it, and the clocks of both machines",
            ),
            Self::BadCertificate => f.write_str(
                "the certificate is not acceptable: it was made for another host or use; use a host name or address that it was made for, or make a new one",
            ),
            Self::CertificateRequired => f.write_str("a certificate is required and there was none"),
            Self::Other(number) => write!(f, "TLS alert {number}"),
        }
    }
}

/// Number of the TLS alert for which the two sides have no protocol in common.
const NO_APPLICATION_PROTOCOL: u8 = 120;

impl HandshakeError {
    /// What an error of a connection that was never confirmed means; it came `waited` after the
    /// start.
    pub(super) fn of(error: ConnectionError, waited: Duration) -> Self {
        let (number, detail) = match &error {
            ConnectionError::TimedOut => return Self::NoAnswer { waited },
            ConnectionError::VersionMismatch => return Self::OtherProtocol,
            ConnectionError::TransportError(local) => (alert(local.code), Some(local.reason.clone())),
            ConnectionError::ConnectionClosed(remote) => (alert(remote.error_code), None),
            _ => (None, None),
        };
        match (number, detail) {
            (None, _) => Self::Lost(error),
            (Some(NO_APPLICATION_PROTOCOL), _) => Self::OtherProtocol,
            (Some(number), Some(detail)) => Self::WeRefused { alert: Alert::from_number(number), detail },
            (Some(number), None) => Self::TheyRefused { alert: Alert::from_number(number) },
        }
    }
}

fn alert(code: quinn::TransportErrorCode) -> Option<u8> {
    let code = u64::from(code);
    CRYPTO_ERRORS.contains(&code).then_some((code & 0xff) as u8)
}

fn alpn() -> std::borrow::Cow<'static, str> {
    String::from_utf8_lossy(piculet_quorum::wire::ALPN)
}
