//! What goes over QUIC. ALPN [`ALPN`]; the connection is mutually authenticated by TLS.
//!
//! Every stream is bidirectional and opened by the client. It
//! carries frames ([`frame`]): a prefix of eight bytes and a body. The first frame is a
//! [`Request`](message::Request); what follows depends on it. Appends, acknowledgements and data
//! have fixed binary forms; everything else is bincode with a limit ([`codec`]).

pub mod codec;
pub mod frame;
pub mod message;

/// The protocol's name in the TLS handshake; its number is the wire version.
pub const ALPN: &[u8] = b"piculet/1";
