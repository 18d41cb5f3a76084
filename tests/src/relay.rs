//! A way to a server that can be cut.

use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Passes TCP connections on to a server, unless it is cut: then connections break off and new
/// ones end at once, as they do when the server is gone. Dropping it ends it.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    cut: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Relay {
    /// A relay to `server`, on a port of its own.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let addr = listener.local_addr().expect("it is bound");
        let cut = watch::Sender::new(false);
        let mut task = JoinSet::new();
        task.spawn(serve(listener, server, cut.subscribe()));
        Self { addr, cut, _task: task }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Cuts the way.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Mends it.
    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

async fn serve(listener: TcpListener, server: SocketAddr, cut: watch::Receiver<bool>) {
    let mut passed = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted && !*cut.borrow() {
                    passed.spawn(pass(stream, server, cut.clone()));
                }
            }
            Some(_) = passed.join_next() => {}
        }
    }
}

async fn pass(mut from: TcpStream, server: SocketAddr, mut cut: watch::Receiver<bool>) {
    let Ok(mut to) = TcpStream::connect(server).await else { return };
    tokio::select! {
        // However a connection ends, both sides of it see that.
        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
        _ = cut.wait_for(|cut| *cut) => {}
    }
}
