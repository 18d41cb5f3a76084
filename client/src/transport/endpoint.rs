//! Endpoints: one socket, from which connections are opened and, on a node, accepted.

use super::accept::Acceptor;
use super::config::TransportOptions;
use super::error::{CLOSE_DONE, ConnectError, EndpointError, HandshakeError};
use super::probe;
use super::socket::{self, Socket, SocketBuffers};
use super::tls::Identity;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, ServerConfig, TokioRuntime};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Most addresses of one host name that are tried.
const ADDRESSES_MAX: usize = 4;
/// The next address of a host is tried when the one before has not answered for this long.
const ADDRESS_STAGGER: Duration = Duration::from_millis(100);
/// How often we look whether the server has confirmed a handshake: QUIC gives no notice of it.
const CONFIRM_POLL: Duration = Duration::from_millis(1);
/// Most connection attempts that wait in the endpoint; more are refused.
const INCOMING_MAX: usize = 1024;

/// A socket, from which connections are opened. Cheap to clone; the clones share the socket.
#[derive(Clone, Debug)]
pub struct Endpoint {
    quinn: quinn::Endpoint,
    outgoing: ClientConfig,
    connect_timeout: Duration,
    local: SocketAddr,
    buffers: SocketBuffers,
}

impl Endpoint {
    /// An endpoint that only opens connections, on a port of the system's choice. It reaches IPv6
    /// and IPv4 addresses, or IPv4 alone where the machine has nothing else.
    ///
    /// # Errors
    /// When a setting is out of bounds or the socket cannot be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn client(identity: &Identity, options: &TransportOptions) -> Result<Self, EndpointError> {
        options.check()?;
        let client = identity.client()?;
        match Self::open((Ipv6Addr::UNSPECIFIED, 0).into(), client.clone(), None, options) {
            Err(EndpointError::Socket { error, .. }) => {
                tracing::debug!(%error, "no ipv6 on this machine: using ipv4 alone");
                Self::open((Ipv4Addr::UNSPECIFIED, 0).into(), client, None, options)
            }
            other => other,
        }
    }

    /// An endpoint that accepts connections on `listen`, and opens them from there too. Port 0
    /// lets the system choose; an IPv6 wildcard serves IPv4 too.
    ///
    /// # Errors
    /// When a setting is out of bounds, our certificate may not identify a server, the port is
    /// taken or the socket cannot be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn server(
        listen: SocketAddr,
        identity: &Identity,
        options: &TransportOptions,
    ) -> Result<(Self, Acceptor), EndpointError> {
        options.check()?;
        let endpoint = Self::open(listen, identity.client()?, Some(identity.server()?), options)?;
        let acceptor = Acceptor::new(endpoint.quinn.clone(), options.connect_timeout);
        Ok((endpoint, acceptor))
    }

    /// The same with any TLS settings.
    pub(super) fn open(
        address: SocketAddr,
        client: rustls::ClientConfig,
        server: Option<rustls::ServerConfig>,
        options: &TransportOptions,
    ) -> Result<Self, EndpointError> {
        let explain = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => EndpointError::InUse { address },
            _ => EndpointError::Socket { address, error },
        };
        let client = QuicClientConfig::try_from(client).expect("the provider has QUIC's initial suite");
        let mut outgoing = ClientConfig::new(Arc::new(client));
        outgoing.transport_config(options.outgoing());
        let server = server.map(|server| {
            let server = QuicServerConfig::try_from(server).expect("the provider has QUIC's initial suite");
            let mut incoming = ServerConfig::with_crypto(Arc::new(server));
            incoming.transport_config(options.incoming()).max_incoming(INCOMING_MAX);
            incoming
        });
        let (socket, buffers) = socket::bind(address, options.socket_bytes).map_err(explain)?;
        let socket = Arc::new(Socket::new(socket, options.max_datagram).map_err(explain)?);
        let runtime = Arc::new(TokioRuntime);
        let quinn = quinn::Endpoint::new_with_abstract_socket(options.endpoint(), server, socket, runtime)
            .map_err(explain)?;
        let local = quinn.local_addr().map_err(explain)?;
        Ok(Self { quinn, outgoing, connect_timeout: options.connect_timeout, local, buffers })
    }

    /// The address of the socket.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What the kernel granted for the socket's buffers.
    #[must_use]
    pub fn buffers(&self) -> SocketBuffers {
        self.buffers
    }

    /// Opens a connection to `address`, `host:port` or `[ipv6]:port`; the server's certificate
    /// must be valid for the host as it is written there. Returns when the server has accepted our
    /// certificate too. Dropping the future gives the attempt up.
    ///
    /// # Errors
    /// When the address has no sound form or stands for nothing, the server does not answer within
    /// the connect time-out, or one side refuses the other. The first of several addresses of a host
    /// that says more than nothing counts.
    pub async fn connect(&self, address: &str) -> Result<Connection, ConnectError> {
        let start = Instant::now();
        let deadline = start + self.connect_timeout;
        let (host, port) = split(address)
            .map_err(|problem| ConnectError::Address { address: address.to_owned(), problem })?;
        let resolve = |error| ConnectError::Resolve { address: address.to_owned(), error };
        let found = timeout_at(deadline, self.resolve(host, port))
            .await
            .map_err(|_| resolve(io::ErrorKind::TimedOut.into()))?
            .map_err(resolve)?;
        let mut attempts: FuturesUnordered<_> = (0..)
            .zip(found.clone())
            .map(|(nth, remote)| async move {
                sleep(ADDRESS_STAGGER * nth).await;
                self.attempt(address, remote, host, start).await
            })
            .collect();
        let mut failure = None;
        while let Ok(Some(result)) = timeout_at(deadline, attempts.next()).await {
            match result {
                Ok(connection) => return Ok(connection),
                Err(error) if failure.is_none() || tells_more(&error) => failure = Some(error),
                Err(_) => {}
            }
        }
        if let Some(failure) = failure.filter(tells_more) {
            return Err(failure);
        }
        let silent = HandshakeError::NoAnswer { waited: self.connect_timeout };
        let nobody = join_all(found.into_iter().map(probe::nobody_listens)).await;
        let error =
            if nobody.into_iter().all(|nobody| nobody) { HandshakeError::NobodyListens } else { silent };
        Err(ConnectError::Handshake { address: address.to_owned(), error })
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let reachable = |remote: &SocketAddr| self.local.is_ipv6() || remote.is_ipv4();
        let found = tokio::net::lookup_host((host, port)).await?;
        let found: Vec<_> = found.filter(reachable).take(ADDRESSES_MAX).collect();
        if found.is_empty() {
            return Err(io::Error::other("the name has no address that this machine can reach"));
        }
        Ok(found)
    }

    async fn attempt(
        &self,
        address: &str,
        remote: SocketAddr,
        host: &str,
        start: Instant,
    ) -> Result<Connection, ConnectError> {
        let connecting = self
            .quinn
            .connect_with(self.outgoing.clone(), remote, host)
            .map_err(|error| ConnectError::Local { address: address.to_owned(), error })?;
        let established = async {
            let connection = connecting.await?;
            confirmed(&connection).await?;
            Ok(connection)
        };
        established.await.map_err(|error| ConnectError::Handshake {
            address: address.to_owned(),
            error: HandshakeError::of(error, start.elapsed()),
        })
    }

    /// Closes every connection, tells the peers, and opens and accepts no more.
    pub fn close(&self) {
        self.quinn.close(CLOSE_DONE, b"the endpoint is closed");
    }

    /// Waits until every connection is closed and its peer has had the time to learn of it.
    pub async fn wait_idle(&self) {
        self.quinn.wait_idle().await;
    }
}

/// Waits until the server has confirmed the handshake. A client's own part of it is over before
/// the server has seen its certificate.
async fn confirmed(connection: &Connection) -> Result<(), quinn::ConnectionError> {
    while connection.stats().frame_rx.handshake_done == 0 {
        tokio::select! {
            biased;
            error = connection.closed() => return Err(error),
            () = sleep(CONFIRM_POLL) => {}
        }
    }
    Ok(())
}

/// Whether an error says more than that nobody answered.
fn tells_more(error: &ConnectError) -> bool {
    !matches!(error, ConnectError::Handshake { error: HandshakeError::NoAnswer { .. }, .. })
}

/// Splits `host:port` or `[ipv6]:port`.
fn split(address: &str) -> Result<(&str, u16), &'static str> {
    let (host, port) = address.rsplit_once(':').ok_or("it has no port")?;
    let port = port.parse().map_err(|_| "its port is not a number from 1 to 65535")?;
    if port == 0 {
        return Err("its port is 0");
    }
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match inner.unwrap_or(host) {
        "" => Err("it has no host"),
        host if inner.is_none() && host.contains(':') => Err("an ipv6 host needs brackets"),
        host => Ok((host, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split() {
        assert_eq!(split("node-1.example:7781"), Ok(("node-1.example", 7781)));
        assert_eq!(split("[::1]:7781"), Ok(("::1", 7781)));
        assert_eq!(split("10.0.0.1:1"), Ok(("10.0.0.1", 1)));
        for bad in ["", "host", ":7781", "[]:7781", "::1:7781", "host:", "host:0", "host:65536", "host:x"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
