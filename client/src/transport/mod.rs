//! QUIC with mutual TLS, as clients and nodes use it: endpoints, connections and frames on their
//! streams.
//!
//! | question | where |
//! |---|---|
//! | whom do we trust, and who are we | [`Identity`] |
//! | how large are datagrams, windows and time-outs | [`TransportOptions`] |
//! | how is a connection opened or accepted, and why was it not | [`Endpoint`], [`Acceptor`], [`HandshakeError`] |
//! | how is a frame read or written | [`FrameReader`], [`send_message`] |
//! | how is a question asked | [`request`] |

mod accept;
mod config;
mod endpoint;
mod error;
mod frames;
mod peer;
mod probe;
mod request;
mod socket;
#[cfg(test)]
mod tests;
mod tls;

pub use accept::{AcceptError, Accepted, Acceptor};
pub use config::{
    IDLE_TIMEOUT, INITIAL_WINDOW, MAX_DATAGRAM, OptionsError, RECEIVE_WINDOW, SEND_WINDOW, SOCKET_BYTES,
    STREAM_WINDOW, STREAMS_MAX, TransportOptions,
};
pub use endpoint::Endpoint;
pub use error::{Alert, CLOSE_DONE, ConnectError, EndpointError, HandshakeError, RESET_ABANDONED};
pub use frames::{Frame, FrameReader, ReadFrameError, SendError, send_message};
pub use peer::PeerIdentity;
pub use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
pub use request::{CONTROL_PRIORITY, RequestError, request};
pub use socket::SocketBuffers;
pub use tls::{Identity, TlsError};
