//! Settings of the commands that talk to nodes.

use super::form::{
    ADDRESSES, DATAGRAM, GIB, GRACE, KEEP_ALIVE, MIB, SILENCE, bytes, millis, text, up_to_an_hour,
};
use crate::settings::Fallback::{Bytes, Required, Switch, Text, Time, Unset};
use crate::settings::{Fallback, Kind, Refusal, Schema, Setting, Settings, SettingsError, Sources};
use piculet_client::transport::{Identity, MAX_DATAGRAM, TlsError};
use piculet_client::{ClientOptions, S3Options, StoreOptions};
use piculet_quorum::limits::{
    FLUSH_BYTES, IDLE_AFTER, MEMBER_TIMEOUT, PART_BYTES_MAX, RECOVERY_GRACE, RECOVERY_SILENCE,
    RETRANSMIT_BYTES, SEGMENT_AGE, SEGMENT_BYTES, WRITER_TIMEOUT,
};
use piculet_quorum::time::Span;
use piculet_quorum::writer::WriterOptions;
use std::path::PathBuf;
use std::time::Duration;

/// What comes before the table in docs/CONFIGURATION.md.
pub const INTRODUCTION: &str = "\
Set in a file such as `piculet.toml`, with `PICULET_…`, or with flags of `append`, `read`, `log`, `status`, `ping` and `bench append`.
Credentials of an S3 store come from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and the rest of the usual environment.
What they and all other commands but `node` log, `PICULET_LOG` says: a filter such as `warn,piculet_client=debug`.";

/// The variable that names the file.
pub const FILE_VARIABLE: &str = "PICULET_CLIENT_CONFIG";

const fn setting(key: &'static str, kind: Kind, default: Fallback, about: &'static str) -> Setting {
    Setting { key, kind, default, about }
}

const fn time(span: Span) -> Fallback {
    Time(Duration::from_micros(span.0))
}

/// Everything that can be set for a command that talks to nodes.
pub static SCHEMA: Schema = Schema {
    subject: "client",
    prefix: "PICULET_",
    owns_prefix: false,
    foreign: &["PICULET_NODE_", FILE_VARIABLE],
    settings: &SETTINGS,
};

static SETTINGS: [Setting; 24] = [
    setting(
        "nodes",
        ADDRESSES,
        Required,
        "Addresses of any of the nodes; the others are found through these.",
    ),
    setting(
        "certs",
        Kind::Path,
        Text("certs"),
        "Directory with ca.pem and the client's certificate and key.",
    ),
    setting(
        "identity",
        text("a name"),
        Text("client"),
        "Name of the client: its files are NAME.pem and NAME.key.",
    ),
    setting(
        "name",
        text("a text of up to 128 bytes"),
        Unset("process id and host name"),
        "Who writes: what others are told who find a log taken.",
    ),
    setting(
        "store",
        text("s3://bucket/prefix or file:///directory"),
        Unset("none: no writing to logs of durability `object`"),
        "The object store of the nodes, without credentials; only writers of logs of durability `object` need it.",
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
    setting(
        "store_options.part_bytes",
        bytes(1, PART_BYTES_MAX),
        Bytes(FLUSH_BYTES),
        "Entries that wait go into one part, up to about so much.",
    ),
    setting(
        "store_options.linger",
        millis(0, 1_000),
        Time(Duration::ZERO),
        "How long the first of them waits for others when no upload is under way.",
    ),
    setting(
        "max_datagram",
        DATAGRAM,
        Bytes(*MAX_DATAGRAM.end() as u64),
        "Largest UDP payload; what the path carries is found out.",
    ),
    setting(
        "keep_alive",
        KEEP_ALIVE,
        Time(Duration::from_secs(1)),
        "A quiet connection is kept alive with a packet at this interval.",
    ),
    setting(
        "call_timeout",
        up_to_an_hour(100),
        Time(Duration::from_secs(5)),
        "How long one call waits for an answer, whichever node it comes from.",
    ),
    setting(
        "takeover_timeout",
        up_to_an_hour(100),
        Time(Duration::from_secs(30)),
        "How long a takeover waits for members of the last segment that it cannot do without.",
    ),
    setting(
        "writer_timeout",
        millis(1_000, 3_600_000),
        time(WRITER_TIMEOUT),
        "A log whose writer's stream has been gone for so long, at enough members, may be opened by another.",
    ),
    setting(
        "read_timeout",
        up_to_an_hour(100),
        Time(Duration::from_secs(30)),
        "How long a reader that is owed entries goes on without any progress.",
    ),
    setting(
        "read_ahead",
        bytes(MIB, 16 * GIB),
        Bytes(64 * MIB),
        "Entries that a reader keeps until they are known to be committed.",
    ),
    setting(
        "writer.segment_bytes",
        bytes(MIB, 64 * GIB),
        Bytes(SEGMENT_BYTES),
        "A segment is rolled when it holds so much.",
    ),
    setting(
        "writer.segment_age",
        millis(1_000, 7 * 24 * 3_600_000),
        time(SEGMENT_AGE),
        "A segment that is not empty is rolled when it is so old.",
    ),
    setting(
        "writer.member_timeout",
        millis(10, 60_000),
        time(MEMBER_TIMEOUT),
        "A member is given up when bytes stay unacknowledged, or its link down, for so long.",
    ),
    setting(
        "writer.retransmit_bytes",
        bytes(MIB, 16 * GIB),
        Bytes(RETRANSMIT_BYTES as u64),
        "Entries that a writer keeps until every member holds them.",
    ),
    setting(
        "writer.idle_after",
        millis(100, 24 * 3_600_000),
        time(IDLE_AFTER),
        "A writer parks when everything is archived and nothing was appended for so long.",
    ),
    setting(
        "recovery.grace",
        GRACE,
        time(RECOVERY_GRACE),
        "How long a takeover waits for members that it could do without.",
    ),
    setting(
        "recovery.silence",
        SILENCE,
        time(RECOVERY_SILENCE),
        "How long it waits for a silent member that could hold a copy.",
    ),
];

/// Refuses values that must not be there.
fn check(settings: &Settings) -> Vec<Refusal> {
    let mut refused = Vec::new();
    for key in ["store", "store_options.endpoint"] {
        let text = settings.text_if_set(key).unwrap_or_default();
        if text.split_once("://").is_some_and(|(_, rest)| rest.contains('@')) {
            let expected = "no credentials in the URL: docs/CONFIGURATION.md says where they belong";
            refused.push(settings.refusal(key, expected));
        }
    }
    if settings.text_if_set("store").is_some_and(|url| url.starts_with("memory:")) {
        let expected = "s3://bucket/prefix or file:///directory: a process's own memory keeps nothing";
        refused.push(settings.refusal("store", expected));
    }
    refused
}

/// Settings of a command that talks to nodes.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    settings: Settings,
}

impl ClientConfig {
    /// Reads all sources, and checks every value.
    ///
    /// # Errors
    /// When the file cannot be read or is not TOML; else with everything that is refused.
    pub fn load(sources: &Sources) -> Result<Self, SettingsError> {
        let settings = Settings::load(&SCHEMA, sources)?;
        let refused = check(&settings);
        if refused.is_empty() { Ok(Self { settings }) } else { Err(SettingsError::Refused(refused)) }
    }

    /// Every setting with where it came from.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What a client takes, with its certificate read.
    ///
    /// # Errors
    /// When the certificate or its key cannot be read or are of no use.
    pub fn options(&self) -> Result<ClientOptions, TlsError> {
        let settings = &self.settings;
        let (certs, identity): (PathBuf, _) = (settings.path("certs"), settings.text("identity"));
        let file = |extension: &str| certs.join(format!("{identity}.{extension}"));
        let identity = Identity::load(&certs.join("ca.pem"), &file("pem"), &file("key"))?;
        let mut options = ClientOptions::new(settings.list("nodes"), identity);
        if let Some(name) = settings.text_if_set("name") {
            options.name = name;
        }
        options.store = settings.text_if_set("store").map(|url| StoreOptions {
            s3: S3Options {
                endpoint: settings.text_if_set("store_options.endpoint"),
                region: settings.text_if_set("store_options.region"),
                allow_http: settings.switch("store_options.allow_http"),
                ..S3Options::default()
            },
            part_bytes: settings.bytes("store_options.part_bytes"),
            linger: settings.time("store_options.linger"),
            ..StoreOptions::new(url)
        });
        options.transport = super::transport(settings, "max_datagram", "keep_alive");
        options.writer = WriterOptions {
            member_timeout: settings.time("writer.member_timeout").into(),
            retransmit_bytes: settings.bytes("writer.retransmit_bytes"),
            segment_bytes: settings.bytes("writer.segment_bytes"),
            segment_age: settings.time("writer.segment_age").into(),
            idle_after: settings.time("writer.idle_after").into(),
            ..WriterOptions::default()
        };
        options.recovery = super::recovery(settings);
        options.call_timeout = settings.time("call_timeout");
        options.takeover_timeout = settings.time("takeover_timeout");
        options.writer_timeout = settings.time("writer_timeout");
        options.read_timeout = settings.time("read_timeout");
        options.read_ahead = settings.length("read_ahead");
        Ok(options)
    }
}
