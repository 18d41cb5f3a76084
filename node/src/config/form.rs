//! Forms of texts, and bounds that nodes and clients share.

use crate::settings::{Form, Kind};
use piculet_client::transport::MAX_DATAGRAM;
use std::net::Ipv6Addr;
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
const HOUR: Duration = Duration::from_secs(3600);

/// Addresses of nodes.
pub(super) const ADDRESSES: Kind =
    Kind::List(Form { expected: "host:port or [ipv6]:port", fits: is_host_and_port });
/// What is logged.
pub(super) const FILTER: Kind =
    Kind::Text(Form { expected: "a filter such as info, or warn,piculet_node=debug", fits: is_filter });
/// Any text but none.
pub(super) const fn text(expected: &'static str) -> Kind {
    Kind::Text(Form { expected, fits: |text| !text.is_empty() })
}
/// Datagrams, as the transport bounds them.
pub(super) const DATAGRAM: Kind =
    Kind::Bytes { min: *MAX_DATAGRAM.start() as u64, max: *MAX_DATAGRAM.end() as u64 };
/// Keep-alive packets: more than two fit into the transport's idle time-out.
pub(super) const KEEP_ALIVE: Kind =
    Kind::Time { min: Duration::from_millis(10), max: Duration::from_secs(2) };
/// See [`RecoveryOptions::grace`](piculet_quorum::recovery::RecoveryOptions::grace).
pub(super) const GRACE: Kind = Kind::Time { min: Duration::ZERO, max: Duration::from_secs(10) };
/// See [`RecoveryOptions::silence`](piculet_quorum::recovery::RecoveryOptions::silence).
pub(super) const SILENCE: Kind = Kind::Time { min: Duration::from_millis(10), max: Duration::from_secs(60) };

/// A size within these bounds.
pub(super) const fn bytes(min: u64, max: u64) -> Kind {
    Kind::Bytes { min, max }
}

/// A time from so many milliseconds to an hour.
pub(super) const fn up_to_an_hour(min_millis: u64) -> Kind {
    Kind::Time { min: Duration::from_millis(min_millis), max: HOUR }
}

/// A time within these bounds, in milliseconds.
pub(super) const fn millis(min: u64, max: u64) -> Kind {
    Kind::Time { min: Duration::from_millis(min), max: Duration::from_millis(max) }
}

/// Whether a text is a filter for logs. A word that is no level would be taken for a part of the
/// program, and silence all others: more often than not it is a slip.
pub(crate) fn is_filter(text: &str) -> bool {
    let plain = text.split(',').filter(|directive| !directive.contains(['=', '[', ']']));
    let mut levels = plain.map(|word| word.trim().parse::<LevelFilter>());
    !text.is_empty() && levels.all(|level| level.is_ok()) && EnvFilter::try_new(text).is_ok()
}

fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let fine = match inner {
        Some(ipv6) => ipv6.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '/', ' ', '[', ']', '@']),
    };
    fine && port.parse::<u16>().is_ok_and(|port| port != 0)
}
