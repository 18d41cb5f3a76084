//! Free ports on loopback.

use super::LocalError;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::sync::atomic::{AtomicU32, Ordering};

/// The ports to choose from: below those that the kernel gives to outgoing connections.
const FROM: u16 = 18_000;
const TO: u16 = 32_000;

/// A port of 127.0.0.1, for TCP and UDP, that nobody else on this machine who asks here is given
/// as long as this value lives. It is not bound: whoever it is meant for binds it, as often as it
/// restarts.
#[derive(Debug)]
pub struct Port {
    number: u16,
    // An abstract socket: its name is taken by one process at a time and goes with it.
    _claim: UnixDatagram,
}

impl Port {
    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Its address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        loopback(self.number)
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Finds a free port.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<Port, LocalError> {
    // Processes start at different places, so that they seldom ask for the same.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(TO - FROM);
    let start = std::process::id().wrapping_mul(977);
    for _ in 0..count {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let number = FROM + u16::try_from(start.wrapping_add(step) % count).expect("below 2^16");
        if let Some(port) = claim(number) {
            return Ok(port);
        }
    }
    Err(LocalError::NoPort { from: FROM, to: TO - 1 })
}

/// Takes one port, unless it is claimed or in use; whatever the reason, the next may do.
fn claim(number: u16) -> Option<Port> {
    let name = UnixAddr::from_abstract_name(format!("piculet-port-{number}")).ok()?;
    let claim = UnixDatagram::bind_addr(&name).ok()?;
    is_free(number).then_some(Port { number, _claim: claim })
}

fn is_free(number: u16) -> bool {
    TcpListener::bind(loopback(number)).is_ok() && UdpSocket::bind(loopback(number)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_port_is_given_twice() {
        let ports: Vec<Port> = (0..200).map(|_| free_port().expect("a free port")).collect();
        let numbers: HashSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len());
        for port in &ports {
            assert!(claim(port.number()).is_none(), "port {} is claimed", port.number());
        }
    }

    #[test]
    fn a_port_in_use_is_not_free() {
        let port = free_port().expect("a free port");
        let socket = UdpSocket::bind(port.addr()).expect("it is free");
        assert!(!is_free(port.number()));
        drop(socket);
        let listener = TcpListener::bind(port.addr()).expect("it is free again");
        assert!(!is_free(port.number()));
        drop(listener);
        assert!(is_free(port.number()));
    }
}
