//! A node's QUIC server: one thread with a runtime of its own, so that nothing else delays an
//! append. [`append`] is the hot path, [`read`] serves readers and takeovers, [`control`]
//! everything that is one question and one answer, [`propose`] metadata transactions.

mod append;
mod control;
mod propose;
mod read;
mod seldom;
#[cfg(test)]
mod tests;

use crate::core::Core;
use crate::peers::Peers;
use piculet_client::transport::{
    Accepted, Acceptor, Endpoint, EndpointError, FrameReader, Identity, RecvStream, SendStream, send_message,
};
use piculet_quorum::ids::Level;
use piculet_quorum::wire::codec;
use piculet_quorum::wire::frame::Kind;
use piculet_quorum::wire::message::{Refusal, Request, Response};
use seldom::Seldom;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// Most connections at a time.
const CONNECTIONS_MAX: usize = 4096;
/// How long a stream may stay open without a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A running server.
pub struct Server {
    local: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another process has the port.
    #[error("udp address {address} is in use: stop the process that has it, or choose another for `listen`")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// Its endpoint cannot be made.
    #[error(transparent)]
    Endpoint(EndpointError),
    /// Its thread or runtime cannot be made.
    #[error("cannot start the server's thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl From<EndpointError> for ServerError {
    fn from(error: EndpointError) -> Self {
        match error {
            EndpointError::InUse { address } => Self::InUse { address },
            error => Self::Endpoint(error),
        }
    }
}

/// Finds out early whether a port is taken: before the server is started, which is the last step of
/// a start and comes after the buffer's old life has ended.
///
/// # Errors
/// When another process has it. Whatever else is wrong with the address, the server's start tells.
pub fn check_free(address: SocketAddr) -> Result<(), ServerError> {
    match UdpSocket::bind(address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(ServerError::InUse { address }),
        _ => Ok(()),
    }
}

/// What every stream needs.
#[derive(Clone)]
struct Shared {
    core: Arc<Core>,
    /// The way to the other nodes; used in the background.
    peers: Arc<Peers>,
    /// Where everything runs that is not the hot path.
    background: Handle,
    /// Says why batches find no room.
    full: Arc<Seldom>,
}

impl Server {
    /// Starts serving. Called within the runtime that metadata and object storage are used on.
    ///
    /// # Errors
    /// When the port is in use, or the certificate is not one for a server.
    pub async fn start(core: Arc<Core>, identity: Identity, peers: Arc<Peers>) -> Result<Self, ServerError> {
        let shared = Shared { core, peers, background: Handle::current(), full: Arc::default() };
        let (stop, stopped) = watch::channel(false);
        let (ready, started) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("piculet-shard-0".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let config = &shared.core.config;
                match Endpoint::server(config.listen, &identity, &config.transport()) {
                    Err(error) => drop(ready.send(Err(error))),
                    Ok((endpoint, acceptor)) => {
                        drop(ready.send(Ok(endpoint.local_addr())));
                        serve(&shared, acceptor, stopped).await;
                        endpoint.close();
                        endpoint.wait_idle().await;
                    }
                }
            });
        })?;
        let local =
            started.await.map_err(|_| std::io::Error::other("the server's thread ended at once"))??;
        Ok(Self { local, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Closes every connection and ends the thread.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let ended = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(ended, Ok(Ok(()))) {
                tracing::error!("the server's thread ended badly");
            }
        }
    }
}

async fn serve(shared: &Shared, mut acceptor: Acceptor, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    // On this thread, so that an acknowledgement does not wait for another one to wake.
    let mut syncing = JoinSet::new();
    for level in shared.core.levels().filter(|level| *level == Level::Disk) {
        syncing.spawn(count_synced(Arc::clone(&shared.core), level));
    }
    loop {
        tokio::select! {
            accepted = acceptor.accept() => match accepted {
                None => break,
                Some(Err(error)) => tracing::info!(%error, "a client was not accepted"),
                Some(Ok(accepted)) if connections.len() >= CONNECTIONS_MAX => {
                    tracing::warn!(remote = %accepted.remote, "refused a connection: {CONNECTIONS_MAX} are open");
                    accepted.connection.close(1_u32.into(), b"too many connections");
                }
                Some(Ok(accepted)) => {
                    connections.spawn(connection(shared.clone(), accepted));
                }
            },
            Some(ended) = connections.join_next() => check_ended(ended),
            Some(ended) = syncing.join_next() => check_ended(ended),
            _ = stopped.changed() => break,
        }
    }
    connections.shutdown().await;
    syncing.shutdown().await;
}

/// Lets what a level's buffer syncs count as it goes.
async fn count_synced(core: Arc<Core>, level: Level) {
    let Some(mut synced) = core.buffer(level).map(|buffer| buffer.synced()) else { return };
    while synced.changed().await.is_ok() {
        core.count_synced(level);
    }
}

/// Streams and connections end by returning or with the server; a panic has aborted the process.
fn check_ended(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        assert!(error.is_cancelled(), "a server task failed: {error}");
    }
}

async fn connection(shared: Shared, accepted: Accepted) {
    let Accepted { connection, peer, remote } = accepted;
    tracing::debug!(%peer, %remote, "connected");
    let name = peer.common_name.as_deref().unwrap_or("a client without a name");
    let who: Arc<str> = format!("{name} at {remote}").into();
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            opened = connection.accept_bi() => match opened {
                Ok((send, receive)) => {
                    streams.spawn(stream(shared.clone(), Arc::clone(&who), send, receive));
                }
                Err(error) => {
                    tracing::debug!(%peer, %remote, %error, "disconnected");
                    break;
                }
            },
            Some(ended) = streams.join_next() => check_ended(ended),
        }
    }
    // The streams of a lost connection end by themselves; dropping the set ends those that wait
    // for something else.
}

async fn stream(shared: Shared, who: Arc<str>, mut send: SendStream, receive: RecvStream) {
    let mut frames = FrameReader::new(receive);
    let first = tokio::time::timeout(REQUEST_TIMEOUT, frames.next()).await;
    let request = match first {
        Ok(Ok(Some((Kind::Request, body)))) => {
            codec::decode::<Request>(&body).map_err(|error| Refusal::Invalid(error.to_string()))
        }
        Ok(Ok(Some((kind, _)))) => {
            Err(Refusal::Invalid(format!("a stream begins with a Request frame, not with {kind:?}")))
        }
        Ok(Ok(None)) => return,
        Ok(Err(error)) => Err(Refusal::Invalid(error.to_string())),
        // It may be sound, and late: a proposal that is invalid is never made again.
        Err(_) => Err(Refusal::Unavailable(format!("no request within {REQUEST_TIMEOUT:?}"))),
    };
    match request {
        Ok(Request::Append(log)) => append::serve(&shared, log, &who, send, frames).await,
        Ok(Request::Subscribe { log, segment, from }) => {
            read::subscribe(&shared, log, segment, from, &mut send).await;
        }
        Ok(Request::Fetch { at, from, to }) => read::fetch(&shared, at, from, to, &mut send).await,
        Ok(Request::Watermarks { log, segment }) => read::watermarks(&shared, log, segment, &mut send).await,
        Ok(request) => {
            let response = control::answer(&shared, request).await.unwrap_or_else(Response::Refused);
            respond(&mut send, &response).await;
        }
        Err(why) => {
            tracing::info!(peer = %who, %why, "refused what is not a request");
            respond(&mut send, &Response::Refused(why)).await;
        }
    }
}

/// Answers and ends the stream. That the client has gone is its own affair.
async fn respond(send: &mut SendStream, response: &Response) {
    if let Err(error) = send_message(send, Kind::Response, response).await {
        tracing::debug!(%error, "an answer was not taken");
        return;
    }
    finish(send).await;
}

/// Ends a stream, and waits until the client has all of it.
async fn finish(send: &mut SendStream) {
    // It fails when the client has stopped the stream: then nobody waits for its end.
    if send.finish().is_ok() {
        drop(send.stopped().await);
    }
}
