//! Why an address does not answer, as far as the network says so.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// How long a machine has to say that nobody listens.
const WAIT: Duration = Duration::from_millis(250);

/// Whether the machine at `remote` says that nobody listens there. Only a socket that is connected
/// is told so, and not every network lets the news through: `false` means nothing.
pub(super) async fn nobody_listens(remote: SocketAddr) -> bool {
    let local: SocketAddr =
        if remote.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let refused = async {
        let socket = UdpSocket::bind(local).await?;
        socket.connect(remote).await?;
        // One byte is no QUIC packet: whoever listens passes over it.
        socket.send(&[0]).await?;
        socket.recv(&mut [0; 64]).await
    };
    let answer = timeout(WAIT, refused).await;
    matches!(answer, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
}
