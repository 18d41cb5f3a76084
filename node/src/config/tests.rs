use super::*;

const LEAST: &str = r#"
name = "node-1"
listen = "127.0.0.1:7781"
admin = "127.0.0.1:7780"
metadata = "etcd://127.0.0.1:2379/piculet"
store = "s3://bucket/prefix"
tls = { ca = "ca.pem", cert = "certs/node-1.pem", key = "/keys/node-1.key" }
buffer = { memory = { dir = "buffer" } }
"#;

fn load(text: &str, flags: &NodeFlags) -> (PathBuf, Result<NodeConfig, ConfigError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    std::fs::write(&path, text).unwrap();
    let config = NodeConfig::load(&path, flags);
    (dir.path().to_owned(), config)
}

#[test]
fn the_least_file_gets_every_default() {
    let (dir, config) = load(LEAST, &NodeFlags::default());
    let config = config.unwrap();
    assert_eq!(config.advertise, ["127.0.0.1:7781"]);
    assert_eq!(config.arena(), ArenaOptions::default());
    assert_eq!(config.flush.options(), FlushOptions::default());
    assert_eq!(config.transport(), TransportOptions::default());
    assert_eq!((config.lease_ttl_ms, config.drain_timeout_ms), (5_000, 30_000));
    assert_eq!(config.tls.ca, dir.join("ca.pem"));
    assert_eq!(config.tls.cert, dir.join("certs/node-1.pem"));
    assert_eq!(config.tls.key, Path::new("/keys/node-1.key"));
    assert_eq!(config.buffer.memory.dir, dir.join("buffer"));
}

#[test]
fn flags_override_the_file() {
    let flags = NodeFlags {
        name: Some(NodeId::new("other").unwrap()),
        listen: Some("127.0.0.1:1".parse().unwrap()),
        admin: Some("127.0.0.1:2".parse().unwrap()),
    };
    let config = load(LEAST, &flags).1.unwrap();
    assert_eq!((config.name.as_str(), config.listen.port(), config.admin.port()), ("other", 1, 2));
    assert_eq!(config.advertise, ["127.0.0.1:1"]);
}

#[test]
fn what_is_written_reads_back() {
    let config = load(LEAST, &NodeFlags::default()).1.unwrap();
    let text = toml::to_string(&config).unwrap();
    assert_eq!(load(&text, &NodeFlags::default()).1.unwrap(), config, "{text}");
}

#[test]
fn lower_and_higher_settings_carry_their_defaults_along() {
    let text = format!("{LEAST}\nflush = {{ bytes = 1000, interval_ms = 100000 }}");
    let options = load(&text, &NodeFlags::default()).1.unwrap().flush.options();
    assert_eq!(options.bytes_min, 1000);
    assert_eq!(options.interval_max, options.interval);
}

#[test]
fn values_out_of_bounds_are_refused_by_file_key_and_value() {
    let dir = r#"dir = "b""#;
    for (key, value, from, to) in [
        ("listen", "0.0.0.0:7781", "127.0.0.1:7781", "0.0.0.0:7781".to_owned()),
        ("listen", "127.0.0.1:0", "127.0.0.1:7781", "127.0.0.1:0".to_owned()),
        ("advertise", "\"host\"", "admin =", "advertise = [\"host\"]\nadmin =".to_owned()),
        ("buffer.memory.bytes", "7", r#"dir = "buffer""#, format!("{dir}, bytes = 7")),
        ("buffer.memory.chunk_bytes", "9", r#"dir = "buffer""#, format!("{dir}, chunk_bytes = 9")),
        ("flush.bytes", "0", "admin =", "flush.bytes = 0\nadmin =".to_owned()),
        ("flush.min_bytes", "9000000", "admin =", "flush.min_bytes = 9000000\nadmin =".to_owned()),
        ("flush.interval_ms", "0", "admin =", "flush.interval_ms = 0\nadmin =".to_owned()),
        ("flush.max_interval_ms", "999", "admin =", "flush.max_interval_ms = 999\nadmin =".to_owned()),
        ("quic.max_datagram", "500", "admin =", "quic.max_datagram = 500\nadmin =".to_owned()),
        ("lease_ttl_ms", "10", "admin =", "lease_ttl_ms = 10\nadmin =".to_owned()),
        ("drain_timeout_ms", "3600001", "admin =", "drain_timeout_ms = 3600001\nadmin =".to_owned()),
    ] {
        let text = LEAST.replace(from, &to);
        assert_ne!(text, LEAST, "{key}");
        let error = load(&text, &NodeFlags::default()).1.expect_err(key);
        let ConfigError::Value { key: found, value: shown, .. } = &error else { panic!("{key}: {error}") };
        assert_eq!((*found, shown.as_str()), (key, value));
        let message = error.to_string();
        assert!(message.contains("node.toml") && message.contains("expected"), "{message}");
    }
}

#[test]
fn what_no_setting_has_is_refused_with_its_place() {
    for (named, text) in [
        ("colour", format!("colour = 1\n{LEAST}")),
        ("node name", LEAST.replace("node-1\"\nlisten", "no de\"\nlisten")),
        ("metadata", LEAST.replace("metadata", "metedata")),
    ] {
        let error = load(&text, &NodeFlags::default()).1.expect_err(named).to_string();
        assert!(error.contains("node.toml") && error.contains(named), "{error}");
    }
    let missing = NodeConfig::load(Path::new("/nowhere/node.toml"), &NodeFlags::default()).unwrap_err();
    assert!(missing.to_string().contains("/nowhere/node.toml"), "{missing}");
}
