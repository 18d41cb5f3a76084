//! Settings of the transport, and the QUIC parameters that follow from them.
//!
//! Datagram size decides the cost of an append more than anything else: two to three times as
//! much CPU goes into 1452-byte datagrams as into 65,000-byte ones. So connections start at the
//! size that every network carries and discover what theirs can.

use quinn::congestion::CubicConfig;
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// Bounds of [`TransportOptions::max_datagram`], in bytes. The lower one is what QUIC asks of every
/// network; the upper one stays below the largest payload of an IPv4 datagram.
pub const MAX_DATAGRAM: RangeInclusive<u16> = 1200..=65_000;
/// Bounds of [`TransportOptions::socket_bytes`].
pub const SOCKET_BYTES: RangeInclusive<usize> = (64 << 10)..=(64 << 20);
/// Bounds of [`TransportOptions::idle_timeout`].
pub const IDLE_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
/// Most streams that a peer may have open on one connection.
pub const STREAMS_MAX: u32 = 4096;
/// Bytes of one stream that a peer may send before they are read.
pub const STREAM_WINDOW: u32 = 16 << 20;
/// Bytes of all streams of a connection that a peer may send before they are read. A multiple of
/// [`STREAM_WINDOW`], so that one reader that lags does not stop the others.
pub const RECEIVE_WINDOW: u32 = 64 << 20;
/// Bytes of a connection that may be written before they are acknowledged.
pub const SEND_WINDOW: u64 = 64 << 20;
/// Congestion window that a connection starts with, in bytes.
pub const INITIAL_WINDOW: u64 = 256 << 10;
/// Datagram size that a connection starts with, in bytes: one that overlay networks and tunnels
/// carry too, which 1452 is not. Discovery raises it within a few round trips.
const INITIAL_DATAGRAM: u16 = *MAX_DATAGRAM.start();
/// Discovery is repeated at this interval: under load its probes may be lost like anything else.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(60);

const _: () = {
    assert!(RECEIVE_WINDOW.is_multiple_of(STREAM_WINDOW) && RECEIVE_WINDOW > STREAM_WINDOW);
    assert!(SEND_WINDOW >= RECEIVE_WINDOW as u64);
    // A connection whose first datagram fills the initial congestion window never sends it.
    assert!((INITIAL_DATAGRAM as u64) < INITIAL_WINDOW);
};

/// Settings of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportOptions {
    /// Largest UDP payload to send or receive, in bytes, within [`MAX_DATAGRAM`]; what the path
    /// carries is discovered. Default 65,000.
    pub max_datagram: u16,
    /// Size of the kernel's send and receive buffer of the socket, in bytes, within
    /// [`SOCKET_BYTES`]. Default 4 MiB.
    pub socket_bytes: usize,
    /// A quiet connection is kept alive with a packet at this interval, by the side that opened
    /// it. Shorter than half of `idle_timeout`. Default 1 s.
    pub keep_alive: Duration,
    /// A connection over which nothing comes for this long is lost; within [`IDLE_TIMEOUT`].
    /// Default 5 s.
    pub idle_timeout: Duration,
    /// How long a connection may take to be established, name resolution included; for a server,
    /// how long a handshake may take. More than zero. Default 3 s.
    pub connect_timeout: Duration,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            max_datagram: *MAX_DATAGRAM.end(),
            socket_bytes: 4 << 20,
            keep_alive: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(3),
        }
    }
}

/// Which setting is outside its bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("transport setting {setting} is {value}: expected {expected}")]
pub struct OptionsError {
    setting: &'static str,
    value: String,
    expected: String,
}

impl TransportOptions {
    /// Checks every setting.
    ///
    /// # Errors
    /// At the first one that is outside the bounds that its description gives.
    pub fn check(&self) -> Result<(), OptionsError> {
        let refuse =
            |setting, value: String, expected: String| Err(OptionsError { setting, value, expected });
        if !MAX_DATAGRAM.contains(&self.max_datagram) {
            let expected = format!("{} to {} bytes", MAX_DATAGRAM.start(), MAX_DATAGRAM.end());
            return refuse("max_datagram", self.max_datagram.to_string(), expected);
        }
        if !SOCKET_BYTES.contains(&self.socket_bytes) {
            let expected = format!("{} to {} bytes", SOCKET_BYTES.start(), SOCKET_BYTES.end());
            return refuse("socket_bytes", self.socket_bytes.to_string(), expected);
        }
        if !IDLE_TIMEOUT.contains(&self.idle_timeout) {
            let expected = format!("{:?} to {:?}", IDLE_TIMEOUT.start(), IDLE_TIMEOUT.end());
            return refuse("idle_timeout", format!("{:?}", self.idle_timeout), expected);
        }
        if self.keep_alive.is_zero() || self.keep_alive >= self.idle_timeout / 2 {
            let expected =
                format!("more than zero and less than half of idle_timeout, {:?}", self.idle_timeout);
            return refuse("keep_alive", format!("{:?}", self.keep_alive), expected);
        }
        if self.connect_timeout.is_zero() {
            return refuse("connect_timeout", "zero".to_owned(), "more than zero".to_owned());
        }
        Ok(())
    }

    /// Parameters of an endpoint: what it tells its peers that it can receive.
    pub(super) fn endpoint(&self) -> EndpointConfig {
        let mut endpoint = EndpointConfig::default();
        endpoint
            .max_udp_payload_size(self.max_datagram)
            .expect("the bounds of max_datagram are within those of QUIC");
        endpoint
    }

    /// Parameters of connections that this side opens: it is the one that keeps them alive.
    pub(super) fn outgoing(&self) -> Arc<TransportConfig> {
        let mut transport = self.transport();
        transport.keep_alive_interval(Some(self.keep_alive));
        Arc::new(transport)
    }

    /// Parameters of connections that this side accepts.
    pub(super) fn incoming(&self) -> Arc<TransportConfig> {
        Arc::new(self.transport())
    }

    fn transport(&self) -> TransportConfig {
        let idle = IdleTimeout::try_from(self.idle_timeout).expect("its bounds are within those of QUIC");
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.max_datagram).interval(DISCOVERY_INTERVAL);
        let mut congestion = CubicConfig::default();
        congestion.initial_window(INITIAL_WINDOW);
        let mut transport = TransportConfig::default();
        transport
            .initial_mtu(INITIAL_DATAGRAM)
            .mtu_discovery_config(Some(discovery))
            .congestion_controller_factory(Arc::new(congestion))
            .send_fairness(false)
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
            .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
            .send_window(SEND_WINDOW)
            .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .max_idle_timeout(Some(idle));
        transport
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_outside_their_bounds_are_refused_by_name() {
        let good = TransportOptions::default();
        assert_eq!(good.check(), Ok(()));
        for (setting, bad) in [
            ("max_datagram", TransportOptions { max_datagram: 1199, ..good.clone() }),
            ("max_datagram", TransportOptions { max_datagram: 65_001, ..good.clone() }),
            ("socket_bytes", TransportOptions { socket_bytes: 1, ..good.clone() }),
            ("idle_timeout", TransportOptions { idle_timeout: Duration::ZERO, ..good.clone() }),
            ("keep_alive", TransportOptions { keep_alive: Duration::from_secs(3), ..good.clone() }),
            ("keep_alive", TransportOptions { keep_alive: Duration::ZERO, ..good.clone() }),
            ("connect_timeout", TransportOptions { connect_timeout: Duration::ZERO, ..good.clone() }),
        ] {
            let error = bad.check().expect_err(setting).to_string();
            assert!(error.contains(setting), "{error}");
        }
    }
}
