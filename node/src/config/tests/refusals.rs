//! What is refused, and how.

use super::*;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

#[test]
fn bad_values_of_every_setting_are_refused_wherever_they_stand() {
    for (schema, setting) in settings_of_both() {
        let expected = setting.kind.expected();
        let (bad, shown) = match setting.kind {
            Kind::Path | Kind::Text(_) => ("", "\"\""),
            Kind::List(_) => ("a:1,host", "\"a:1,host\""),
            Kind::Bytes { .. } | Kind::Time { .. } => ("-7", "\"-7\""),
            Kind::Switch => ("yes", "\"yes\""),
        };
        let variable = setting.variable(schema.prefix);
        // On a second line, in the table that it belongs to.
        let file = match setting.key.rsplit_once('.') {
            Some((table, key)) => format!("[{table}]\n{key} = {bad:?}\n"),
            None => format!("\n{} = {bad:?}\n", setting.key),
        };
        for (place, origin) in [
            (Place::new(&file), "node.toml:2".to_owned()),
            (Place::new("").variable(&variable, bad), variable),
            (Place::new("").set(setting.key, bad), "--set".to_owned()),
        ] {
            let error = match Settings::load(schema, &place.sources) {
                Err(SettingsError::Refused(refused)) => refused,
                other => panic!("{}: {other:?}", setting.key),
            };
            let mut of_it = error.iter().filter(|refusal| refusal.key == setting.key);
            let refusal = of_it.next().expect("it is refused").to_string();
            assert_eq!(of_it.next(), None, "it is not said to be missing as well");
            let all = format!("{origin}: {} is {shown}, expected {expected}", setting.key);
            assert!(refusal.ends_with(&all), "{refusal} is not {all}");
        }
    }
}

#[test]
fn values_of_a_wrong_type_or_out_of_bounds_are_refused_as_they_stand_there() {
    for (line, shown) in [
        ("lease_ttl = 10", "lease_ttl is 10, expected 1s to 1min"),
        ("lease_ttl = 5.0", "lease_ttl is 5.0, expected"),
        ("lease_ttl = -5", "lease_ttl is -5, expected"),
        ("lease_ttl = true", "lease_ttl is true, expected"),
        ("lease_ttl = 2026-01-01", "lease_ttl is 2026-01-01, expected"),
        ("lease_ttl = { s = 5 }", "lease_ttl is { s = 5 }, expected"),
        ("lease_ttl = \"\"\"5\n minutes\"\"\"", "lease_ttl is \"\"\"5  minutes\"\"\", expected"),
        ("drain_timeout = 3600001", "drain_timeout is 3600001, expected 0ms to 1h"),
        ("flush.bytes = 0", "flush.bytes is 0, expected 1B to 64MiB"),
        ("flush.bytes = 99999999999999999999", "flush.bytes is 99999999999999999999, expected"),
        ("quic.max_datagram = 500", "quic.max_datagram is 500, expected 1200B to 65000B"),
        ("advertise = [1]", "advertise is [1], expected one or more of"),
        ("advertise = []", "advertise is [], expected"),
        ("advertise = [\"host\"]", "advertise is [\"host\"], expected"),
        ("admin = 7780", "admin is 7780, expected ADDRESS:PORT"),
        ("log = \"a=b=c\"", "log is \"a=b=c\", expected a filter"),
        ("log = \"inof\"", "log is \"inof\", expected a filter"),
        ("flush = 7", "flush is 7, expected a table: flush.bytes, "),
    ] {
        Place::with(line).refused_with(&["node.toml:1: ", shown]);
    }
    let long = format!("log_format = \"{}\"", "x".repeat(5000));
    let refused = Place::with(&long).refused();
    assert!(refused[0].to_string().len() < 300 && refused[0].to_string().contains('…'), "{}", refused[0]);
    let mut bytes = Place::least();
    bytes.sources.variables.push(("PICULET_NODE_LOG".into(), OsString::from_vec(vec![0xff])));
    bytes.refused_with(&["PICULET_NODE_LOG: log is "]);
}

#[test]
fn what_does_not_exist_is_refused_with_what_was_meant() {
    Place::with("flush.intervall = 7").refused_with(&[
        "node.toml:1",
        "flush.intervall",
        "mean flush.interval?",
    ]);
    Place::with("max_datagram = 7").refused_with(&["max_datagram (set to 7)", "mean quic.max_datagram?"]);
    Place::with("lease_ttl_ms = 7").refused_with(&["mean lease_ttl?"]);
    Place::with("bufer = { memory = 1 }").refused_with(&["bufer (set to { memory = 1 })", "mean buffer?"]);
    Place::with("colour = \"red\"").refused_with(&["colour (set to \"red\")", "no setting of a node", "doc"]);
    Place::with("\"flush.bytes\" = 1").refused_with(&["\"flush.bytes\" ", "no setting"]);
    let empty = Place::new(&format!("{LEAST}\n[colours]\n"));
    empty.refused_with(&["node.toml:12", "colours"]);
    let variable = |name| Place::least().variable(name, "hunter2");
    variable("PICULET_NODE_BUFER_MEMORY_BYTES")
        .refused_with(&["PICULET_NODE_BUFER_MEMORY_BYTES", "mean PICULET_NODE_BUFFER_MEMORY_BYTES?"]);
    variable("PICULET_NODE_COLOUR").refused_with(&["environment: PICULET_NODE_COLOUR is no setting"]);
    let password = variable("PICULET_NODE_METADATA_OPTIONS_PASSWORD");
    password.refused_with(&["mean PICULET_NODE_METADATA_OPTIONS_PASSWORD_FILE?"]);
    assert!(!password.refused()[0].to_string().contains("hunter2"));
    Place::least()
        .set("flush.intervall", "7")
        .refused_with(&["--set: flush.intervall", "mean flush.interval?"]);
    Place::least().set("tls", "7").refused_with(&["--set: tls is \"7\", expected a table: tls.ca"]);
    let others = ["PICULET_NODES", "PICULET_NODE", "PICULET_LOG", "PATH"];
    let passed_over = others.into_iter().fold(Place::least(), |place, name| place.variable(name, "x"));
    passed_over.node();
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    for (line, parts) in [
        ("flush.min_bytes = \"9MiB\"", ["flush.min_bytes is 9MiB", "flush.bytes"]),
        ("flush.max_interval = 999", ["flush.max_interval is 999ms", "flush.interval"]),
        (
            "buffer.memory = { dir = \"b\", bytes = \"1MiB\", chunk_bytes = \"2MiB\" }",
            ["chunk_bytes is 2MiB", "bytes"],
        ),
        ("metadata_options.cert = \"/x\"", ["metadata_options.cert is /x", "metadata_options.key beside"]),
        ("metadata_options.key = \"/x\"", ["metadata_options.key is /x", "metadata_options.cert beside"]),
        ("metadata_options.username = \"x\"", ["username is x", "password_file beside"]),
        ("metadata_options.password_file = \"/x\"", ["password_file is /x", "username beside"]),
    ] {
        let least = LEAST.replace("[buffer.memory]\ndir = \"buffer\"\n", "");
        let rest = if line.starts_with("buffer") { least.as_str() } else { LEAST };
        Place::new(&format!("{line}\n{rest}")).refused_with(&["node.toml:1", parts[0], parts[1]]);
    }
    let changed = |from: &str, to: &str| Place::new(&LEAST.replace(from, to));
    for unreachable in ["0.0.0.0:7781", "[::]:7781", "127.0.0.1:0"] {
        changed("127.0.0.1:7781", unreachable).refused_with(&[
            "node.toml:2",
            "listen is ",
            unreachable,
            "advertise",
        ]);
    }
    changed("listen = \"127.0.0.1:7781\"", "")
        .refused_with(&["default: listen is 0.0.0.0:7781", "advertise"]);
    changed("s3://bucket/prefix", "memory:").refused_with(&["store is memory:", "s3://"]);
    let secret = changed("etcd://127", "etcd://me:hunter2@127");
    secret.refused_with(&["metadata is etcd://…@127.0.0.1", "no credentials"]);
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let place = Place::with("colour = 1\nlease_ttl = \"soon\"")
        .variable("PICULET_NODE_DRAIN_TIMEOUT", "never")
        .set("log_format", "xml");
    let keys: Vec<_> = place.refused().into_iter().map(|refusal| refusal.key).collect();
    assert_eq!(keys, ["colour", "lease_ttl", "drain_timeout", "log_format"]);
    let nothing = Place { sources: Sources::default(), ..Place::least() };
    let missing: Vec<_> = nothing.refused().into_iter().map(|refusal| refusal.key).collect();
    let required = ["name", "tls.ca", "tls.cert", "tls.key", "metadata", "store", "buffer.memory.dir"];
    assert_eq!(missing, required);
    let message = nothing.refused()[6].to_string();
    for part in
        ["buffer.memory.dir is not set", "PICULET_NODE_BUFFER_MEMORY_DIR", "--set buffer.memory.dir=…"]
    {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_setting_that_two_flags_give_is_refused() {
    Place::least().set("log", "debug").set("log", "warn").refused_with(&["log", "twice", "--set"]);
    let mut place = Place::least().set("name", "a");
    place.sources = place.sources.with_flag("--name", "name", Some("b"));
    place.refused_with(&["--name: name is given twice, by --set and by --name"]);
}

#[test]
fn secrets_are_not_shown() {
    let place = Place::least().set("store_options.endpoint", "https://me:hunter2@host:1");
    let error = NodeConfig::load(&place.sources).expect_err("it holds credentials").to_string();
    assert!(error.contains("https://…@host:1") && !error.contains("hunter2"), "{error}");
}

#[test]
fn filters_of_the_log_are_levels_alone_or_for_a_place() {
    for filter in ["off", "DEBUG", "warn,piculet_node=debug,piculet_client::reader=trace", "[append]=info"] {
        assert_eq!(Place::least().set("log", filter).node().log.filter, filter);
    }
    for filter in ["", "inof", "piculet_node", "warn,piculet_node=loud"] {
        Place::least().set("log", filter).refused_with(&["log is", "expected a filter"]);
    }
}
