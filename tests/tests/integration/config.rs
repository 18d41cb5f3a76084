//! `piculet config`, and settings that are refused before anything is started.

use piculet_node::local::ScratchDir;
use piculet_tests::{command, run_piculet};
use std::fs;

const NODE: &str = r#"name = "node-1"
listen = "127.0.0.1:7781"
metadata = "etcd://127.0.0.1:2379/piculet"
store = "s3://bucket/prefix"
tls = { ca = "ca.pem", cert = "node-1.pem", key = "node-1.key" }
buffer.memory.dir = "buffer"
flush.interval = "2s"
"#;

#[tokio::test]
async fn every_setting_is_shown_with_where_it_came_from() {
    let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
    fs::write(dir.path().join("node.toml"), NODE).expect("it can be written");
    let mut show = command(["config", "show", "--config", "node.toml", "--set", "log=debug"]);
    show.current_dir(dir.path()).env("PICULET_NODE_LEASE_TTL", "3000");
    let shown = run_piculet(show, b"").await.ok();
    let line = |key: &str| {
        let words = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        words.into_iter().find(|words| words[0] == key).unwrap_or_else(|| panic!("no {key} in {shown}"))
    };
    assert_eq!(line("flush.interval"), ["flush.interval", "2s", "node.toml:7"]);
    assert_eq!(line("lease_ttl"), ["lease_ttl", "3s", "PICULET_NODE_LEASE_TTL"]);
    assert_eq!(line("log"), ["log", "debug", "--set"]);
    assert_eq!(line("buffer.memory.bytes"), ["buffer.memory.bytes", "1GiB", "default"]);
    assert_eq!(line("metadata_options.ca"), ["metadata_options.ca", "-", "default"]);
    assert_eq!(line("tls.ca")[1], dir.path().join("ca.pem").display().to_string());

    fs::write(dir.path().join("piculet.toml"), "nodes = [\"a:1\"]\n[writer]\nsegment_age = \"1h\"\n")
        .expect("it can be written");
    let mut show = command(["config", "show", "--client"]);
    show.current_dir(dir.path()).env("PICULET_CLIENT_CONFIG", "piculet.toml").env("PICULET_CERT", "x");
    let ran = run_piculet(show, b"").await;
    let shown = ran.ok();
    assert!(shown.contains("piculet.toml:3") && shown.contains("1h"), "{shown}");
    assert!(ran.err.contains("PICULET_CERT sets nothing; did you mean PICULET_CERTS?"), "{}", ran.err);
}

#[tokio::test]
async fn settings_that_are_refused_end_every_command_with_code_2() {
    let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
    fs::write(dir.path().join("node.toml"), NODE.replace("flush.interval", "flush.intervall"))
        .expect("it can be written");
    fs::write(dir.path().join("piculet.toml"), "nodes = [\"a:1\"]\nread_ahed = 1\n")
        .expect("it can be written");
    let run = async |args: &[&str], variable: &str| {
        let mut command = command(args);
        command.current_dir(dir.path()).env(variable, "maybe");
        run_piculet(command, b"").await
    };
    let interval = ["node.toml:7", "flush.intervall", "\"2s\"", "did you mean flush.interval?"];
    run(&["config", "show", "--config", "node.toml"], "OTHER").await.failed(2, &interval);
    run(&["node", "--config", "node.toml"], "OTHER").await.failed(2, &interval);
    let level = ["PICULET_NODE_LOG", "\"maybe\"", "a filter such as info"];
    run(&["node", "--config", "node.toml"], "PICULET_NODE_LOG").await.failed(2, &level);
    run(&["node", "--set", "name"], "OTHER").await.failed(2, &["KEY=VALUE"]);
    run(&["status"], "OTHER").await.failed(2, &["nodes is not set", "PICULET_NODES", "--set nodes=…"]);
    run(&["status"], "PICULET_LOG").await.failed(2, &["PICULET_LOG", "\"maybe\""]);
    let ahead = ["piculet.toml:2", "read_ahed", "did you mean read_ahead?"];
    run(&["read", "log", "--client-config", "piculet.toml"], "OTHER").await.failed(2, &ahead);
    run(&["status", "--nodes", "a:1"], "PICULET_CALL_TIMEOUT").await.failed(2, &["PICULET_CALL_TIMEOUT: "]);
}
