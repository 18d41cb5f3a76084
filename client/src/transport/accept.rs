//! The accepting side of an endpoint.

use super::error::{Alert, HandshakeError};
use super::peer::PeerIdentity;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use quinn::Connection;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Most handshakes under way at a time; further connections are refused.
const HANDSHAKES_MAX: usize = 1024;

/// A connection from a client whose certificate has been verified.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The connection.
    pub connection: Connection,
    /// Who the client is.
    pub peer: PeerIdentity,
    /// Where it is.
    pub remote: SocketAddr,
}

/// A client that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no connection from {remote}: {error}")]
pub struct AcceptError {
    /// Where it is.
    pub remote: SocketAddr,
    /// Why.
    pub error: HandshakeError,
}

/// Yields connections as their handshakes end. Handshakes make progress only while
/// [`accept`](Self::accept) is awaited, many at a time.
pub struct Acceptor {
    quinn: quinn::Endpoint,
    handshake_timeout: Duration,
    handshakes: FuturesUnordered<BoxFuture<'static, Result<Accepted, AcceptError>>>,
}

impl Acceptor {
    pub(super) fn new(quinn: quinn::Endpoint, handshake_timeout: Duration) -> Self {
        Self { quinn, handshake_timeout, handshakes: FuturesUnordered::new() }
    }

    /// The next connection, or the next failure, after which others go on; `None` once the
    /// endpoint is closed. Cancel-safe: handshakes under way are kept.
    pub async fn accept(&mut self) -> Option<Result<Accepted, AcceptError>> {
        loop {
            let incoming = tokio::select! {
                biased;
                Some(result) = self.handshakes.next() => return Some(result),
                incoming = self.quinn.accept() => incoming,
            };
            let Some(incoming) = incoming else {
                // Closing the endpoint has ended the handshakes under way too.
                return self.handshakes.next().await;
            };
            if self.handshakes.len() >= HANDSHAKES_MAX {
                tracing::warn!(remote = %incoming.remote_address(), "refused a connection: {HANDSHAKES_MAX} handshakes are under way");
                incoming.refuse();
            } else {
                self.handshakes.push(handshake(incoming, self.handshake_timeout).boxed());
            }
        }
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("handshakes", &self.handshakes.len()).finish_non_exhaustive()
    }
}

async fn handshake(incoming: quinn::Incoming, limit: Duration) -> Result<Accepted, AcceptError> {
    let (start, remote) = (Instant::now(), incoming.remote_address());
    let failed = |error| AcceptError { remote, error };
    let lost = |error| failed(HandshakeError::of(error, start.elapsed()));
    let connecting = incoming.accept().map_err(lost)?;
    let connection = timeout(limit, connecting)
        .await
        .map_err(|_| failed(HandshakeError::NoAnswer { waited: limit }))?
        .map_err(lost)?;
    match PeerIdentity::of_connection(&connection) {
        Some(peer) => Ok(Accepted { connection, peer, remote }),
        None => {
            // TLS has demanded a certificate, so this is never seen; but a client without a
            // verified one must not get in.
            let detail = "no certificate".to_owned();
            Err(failed(HandshakeError::WeRefused { alert: Alert::CertificateRequired, detail }))
        }
    }
}
