//! The UDP socket under an endpoint.
//!
//! The kernel segments a large send (GSO) and merges received datagrams (GRO), which saves half of
//! the CPU with small datagrams, and knows neither above 64 KiB. quinn asks the socket, not the
//! connection, how many datagrams a send may have, so one answer must do for paths of 1200 bytes
//! and of 65,000. Without care, ten jumbo datagrams in one send are refused by the kernel, taken
//! for loss, and the path for a black hole.

use parking_lot::Mutex;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use socket2::{Domain, Protocol, Type};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

/// Largest send that the kernel takes, in bytes, all its datagrams together: an IPv4 packet's
/// 65,535 without the headers.
const SEND_BYTES_MAX: usize = 65_507;
/// Largest reception that the kernel delivers in one piece, in bytes.
const RECEIVE_BYTES_MAX: usize = 65_535;

/// What the kernel granted for the buffers of a socket, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketBuffers {
    /// Of the send buffer.
    pub send: usize,
    /// Of the receive buffer.
    pub receive: usize,
}

/// Opens a UDP socket with buffers of `buffer_bytes`. A wildcard IPv6 address serves IPv4 too.
///
/// What the kernel grants may be less; when it is much less, the log says so, with the remedy.
pub(super) fn bind(
    address: SocketAddr,
    buffer_bytes: usize,
) -> io::Result<(std::net::UdpSocket, SocketBuffers)> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_send_buffer_size(buffer_bytes)?;
    socket.set_recv_buffer_size(buffer_bytes)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let granted = SocketBuffers {
        send: usable(socket.send_buffer_size()?),
        receive: usable(socket.recv_buffer_size()?),
    };
    for (which, granted, limit) in
        [("send", granted.send, "net.core.wmem_max"), ("receive", granted.receive, "net.core.rmem_max")]
    {
        if granted < buffer_bytes / 2 {
            tracing::warn!(
                granted,
                wanted = buffer_bytes,
                "the {which} buffer of udp socket {address} is small: datagrams will be lost under load; \
                 raise it with: sysctl -w {limit}={buffer_bytes}"
            );
        }
    }
    Ok((socket.into(), granted))
}

/// Linux reports twice the size, the half being for its own bookkeeping.
fn usable(reported: usize) -> usize {
    if cfg!(target_os = "linux") { reported / 2 } else { reported }
}

/// A socket that cuts sends which the kernel would refuse.
#[derive(Debug)]
pub(super) struct Socket {
    inner: Arc<dyn AsyncUdpSocket>,
    receive_segments: usize,
    /// Whether `rest` holds something: most sends find out without the lock.
    blocked: AtomicBool,
    /// What the kernel did not take of a send that was cut. It goes before anything else. Its
    /// sender has been told that it went: given back whole it might never fit.
    rest: Mutex<Option<Rest>>,
}

#[derive(Debug)]
struct Rest {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    contents: Vec<u8>,
    segment_size: Option<usize>,
    src_ip: Option<IpAddr>,
}

impl Socket {
    /// Wraps a socket over which datagrams of at most `max_datagram` bytes come. Must be called
    /// within a tokio runtime.
    pub(super) fn new(socket: std::net::UdpSocket, max_datagram: u16) -> io::Result<Self> {
        let inner = TokioRuntime.wrap_udp_socket(socket)?;
        // quinn allocates so many datagrams for each of its 32 receptions: with the 64 that the
        // kernel may merge at most, the 65,000-byte ones would take 133 MB.
        let fitting = RECEIVE_BYTES_MAX.div_ceil(usize::from(max_datagram));
        let receive_segments = inner.max_receive_segments().min(fitting);
        Ok(Self { inner, receive_segments, blocked: AtomicBool::new(false), rest: Mutex::new(None) })
    }

    /// Sends piece by piece; returns how many bytes the kernel took, and what stopped it.
    fn send_pieces(&self, transmit: &Transmit<'_>) -> (usize, io::Result<()>) {
        let datagram = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let piece_bytes = datagram * (SEND_BYTES_MAX / datagram).max(1);
        let mut sent = 0;
        for contents in transmit.contents.chunks(piece_bytes) {
            if let Err(error) = self.inner.try_send(&Transmit { contents, ..transmit.clone() }) {
                return (sent, Err(error));
            }
            sent += contents.len();
        }
        (sent, Ok(()))
    }

    fn send_in_turn(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut rest = self.rest.lock();
        if let Some(before) = rest.as_mut() {
            let (sent, result) = self.send_pieces(&before.transmit());
            before.contents.drain(..sent);
            result?;
            *rest = None;
            self.blocked.store(false, Ordering::Relaxed);
        }
        match self.send_pieces(transmit) {
            (sent, Err(error)) if sent > 0 && error.kind() == io::ErrorKind::WouldBlock => {
                *rest = Some(Rest::of(transmit, sent));
                self.blocked.store(true, Ordering::Relaxed);
                Ok(())
            }
            (_, result) => result,
        }
    }
}

impl Rest {
    fn of(transmit: &Transmit<'_>, sent: usize) -> Self {
        Self {
            destination: transmit.destination,
            ecn: transmit.ecn,
            contents: transmit.contents[sent..].to_vec(),
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        }
    }

    fn transmit(&self) -> Transmit<'_> {
        Transmit {
            destination: self.destination,
            ecn: self.ecn,
            contents: &self.contents,
            segment_size: self.segment_size,
            src_ip: self.src_ip,
        }
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if transmit.contents.len() <= SEND_BYTES_MAX && !self.blocked.load(Ordering::Relaxed) {
            return self.inner.try_send(transmit);
        }
        self.send_in_turn(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.receive_segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::sync::atomic::AtomicUsize;

    /// Takes so many sends, then blocks.
    #[derive(Debug)]
    struct Kernel {
        room: AtomicUsize,
        taken: Mutex<Vec<Vec<u8>>>,
    }

    impl AsyncUdpSocket for Kernel {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("nobody waits in these tests")
        }
        fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
            assert!(transmit.contents.len() <= SEND_BYTES_MAX, "EMSGSIZE");
            let room = self.room.load(Ordering::Relaxed);
            if room == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room.store(room - 1, Ordering::Relaxed);
            self.taken.lock().push(transmit.contents.to_vec());
            Ok(())
        }
        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok((Ipv4Addr::LOCALHOST, 1).into())
        }
    }

    fn socket(room: usize) -> (Arc<Kernel>, Socket) {
        let kernel = Arc::new(Kernel { room: AtomicUsize::new(room), taken: Mutex::default() });
        let socket = Socket {
            inner: kernel.clone(),
            receive_segments: 1,
            blocked: AtomicBool::new(false),
            rest: Mutex::new(None),
        };
        (kernel, socket)
    }

    fn transmit(contents: &[u8], segment: usize) -> Transmit<'_> {
        let destination = (Ipv4Addr::LOCALHOST, 2).into();
        let segment_size = (segment < contents.len()).then_some(segment);
        Transmit { destination, ecn: None, contents, segment_size, src_ip: None }
    }

    fn lengths(kernel: &Kernel) -> Vec<usize> {
        kernel.taken.lock().iter().map(Vec::len).collect()
    }

    #[test]
    fn sends_are_cut_at_datagram_boundaries_and_only_when_they_must() {
        for (total, segment, expected) in [
            (14_520, 1452, vec![14_520]),
            (100, 1452, vec![100]),
            (90_000, 9000, vec![63_000, 27_000]),
            (195_100, 65_000, vec![65_000, 65_000, 65_000, 100]),
        ] {
            let (kernel, socket) = socket(usize::MAX);
            socket.try_send(&transmit(&vec![7; total], segment)).unwrap();
            assert_eq!(lengths(&kernel), expected, "{total} bytes in datagrams of {segment}");
        }
    }

    #[test]
    fn what_a_full_kernel_did_not_take_goes_first_and_once() {
        let (kernel, socket) = socket(0);
        let contents: Vec<u8> = (0..5_u8).flat_map(|n| vec![n; 60_000]).collect();
        let blocked = |result: io::Result<()>| result.unwrap_err().kind() == io::ErrorKind::WouldBlock;
        assert!(blocked(socket.try_send(&transmit(&contents, 60_000))), "nothing went: try again");
        kernel.room.store(2, Ordering::Relaxed);
        socket.try_send(&transmit(&contents, 60_000)).unwrap();
        let small = [9; 10];
        assert!(blocked(socket.try_send(&transmit(&small, 10))));
        kernel.room.store(1, Ordering::Relaxed);
        assert!(blocked(socket.try_send(&transmit(&small, 10))));
        kernel.room.store(9, Ordering::Relaxed);
        socket.try_send(&transmit(&small, 10)).unwrap();
        socket.try_send(&transmit(&small, 10)).unwrap();
        let first: Vec<u8> = kernel.taken.lock().iter().map(|datagram| datagram[0]).collect();
        assert_eq!(first, [0, 1, 2, 3, 4, 9, 9]);
    }

    #[tokio::test]
    async fn reception_buffers_fit_what_the_kernel_merges_and_no_more() {
        for max_datagram in [1200, 1452, 8900, 65_000] {
            let (std, granted) = bind((Ipv4Addr::LOCALHOST, 0).into(), 64 << 10).unwrap();
            assert!(granted.receive >= 64 << 10 && granted.send >= 64 << 10, "{granted:?}");
            let socket = Socket::new(std, max_datagram).unwrap();
            let bytes = socket.max_receive_segments() * usize::from(max_datagram);
            let merges = socket.inner.max_receive_segments() > 1;
            assert!(!merges || (RECEIVE_BYTES_MAX..=2 * RECEIVE_BYTES_MAX).contains(&bytes), "{bytes}");
        }
    }
}
