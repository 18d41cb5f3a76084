//! A node's settings: one TOML file, and the flags that override some of it.

#[cfg(test)]
mod tests;

use piculet_client::transport::{MAX_DATAGRAM, TransportOptions};
use piculet_quorum::archiver::FlushOptions;
use piculet_quorum::ids::NodeId;
use piculet_quorum::limits::{
    FLUSH_BYTES, FLUSH_BYTES_MIN, FLUSH_INTERVAL, FLUSH_INTERVAL_MAX, PART_BYTES_MAX,
};
use piculet_quorum::time::Span;
use piculet_storage::limits::{ARENA_BYTES, CHUNK_BYTES};
use piculet_storage::{ArenaOptions, S3Options};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bounds of `buffer.memory.bytes`. A batch larger than the buffer is always refused.
pub const BUFFER_BYTES: RangeInclusive<u64> = (1 << 20)..=(1 << 44);
/// Bounds of `buffer.memory.chunk_bytes`.
pub const CHUNK_BYTES_BOUNDS: RangeInclusive<usize> = (4 << 10)..=(64 << 20);
/// Bounds of `flush.interval_ms` and `flush.max_interval_ms`.
pub const FLUSH_MS: RangeInclusive<u64> = 1..=3_600_000;
/// Bounds of `lease_ttl_ms`.
pub const LEASE_TTL_MS: RangeInclusive<u64> = 1_000..=60_000;
/// Bounds of `drain_timeout_ms`.
pub const DRAIN_TIMEOUT_MS: RangeInclusive<u64> = 0..=3_600_000;

/// A node's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Its name: unique in the cluster, kept for ever.
    pub name: NodeId,
    /// Where it serves QUIC.
    pub listen: SocketAddr,
    /// `host:port` under which clients and other nodes reach `listen`; default: `listen` itself.
    #[serde(default)]
    pub advertise: Vec<String>,
    /// Where it serves HTTP to its operators.
    pub admin: SocketAddr,
    /// The metadata store: `etcd://host:port,…/prefix`.
    pub metadata: String,
    /// The object store: `s3://bucket/prefix` or `file:///directory`.
    pub store: String,
    /// Other nodes learn of this one's end after this long, in milliseconds; default 5000.
    #[serde(default = "default_lease_ttl_ms")]
    pub lease_ttl_ms: u64,
    /// A node that was asked to stop waits for its buffer to empty for at most this long, in
    /// milliseconds; default 30000.
    #[serde(default = "default_drain_timeout_ms")]
    pub drain_timeout_ms: u64,
    /// How the object store is reached.
    #[serde(default)]
    pub store_options: StoreConfig,
    /// Its certificate.
    pub tls: TlsConfig,
    /// Where entries are kept until they are archived.
    pub buffer: BufferConfig,
    /// When parts are uploaded.
    #[serde(default)]
    pub flush: FlushConfig,
    /// The transport.
    #[serde(default)]
    pub quic: QuicConfig,
}

/// How an S3 server is reached, where the usual environment does not say so. Credentials come from
/// the environment or the machine's role only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// URL of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether it may be spoken to without TLS.
    #[serde(default)]
    pub allow_http: bool,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The CA's certificates.
    pub ca: PathBuf,
    /// The node's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The node's buffers, one per level of durability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BufferConfig {
    /// For segments of level `memory`.
    pub memory: MemoryConfig,
}

/// The memory buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryConfig {
    /// A directory on a tmpfs, of this node alone.
    pub dir: PathBuf,
    /// Its size in bytes, within [`BUFFER_BYTES`]; default 1 GiB.
    #[serde(default = "default_buffer_bytes")]
    pub bytes: u64,
    /// What a segment with entries holds at least, in bytes, within [`CHUNK_BYTES_BOUNDS`];
    /// default 256 KiB.
    #[serde(default = "default_chunk_bytes")]
    pub chunk_bytes: usize,
}

/// When parts are uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlushConfig {
    /// When this many committed bytes wait; default 8 MiB, at most
    /// [`PART_BYTES_MAX`].
    pub bytes: u64,
    /// When this many wait and the oldest has waited for `interval_ms`; default 256 KiB, or `bytes`
    /// where that is less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_bytes: Option<u64>,
    /// See `min_bytes`; milliseconds within [`FLUSH_MS`], default 1000.
    pub interval_ms: u64,
    /// When the oldest has waited this long; milliseconds within [`FLUSH_MS`], default 60000, or
    /// `interval_ms` where that is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_interval_ms: Option<u64>,
}

/// The transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuicConfig {
    /// Largest UDP payload to send or receive, in bytes, within [`MAX_DATAGRAM`]; default 65000.
    pub max_datagram: u16,
}

/// What the command line may say instead of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFlags {
    /// See [`NodeConfig::name`].
    pub name: Option<NodeId>,
    /// See [`NodeConfig::listen`].
    pub listen: Option<SocketAddr>,
    /// See [`NodeConfig::admin`].
    pub admin: Option<SocketAddr>,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read settings from {}: {source}; check the path and its permissions", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML, or has keys or values that no setting has.
    #[error("settings in {} are not usable: {source}", .path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A value is out of its bounds.
    #[error("in {}: {key} is {value}, expected {expected}", .path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// Its bounds.
        expected: String,
    },
}

fn default_lease_ttl_ms() -> u64 {
    5_000
}

fn default_drain_timeout_ms() -> u64 {
    30_000
}

fn default_buffer_bytes() -> u64 {
    ARENA_BYTES
}

fn default_chunk_bytes() -> usize {
    CHUNK_BYTES
}

impl Default for FlushConfig {
    fn default() -> Self {
        let interval_ms = FLUSH_INTERVAL.0 / 1_000;
        Self { bytes: FLUSH_BYTES, min_bytes: None, interval_ms, max_interval_ms: None }
    }
}

impl Default for QuicConfig {
    fn default() -> Self {
        Self { max_datagram: TransportOptions::default().max_datagram }
    }
}

impl FlushConfig {
    /// As the archiver takes them.
    #[must_use]
    pub fn options(&self) -> FlushOptions {
        let interval = Span::millis(self.interval_ms);
        FlushOptions {
            bytes: self.bytes,
            bytes_min: self.min_bytes.unwrap_or_else(|| FLUSH_BYTES_MIN.min(self.bytes)),
            interval,
            interval_max: self.max_interval_ms.map_or_else(|| FLUSH_INTERVAL_MAX.max(interval), Span::millis),
        }
    }
}

impl NodeConfig {
    /// Reads a file, lets the flags override it, and checks every value. Relative paths in it are
    /// relative to its directory.
    ///
    /// # Errors
    /// When the file cannot be read, is not of the right form, or a value is out of its bounds.
    pub fn load(path: &Path, flags: &NodeFlags) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(read)?;
        let mut config: Self = toml::from_str(&text)
            .map_err(|source| ConfigError::Form { path: path.to_owned(), source: Box::new(source) })?;
        config.name = flags.name.clone().unwrap_or(config.name);
        config.listen = flags.listen.unwrap_or(config.listen);
        config.admin = flags.admin.unwrap_or(config.admin);
        let absolute = std::path::absolute(path).map_err(read)?;
        let dir = absolute.parent().unwrap_or(&absolute);
        let TlsConfig { ca, cert, key } = &mut config.tls;
        for file in [ca, cert, key, &mut config.buffer.memory.dir] {
            *file = dir.join(&*file);
        }
        config.check(path)?;
        if config.advertise.is_empty() {
            config.advertise.push(config.listen.to_string());
        }
        Ok(config)
    }

    /// Checks what types alone cannot say.
    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let within = |key, value: u64, bounds: RangeInclusive<u64>| {
            let expected = || format!("{} to {}", bounds.start(), bounds.end());
            if bounds.contains(&value) { Ok(()) } else { Err(refused(path, key, value, expected())) }
        };
        if self.advertise.is_empty() && (self.listen.ip().is_unspecified() || self.listen.port() == 0) {
            let expected = "an address that others can reach, or advertise with one or more of them";
            return Err(refused(path, "listen", self.listen, expected));
        }
        if self.store.starts_with("memory:") {
            let expected = "s3://bucket/prefix or file:///directory: a node's own memory keeps nothing";
            return Err(refused(path, "store", format!("{:?}", self.store), expected));
        }
        if let Some(bad) = self.advertise.iter().find(|address| !is_host_and_port(address)) {
            return Err(refused(path, "advertise", format!("{bad:?}"), "host:port or [ipv6]:port"));
        }
        let memory = &self.buffer.memory;
        within("buffer.memory.bytes", memory.bytes, BUFFER_BYTES)?;
        let chunks = *CHUNK_BYTES_BOUNDS.start() as u64..=memory.bytes.min(*CHUNK_BYTES_BOUNDS.end() as u64);
        within("buffer.memory.chunk_bytes", memory.chunk_bytes as u64, chunks)?;
        let flush = &self.flush;
        within("flush.bytes", flush.bytes, 1..=PART_BYTES_MAX)?;
        within("flush.min_bytes", flush.options().bytes_min, 1..=flush.bytes)?;
        within("flush.interval_ms", flush.interval_ms, FLUSH_MS)?;
        if let Some(max) = flush.max_interval_ms {
            within("flush.max_interval_ms", max, flush.interval_ms..=*FLUSH_MS.end())?;
        }
        let datagram = u64::from(*MAX_DATAGRAM.start())..=u64::from(*MAX_DATAGRAM.end());
        within("quic.max_datagram", self.quic.max_datagram.into(), datagram)?;
        within("lease_ttl_ms", self.lease_ttl_ms, LEASE_TTL_MS)?;
        within("drain_timeout_ms", self.drain_timeout_ms, DRAIN_TIMEOUT_MS)
    }

    /// Settings of the QUIC endpoint.
    #[must_use]
    pub fn transport(&self) -> TransportOptions {
        TransportOptions { max_datagram: self.quic.max_datagram, ..TransportOptions::default() }
    }

    /// Size of the memory buffer.
    #[must_use]
    pub fn arena(&self) -> ArenaOptions {
        let MemoryConfig { bytes, chunk_bytes, .. } = self.buffer.memory;
        ArenaOptions { bytes, chunk_bytes }
    }

    /// How the object store is reached.
    #[must_use]
    pub fn s3(&self) -> S3Options {
        let StoreConfig { endpoint, region, allow_http } = self.store_options.clone();
        S3Options { endpoint, region, allow_http, ..S3Options::default() }
    }

    /// See [`lease_ttl_ms`](Self::lease_ttl_ms).
    #[must_use]
    pub fn lease_ttl(&self) -> Duration {
        Duration::from_millis(self.lease_ttl_ms)
    }

    /// See [`drain_timeout_ms`](Self::drain_timeout_ms).
    #[must_use]
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}

fn refused(path: &Path, key: &'static str, value: impl Display, expected: impl Display) -> ConfigError {
    let (value, expected) = (value.to_string(), expected.to_string());
    ConfigError::Value { path: path.to_owned(), key, value, expected }
}

fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let fine = match inner {
        Some(ipv6) => ipv6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '/', ' ', '[', ']']),
    };
    fine && port.parse::<u16>().is_ok_and(|port| port != 0)
}
