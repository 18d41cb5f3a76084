mod client;
mod refusals;

use super::*;
use crate::settings::{Kind, Refusal, Schema, Setting, SettingsError, Sources};
use piculet_quorum::archiver::FlushOptions;
use piculet_storage::ArenaOptions;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const LEAST: &str = r#"name = "node-1"
listen = "127.0.0.1:7781"
metadata = "etcd://127.0.0.1:2379/piculet"
store = "s3://bucket/prefix"
[tls]
ca = "ca.pem"
cert = "certs/node-1.pem"
key = "/keys/node-1.key"
[buffer.memory]
dir = "buffer"
"#;

/// A file, and what comes from elsewhere.
struct Place {
    dir: TempDir,
    sources: Sources,
}

impl Place {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        std::fs::write(&file, text).unwrap();
        Self { dir, sources: Sources { file: Some(file), ..Sources::default() } }
    }

    fn least() -> Self {
        Self::new(LEAST)
    }

    /// With this at the top of the least file.
    fn with(line: &str) -> Self {
        Self::new(&format!("{line}\n{LEAST}"))
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.sources.variables.push((name.into(), value.into()));
        self
    }

    fn set(mut self, key: &str, value: &str) -> Self {
        self.sources = self.sources.with_set(&[(key.to_owned(), value.to_owned())]);
        self
    }

    fn node(&self) -> NodeConfig {
        NodeConfig::load(&self.sources).unwrap_or_else(|error| panic!("{error}"))
    }

    fn refused(&self) -> Vec<Refusal> {
        match NodeConfig::load(&self.sources) {
            Err(SettingsError::Refused(refused)) => refused,
            other => panic!("{other:?}"),
        }
    }

    /// The only refusal, as it is printed; it must have all these parts.
    fn refused_with(&self, parts: &[&str]) {
        let refused = self.refused();
        assert_eq!(refused.len(), 1, "{refused:?}");
        for part in parts {
            assert!(refused[0].to_string().contains(part), "{part:?}: {}", refused[0]);
        }
    }

    fn source(&self, key: &str) -> String {
        let (_, settings) = NodeConfig::resolve(&self.sources).unwrap();
        settings.origin(key).to_string()
    }
}

fn settings_of_both() -> impl Iterator<Item = (&'static Schema, &'static Setting)> {
    [&node::SCHEMA, &super::client::SCHEMA]
        .into_iter()
        .flat_map(|schema| schema.settings.iter().map(move |setting| (schema, setting)))
}

#[test]
fn the_document_lists_exactly_what_there_is() {
    let document = document();
    let kept = include_str!("../../../docs/CONFIGURATION.md");
    assert_eq!(kept, document, "docs/CONFIGURATION.md is what `piculet config doc` prints: write it anew");
    for (_, setting) in settings_of_both() {
        assert!(document.contains(&format!("\n| `{}` | ", setting.key)), "{}", setting.key);
    }
}

#[test]
fn names_are_unique_and_defaults_within_bounds() {
    for schema in [&node::SCHEMA, &super::client::SCHEMA] {
        let mut names: Vec<_> =
            schema.settings.iter().map(|setting| setting.variable(schema.prefix)).collect();
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all, "{}", schema.subject);
        assert!(names.iter().all(|name| !schema.foreign.iter().any(|foreign| name.starts_with(foreign))));
    }
    for (_, Setting { key, kind, default, .. }) in settings_of_both() {
        if let Some(value) = default.value(kind) {
            let path = || matches!(kind, Kind::Path);
            assert!(path() || kind.reads(&value.to_string()) == Some(value.clone()), "{key}: {value}");
        }
    }
}

#[test]
fn the_least_file_gets_every_default() {
    let place = Place::least();
    let (config, dir) = (place.node(), place.dir.path());
    assert_eq!(config.advertise, ["127.0.0.1:7781"]);
    assert_eq!(config.admin, "127.0.0.1:7780".parse().unwrap());
    assert_eq!(config.arena(), ArenaOptions::default());
    assert_eq!(config.flush.options(), FlushOptions::default());
    assert_eq!(config.transport(), TransportOptions::default());
    assert_eq!(config.recovery(), RecoveryOptions::default());
    assert_eq!(
        (config.lease_ttl(), config.writer_timeout()),
        (Duration::from_secs(5), Duration::from_secs(5))
    );
    assert_eq!(config.drain_timeout(), Duration::from_secs(30));
    assert_eq!((config.log.filter.as_str(), config.log.json), ("info", false));
    assert_eq!(config.metadata_options, node::MetadataConfig::default());
    assert_eq!(config.tls.ca, dir.join("ca.pem"));
    assert_eq!(config.tls.cert, dir.join("certs/node-1.pem"));
    assert_eq!(config.tls.key, Path::new("/keys/node-1.key"));
    assert_eq!(config.buffer.memory.dir, dir.join("buffer"));
}

#[test]
fn every_setting_reaches_the_node() {
    let place = Place::new(
        r#"
name = "other"
listen = "0.0.0.0:1"
advertise = ["a:1", "[::1]:2"]
admin = "127.0.0.1:2"
metadata = "etcd://etcd:1"
store = "file:///objects"
lease_ttl = "7s"
writer_timeout = 8000
drain_timeout = "1min"
log = "debug"
log_format = "json"
tls = { ca = "/ca", cert = "/cert", key = "/key" }
quic = { max_datagram = 1300, keep_alive = "300ms" }
recovery = { grace = "10ms", silence = "1s" }
flush = { bytes = "1MiB", min_bytes = 1000, interval = "2s", max_interval = "3s" }

[metadata_options]
ca = "/meta/ca"
cert = "/meta/cert"
key = "/meta/key"
username = "piculet"
password_file = "password"

[store_options]
endpoint = "https://s3:1"
region = "eu"
allow_http = true

[buffer.memory]
dir = "/dev/shm/x"
bytes = "2GiB"
chunk_bytes = 0x2000

[buffer.disk]
dir = "disk"
bytes = "3GiB"
file_bytes = "8MiB"
"#,
    );
    let (config, (_, settings)) = (place.node(), NodeConfig::resolve(&place.sources).unwrap());
    let defaults: Vec<_> = settings.rows().into_iter().filter(|row| row.source == "default").collect();
    assert!(defaults.is_empty(), "this test forgets {defaults:?}");
    assert_eq!((config.name.as_str(), config.listen.port(), config.admin.port()), ("other", 1, 2));
    assert_eq!(config.advertise, ["a:1", "[::1]:2"]);
    assert_eq!((config.metadata.as_str(), config.store.as_str()), ("etcd://etcd:1", "file:///objects"));
    let seconds = Duration::from_secs;
    assert_eq!((config.lease_ttl(), config.writer_timeout()), (seconds(7), seconds(8)));
    assert_eq!((config.drain_timeout(), config.log.json), (seconds(60), true));
    assert_eq!(config.log.filter, "debug");
    assert_eq!(config.tls.cert, Path::new("/cert"));
    assert_eq!(config.transport().max_datagram, 1300);
    assert_eq!(config.transport().keep_alive, Duration::from_millis(300));
    assert_eq!(Duration::from(config.recovery().grace), Duration::from_millis(10));
    assert_eq!(Duration::from(config.recovery().silence), seconds(1));
    let flush = config.flush.options();
    assert_eq!((flush.bytes, flush.bytes_min), (1 << 20, 1000));
    assert_eq!(
        (Duration::from(flush.interval), Duration::from(flush.interval_max)),
        (seconds(2), seconds(3))
    );
    assert_eq!(config.metadata_options.cert.as_deref(), Some(Path::new("/meta/cert")));
    assert_eq!(config.metadata_options.username.as_deref(), Some("piculet"));
    assert_eq!(config.metadata_options.password_file, Some(place.dir.path().join("password")));
    assert_eq!((config.s3().endpoint.as_deref(), config.s3().allow_http), (Some("https://s3:1"), true));
    assert_eq!(config.arena(), ArenaOptions { bytes: 2 << 30, chunk_bytes: 0x2000 });
    let disk = config.disk().map(|disk| (disk.bytes, disk.file_bytes));
    assert_eq!(disk, Some((3 << 30, 8 << 20)));
    assert_eq!(config.buffer.disk.as_ref().map(|disk| disk.dir.clone()), Some(place.dir.path().join("disk")));
    assert!(config.transport().check().is_ok());
}

#[test]
fn a_flag_overrides_a_variable_and_a_variable_the_file() {
    let file = || Place::with("lease_ttl = 2000");
    let variable = || file().variable("PICULET_NODE_LEASE_TTL", "3s");
    let flag = || variable().set("lease_ttl", "4s");
    for (place, seconds, source) in [
        (Place::least(), 5, "default"),
        (file(), 2, "node.toml:1"),
        (variable(), 3, "PICULET_NODE_LEASE_TTL"),
        (flag(), 4, "--set"),
    ] {
        assert_eq!(place.node().lease_ttl(), Duration::from_secs(seconds), "{source}");
        let told = place.source("lease_ttl");
        assert!(told.ends_with(source), "{told}");
    }
    let mut named = flag();
    named.sources = named.sources.with_flag("--listen", "listen", Some("127.0.0.1:9"));
    assert_eq!((named.node().listen.port(), named.source("listen").as_str()), (9, "--listen"));
    assert_eq!(named.node().advertise, ["127.0.0.1:9"]);
    assert!(named.source("tls.cert").ends_with("node.toml:8"), "{}", named.source("tls.cert"));
}

#[test]
fn no_file_is_needed() {
    let mut place = Place::least();
    let (_, settings) = NodeConfig::resolve(&place.sources).unwrap();
    place.sources.file = None;
    for (row, setting) in settings.rows().into_iter().zip(node::SCHEMA.settings) {
        if let Some(value) = row.value {
            place = place.variable(&setting.variable(node::SCHEMA.prefix), &value);
        }
    }
    let (_, again) = NodeConfig::resolve(&place.sources).unwrap();
    let values = |settings: &Settings| settings.rows().into_iter().map(|row| row.value).collect::<Vec<_>>();
    assert_eq!(values(&again), values(&settings), "what is shown can be set");
}

#[test]
fn a_relative_path_is_relative_to_the_file_only_in_the_file() {
    let place = Place::with("metadata_options.ca = \"meta/ca.pem\"")
        .variable("PICULET_NODE_TLS_CA", "here.pem")
        .set("tls.cert", "there.pem");
    let config = place.node();
    assert_eq!(config.metadata_options.ca, Some(place.dir.path().join("meta/ca.pem")));
    assert_eq!(
        (config.tls.ca.as_path(), config.tls.cert.as_path()),
        ("here.pem".as_ref(), "there.pem".as_ref())
    );
    let metadata = |to: &str| Place::new(&LEAST.replace("etcd://127.0.0.1:2379/piculet", to));
    let place = metadata("sqlite:piculet.db");
    assert_eq!(place.node().metadata, format!("sqlite:{}", place.dir.path().join("piculet.db").display()));
    assert_eq!(metadata("sqlite:/var/piculet.db").node().metadata, "sqlite:/var/piculet.db");
    let flag = Place::least().set("metadata", "sqlite:piculet.db");
    assert_eq!(flag.node().metadata, "sqlite:piculet.db");
}

#[test]
fn lower_and_higher_settings_carry_their_defaults_along() {
    let place = Place::with("flush = { bytes = 1000, interval = \"100s\" }");
    let options = place.node().flush.options();
    assert_eq!(options.bytes_min, 1000);
    assert_eq!(options.interval_max, options.interval);
    assert_eq!(place.source("flush.min_bytes"), "default");
}

#[test]
fn the_password_is_what_the_file_holds() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    let options = node::MetadataConfig { password_file: Some(file.clone()), ..Default::default() };
    assert_eq!(node::MetadataConfig::default().options().unwrap().password, None);
    for (text, password) in
        [("hunter2\n", "hunter2"), (" two words ", " two words "), ("x\r\n", "x"), ("x\n\n", "x\n")]
    {
        std::fs::write(&file, text).unwrap();
        assert_eq!(options.options().unwrap().password.as_deref(), Some(password));
    }
    for bad in [String::new(), "\n".to_owned(), "hunter2".repeat(1000)] {
        std::fs::write(&file, bad).unwrap();
        let error = options.options().expect_err("it is refused").to_string();
        assert!(error.contains("password_file") && !error.contains("hunter2"), "{error}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(options.options().is_err());
}
