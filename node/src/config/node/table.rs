//! Everything that can be set for a node.

use super::super::form::{
    ADDRESSES, DATAGRAM, FILTER, GRACE, KEEP_ALIVE, KIB, MIB, SILENCE, bytes, millis, text, up_to_an_hour,
};
use crate::settings::Fallback::{Bytes, Required, Switch, Text, Time, Unset};
use crate::settings::{Form, Kind, Schema, Setting};
use piculet_client::transport::MAX_DATAGRAM;
use piculet_quorum::ids::NodeId;
use piculet_quorum::limits::{
    FLUSH_BYTES, FLUSH_BYTES_MIN, FLUSH_INTERVAL, FLUSH_INTERVAL_MAX, PART_BYTES_MAX, RECOVERY_GRACE,
    RECOVERY_SILENCE, WRITER_TIMEOUT,
};
use piculet_quorum::time::Span;
use piculet_storage::limits::{
    ARENA_BYTES, CHUNK_BYTES, JOURNAL_FILE_BYTES, JOURNAL_FILE_BYTES_MAX, JOURNAL_FILE_BYTES_MIN,
};
use std::net::SocketAddr;
use std::time::Duration;

/// What comes before the table in docs/CONFIGURATION.md.
pub const INTRODUCTION: &str = "\
Set in `node.toml`, with `PICULET_NODE_…` or with flags of `piculet node`. Credentials of an S3 store are no settings: they
come from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and the rest of the usual environment, or from the machine's role. The
password of the metadata store comes from a file, never from a variable or a flag, which other processes may see.";

const ADDRESS: Kind = Kind::Text(Form {
    expected: "ADDRESS:PORT such as 127.0.0.1:7781 or [::1]:7781",
    fits: |text| text.parse::<SocketAddr>().is_ok(),
});
const NAME: Kind = Kind::Text(Form {
    expected: "1 to 64 characters from A-Z a-z 0-9 . _ -",
    fits: |text| NodeId::new(text).is_ok(),
});
const LOG_FORMAT: Kind =
    Kind::Text(Form { expected: "text or json", fits: |text| matches!(text, "text" | "json") });

const fn time(span: Span) -> Duration {
    Duration::from_micros(span.0)
}

const fn setting(
    key: &'static str,
    kind: Kind,
    default: crate::settings::Fallback,
    about: &'static str,
) -> Setting {
    Setting { key, kind, default, about }
}

/// Everything that can be set for a node.
pub static SCHEMA: Schema =
    Schema { subject: "node", prefix: "PICULET_NODE_", owns_prefix: true, foreign: &[], settings: &SETTINGS };

static SETTINGS: [Setting; 36] = [
    setting("name", NAME, Required, "Its name: unique in the cluster, kept for ever."),
    setting("listen", ADDRESS, Text("0.0.0.0:7781"), "Where it serves QUIC, over UDP."),
    setting(
        "advertise",
        ADDRESSES,
        Unset("`listen`, where that is a single address"),
        "How clients and other nodes reach `listen`.",
    ),
    setting("admin", ADDRESS, Text("127.0.0.1:7780"), "Where it serves HTTP to its operators."),
    setting("tls.ca", Kind::Path, Required, "PEM file with the certificates of the CA."),
    setting("tls.cert", Kind::Path, Required, "PEM file with the node's certificate."),
    setting("tls.key", Kind::Path, Required, "PEM file with its private key."),
    setting(
        "metadata",
        text("etcd://host:port,…/prefix, etcds://… (over TLS), or sqlite:PATH for nodes on one machine"),
        Required,
        "The metadata store, without credentials.",
    ),
    setting(
        "metadata_options.ca",
        Kind::Path,
        Unset("the CAs of the system"),
        "PEM file with the CA of a metadata store that is spoken to over TLS.",
    ),
    setting(
        "metadata_options.cert",
        Kind::Path,
        Unset("none"),
        "PEM file with the certificate that the node shows to the metadata store.",
    ),
    setting("metadata_options.key", Kind::Path, Unset("none"), "PEM file with its private key."),
    setting(
        "metadata_options.username",
        text("a name"),
        Unset("none"),
        "Who the node is to the metadata store; goes with `metadata_options.password_file`.",
    ),
    setting(
        "metadata_options.password_file",
        Kind::Path,
        Unset("none"),
        "File with the password; a newline at its end is not part of it.",
    ),
    setting(
        "store",
        text("s3://bucket/prefix or file:///directory"),
        Required,
        "The object store, without credentials.",
    ),
    setting(
        "store_options.endpoint",
        text("a URL such as https://host:port"),
        Unset("`AWS_ENDPOINT_URL`, else Amazon's own"),
        "The S3 server.",
    ),
    setting("store_options.region", text("a name"), Unset("`AWS_REGION`"), "Its region."),
    setting(
        "store_options.allow_http",
        Kind::Switch,
        Switch(false),
        "Whether it may be spoken to without TLS.",
    ),
    setting("buffer.memory.dir", Kind::Path, Required, "A directory on a tmpfs, of this node alone."),
    setting(
        "buffer.memory.bytes",
        bytes(MIB, 1 << 44),
        Bytes(ARENA_BYTES),
        "Size of the memory buffer; a larger batch is always refused. A change takes effect at a start that finds the buffer empty.",
    ),
    setting(
        "buffer.memory.chunk_bytes",
        bytes(4 * KIB, 64 * MIB),
        Bytes(CHUNK_BYTES as u64),
        "What a segment with entries holds of it at least; no more than `buffer.memory.bytes`.",
    ),
    setting(
        "buffer.disk.dir",
        Kind::Path,
        Unset("none: no logs of durability `disk` on this node"),
        "A directory on a local disk, of this node alone, for logs of durability `disk`.",
    ),
    setting(
        "buffer.disk.bytes",
        bytes(MIB, 1 << 44),
        Bytes(ARENA_BYTES),
        "Size of the disk buffer, in memory and on disk; its files may take twice as much and four files more.",
    ),
    setting(
        "buffer.disk.file_bytes",
        bytes(JOURNAL_FILE_BYTES_MIN, JOURNAL_FILE_BYTES_MAX),
        Bytes(JOURNAL_FILE_BYTES),
        "Size of one of its files; they are deleted one by one as entries are archived.",
    ),
    setting(
        "flush.bytes",
        bytes(1, PART_BYTES_MAX),
        Bytes(FLUSH_BYTES),
        "A part is uploaded when so much is committed and waits.",
    ),
    setting(
        "flush.min_bytes",
        bytes(1, PART_BYTES_MAX),
        Bytes(FLUSH_BYTES_MIN),
        "… or when so much waits, the oldest of it for `flush.interval`; `flush.bytes` where that is less.",
    ),
    setting("flush.interval", up_to_an_hour(1), Time(time(FLUSH_INTERVAL)), "See `flush.min_bytes`."),
    setting(
        "flush.max_interval",
        up_to_an_hour(1),
        Time(time(FLUSH_INTERVAL_MAX)),
        "… or when the oldest has waited for so long; `flush.interval` where that is more.",
    ),
    setting(
        "lease_ttl",
        millis(1_000, 60_000),
        Time(Duration::from_secs(5)),
        "Others learn after so long that this node has ended without a farewell.",
    ),
    setting(
        "writer_timeout",
        millis(1_000, 3_600_000),
        Time(time(WRITER_TIMEOUT)),
        "A writer whose stream has been gone for so long, at enough members, has gone: the log is sealed.",
    ),
    setting(
        "recovery.grace",
        GRACE,
        Time(time(RECOVERY_GRACE)),
        "How long the recovery of a segment waits for members that it could do without.",
    ),
    setting(
        "recovery.silence",
        SILENCE,
        Time(time(RECOVERY_SILENCE)),
        "How long it waits for a silent member that could hold a copy.",
    ),
    setting(
        "drain_timeout",
        up_to_an_hour(0),
        Time(Duration::from_secs(30)),
        "A node that was told to stop waits for so long at most until what it holds is archived.",
    ),
    setting(
        "quic.max_datagram",
        DATAGRAM,
        Bytes(*MAX_DATAGRAM.end() as u64),
        "Largest UDP payload; what the path carries is found out.",
    ),
    setting(
        "quic.keep_alive",
        KEEP_ALIVE,
        Time(Duration::from_secs(1)),
        "A quiet connection that the node has opened is kept alive with a packet at this interval.",
    ),
    setting("log", FILTER, Text("info"), "Which messages are logged, to the standard error."),
    setting("log_format", LOG_FORMAT, Text("text"), "How: lines of text, or of JSON."),
];
