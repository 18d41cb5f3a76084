//! A node's settings.

mod table;

pub use table::{INTRODUCTION, SCHEMA};

use crate::settings::{Origin, Refusal, Settings, SettingsError, Sources, Value};
use piculet_client::transport::TransportOptions;
use piculet_meta::MetaOptions;
use piculet_quorum::archiver::FlushOptions;
use piculet_quorum::ids::NodeId;
use piculet_quorum::recovery::RecoveryOptions;
use piculet_storage::{ArenaOptions, DiskOptions, S3Options};
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest password, in bytes.
const PASSWORD_BYTES_MAX: u64 = 4096;

/// A node's settings. What each of them is for, docs/CONFIGURATION.md says.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its name.
    pub name: NodeId,
    /// Where it serves QUIC.
    pub listen: SocketAddr,
    /// `host:port` under which clients and other nodes reach `listen`; at least one.
    pub advertise: Vec<String>,
    /// Where it serves HTTP to its operators.
    pub admin: SocketAddr,
    /// URL of the metadata store.
    pub metadata: String,
    /// How the metadata store is reached.
    pub metadata_options: MetadataConfig,
    /// URL of the object store.
    pub store: String,
    /// How the object store is reached.
    pub store_options: StoreConfig,
    /// Its certificate.
    pub tls: TlsConfig,
    /// Where entries are kept until they are archived.
    pub buffer: BufferConfig,
    /// When parts are uploaded.
    pub flush: FlushConfig,
    /// What is logged.
    pub log: LogConfig,
    pub(crate) transport: TransportOptions,
    pub(crate) recovery: RecoveryOptions,
    pub(crate) lease_ttl: Duration,
    pub(crate) writer_timeout: Duration,
    pub(crate) drain_timeout: Duration,
}

/// How the metadata store is reached. Certificate and key come together, and so do name and
/// password.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataConfig {
    /// PEM file with the CA's certificates; without it there is no TLS.
    pub ca: Option<PathBuf>,
    /// PEM file with the node's certificate for the store.
    pub cert: Option<PathBuf>,
    /// PEM file with its private key.
    pub key: Option<PathBuf>,
    /// Who the node is to the store.
    pub username: Option<String>,
    /// File with the password; [`password`](Self::password) reads it.
    pub password_file: Option<PathBuf>,
}

/// How an S3 server is reached, where the usual environment does not say so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreConfig {
    /// URL of the server.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Whether it may be spoken to without TLS.
    pub allow_http: bool,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The CA's certificates.
    pub ca: PathBuf,
    /// The node's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The node's buffers, one per level of durability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferConfig {
    /// For segments of level `memory`.
    pub memory: MemoryConfig,
    /// For segments of level `disk`, if the node has a directory for it.
    pub disk: Option<DiskConfig>,
}

/// The memory buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// A directory on a tmpfs, of this node alone.
    pub dir: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// What a segment with entries holds at least, in bytes.
    pub chunk_bytes: usize,
}

/// The disk buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// A directory on a local disk, of this node alone.
    pub dir: PathBuf,
    /// How much it holds, in memory and on disk, in bytes.
    pub bytes: u64,
    /// Size of one file, in bytes.
    pub file_bytes: u64,
}

/// When parts are uploaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushConfig(pub(crate) FlushOptions);

/// What is logged, to the standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Which messages: a filter that `tracing` knows.
    pub filter: String,
    /// Whether as JSON, an object a line.
    pub json: bool,
}

impl FlushConfig {
    /// As the archiver takes them.
    #[must_use]
    pub fn options(&self) -> FlushOptions {
        self.0
    }
}

impl MetadataConfig {
    /// How the store is reached, with the password out of its file.
    ///
    /// # Errors
    /// When there is a file for it which cannot be read, is empty or longer than 4 KiB. The message
    /// names the file, never what is in it.
    pub fn options(&self) -> Result<MetaOptions, PasswordError> {
        let read = |path: &PathBuf| {
            read_password(path).map_err(|source| PasswordError { path: path.clone(), source })
        };
        Ok(MetaOptions {
            ca: self.ca.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            username: self.username.clone(),
            password: self.password_file.as_ref().map(read).transpose()?,
        })
    }
}

/// The password of the metadata store cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the password of the metadata store from {}: {source}; check metadata_options.password_file", .path.display())]
pub struct PasswordError {
    path: PathBuf,
    source: io::Error,
}

fn read_password(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(PASSWORD_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > PASSWORD_BYTES_MAX {
        return Err(io::Error::other(format!("it is longer than {PASSWORD_BYTES_MAX} bytes")));
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let password = line.strip_suffix('\r').unwrap_or(line);
    if password.is_empty() {
        return Err(io::Error::other("it is empty"));
    }
    Ok(password.to_owned())
}

impl NodeConfig {
    /// Reads all sources, and checks every value.
    ///
    /// # Errors
    /// When the file cannot be read or is not TOML; else with everything that is refused.
    pub fn load(sources: &Sources) -> Result<Self, SettingsError> {
        Self::resolve(sources).map(|(config, _)| config)
    }

    /// The same, together with where each value came from.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn resolve(sources: &Sources) -> Result<(Self, Settings), SettingsError> {
        let mut settings = Settings::load(&SCHEMA, sources)?;
        let refused = settle(&mut settings);
        if !refused.is_empty() {
            return Err(SettingsError::Refused(refused));
        }
        Ok((Self::from_settings(&settings), settings))
    }

    fn from_settings(settings: &Settings) -> Self {
        let address = |key| settings.text(key).parse().expect("the form of addresses was checked");
        Self {
            name: NodeId::new(settings.text("name")).expect("the form of names was checked"),
            listen: address("listen"),
            advertise: settings.list("advertise"),
            admin: address("admin"),
            metadata: settings.text("metadata"),
            metadata_options: MetadataConfig {
                ca: settings.path_if_set("metadata_options.ca"),
                cert: settings.path_if_set("metadata_options.cert"),
                key: settings.path_if_set("metadata_options.key"),
                username: settings.text_if_set("metadata_options.username"),
                password_file: settings.path_if_set("metadata_options.password_file"),
            },
            store: settings.text("store"),
            store_options: StoreConfig {
                endpoint: settings.text_if_set("store_options.endpoint"),
                region: settings.text_if_set("store_options.region"),
                allow_http: settings.switch("store_options.allow_http"),
            },
            tls: TlsConfig {
                ca: settings.path("tls.ca"),
                cert: settings.path("tls.cert"),
                key: settings.path("tls.key"),
            },
            buffer: BufferConfig {
                memory: MemoryConfig {
                    dir: settings.path("buffer.memory.dir"),
                    bytes: settings.bytes("buffer.memory.bytes"),
                    chunk_bytes: settings.length("buffer.memory.chunk_bytes"),
                },
                disk: settings.path_if_set("buffer.disk.dir").map(|dir| DiskConfig {
                    dir,
                    bytes: settings.bytes("buffer.disk.bytes"),
                    file_bytes: settings.bytes("buffer.disk.file_bytes"),
                }),
            },
            flush: FlushConfig(FlushOptions {
                bytes: settings.bytes("flush.bytes"),
                bytes_min: settings.bytes("flush.min_bytes"),
                interval: settings.time("flush.interval").into(),
                interval_max: settings.time("flush.max_interval").into(),
            }),
            log: LogConfig { filter: settings.text("log"), json: settings.text("log_format") == "json" },
            transport: super::transport(settings, "quic.max_datagram", "quic.keep_alive"),
            recovery: super::recovery(settings),
            lease_ttl: settings.time("lease_ttl"),
            writer_timeout: settings.time("writer_timeout"),
            drain_timeout: settings.time("drain_timeout"),
        }
    }

    /// Settings of the QUIC endpoint.
    #[must_use]
    pub fn transport(&self) -> TransportOptions {
        self.transport.clone()
    }

    /// Settings of the recovery of a segment.
    #[must_use]
    pub fn recovery(&self) -> RecoveryOptions {
        self.recovery
    }

    /// Size of the memory buffer.
    #[must_use]
    pub fn arena(&self) -> ArenaOptions {
        let MemoryConfig { bytes, chunk_bytes, .. } = self.buffer.memory;
        ArenaOptions { bytes, chunk_bytes }
    }

    /// Size of the disk buffer, if the node has one.
    #[must_use]
    pub fn disk(&self) -> Option<DiskOptions> {
        let DiskConfig { bytes, file_bytes, .. } = *self.buffer.disk.as_ref()?;
        Some(DiskOptions { bytes, file_bytes, ..DiskOptions::default() })
    }

    /// How the object store is reached.
    #[must_use]
    pub fn s3(&self) -> S3Options {
        let StoreConfig { endpoint, region, allow_http } = self.store_options.clone();
        S3Options { endpoint, region, allow_http, ..S3Options::default() }
    }

    /// Other nodes learn after this long that this one has ended without a farewell.
    #[must_use]
    pub fn lease_ttl(&self) -> Duration {
        self.lease_ttl
    }

    /// A writer that has not been heard of for this long is taken to have gone.
    #[must_use]
    pub fn writer_timeout(&self) -> Duration {
        self.writer_timeout
    }

    /// A node that was told to stop waits at most this long until what it holds is archived.
    #[must_use]
    pub fn drain_timeout(&self) -> Duration {
        self.drain_timeout
    }
}

/// Fills in the defaults that follow from other settings, and refuses values that do not go with
/// each other.
fn settle(settings: &mut Settings) -> Vec<Refusal> {
    let bytes = settings.bytes("flush.bytes");
    let least = settings.bytes("flush.min_bytes").min(bytes);
    settings.adapt_default("flush.min_bytes", Value::Bytes(least));
    let interval = settings.time("flush.interval");
    let longest = settings.time("flush.max_interval").max(interval);
    settings.adapt_default("flush.max_interval", Value::Time(longest));
    let mut refused = Vec::new();
    if settings.bytes("flush.min_bytes") > bytes {
        refused.push(settings.refusal("flush.min_bytes", "no more than flush.bytes"));
    }
    if settings.time("flush.max_interval") < interval {
        refused.push(settings.refusal("flush.max_interval", "no less than flush.interval"));
    }
    if settings.bytes("buffer.memory.chunk_bytes") > settings.bytes("buffer.memory.bytes") {
        refused.push(settings.refusal("buffer.memory.chunk_bytes", "no more than buffer.memory.bytes"));
    }
    for key in ["metadata", "store", "store_options.endpoint"] {
        let text = settings.text_if_set(key).unwrap_or_default();
        if text.split_once("://").is_some_and(|(_, rest)| rest.contains('@')) {
            let expected = "no credentials in the URL: docs/CONFIGURATION.md says where they belong";
            refused.push(settings.refusal(key, expected));
        }
    }
    if settings.text("store").starts_with("memory:") {
        let expected = "s3://bucket/prefix or file:///directory: a node's own memory keeps nothing";
        refused.push(settings.refusal("store", expected));
    }
    if settings.text("metadata").starts_with("memory:") {
        let expected =
            "etcd://host:port,…/prefix, etcds://… or sqlite:PATH: a node's own memory keeps nothing";
        refused.push(settings.refusal("metadata", expected));
    }
    settle_advertise(settings, &mut refused);
    settle_metadata(settings, &mut refused);
    refused
}

fn settle_advertise(settings: &mut Settings, refused: &mut Vec<Refusal>) {
    let listen: SocketAddr = settings.text("listen").parse().expect("the form of addresses was checked");
    if !settings.list("advertise").is_empty() {
        return;
    }
    if listen.ip().is_unspecified() || listen.port() == 0 {
        let expected = "an address that others can reach, or advertise with one or more of them";
        refused.push(settings.refusal("listen", expected));
        return;
    }
    settings.adapt_default("advertise", Value::List(vec![listen.to_string()]));
}

fn settle_metadata(settings: &mut Settings, refused: &mut Vec<Refusal>) {
    for (one, other) in [
        ("metadata_options.cert", "metadata_options.key"),
        ("metadata_options.key", "metadata_options.cert"),
        ("metadata_options.username", "metadata_options.password_file"),
        ("metadata_options.password_file", "metadata_options.username"),
    ] {
        if settings.is_set(one) && !settings.is_set(other) {
            refused.push(settings.refusal(one, format!("{other} beside it")));
        }
    }
    // A file of metadata is a path like any other.
    let metadata = settings.text("metadata");
    if let Some(path) = metadata.strip_prefix("sqlite:")
        && let Origin::File { path: file, .. } = settings.origin("metadata")
        && let Some(dir) = std::path::absolute(file).ok().as_deref().and_then(Path::parent)
    {
        let url = format!("sqlite:{}", dir.join(path).display());
        settings.replace("metadata", Value::Text(url));
    }
}
