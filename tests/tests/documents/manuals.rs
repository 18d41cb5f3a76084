//! The examples in the help of every command, and those of the client library, run against a cluster.

use crate::shell::Shell;
use piculet_node::local::tools;
use piculet_tests::{Setup, Stage, with_stage};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Commands whose help is tried. The others start clusters of their own and run for long: `node` and
/// `dev` are in the README, `declare-lost` wants a node that is gone, `demo` and `bench` have targets of their own.
const COMMANDS: [&str; 22] = [
    "config",
    "config show",
    "config doc",
    "certs",
    "certs ca",
    "certs node",
    "certs client",
    "log",
    "log create",
    "log list",
    "log describe",
    "log set",
    "log delete",
    "log truncate",
    "log tail",
    "append",
    "read",
    "status",
    "ping",
    "version",
    "completions",
    "bench append",
];
/// What asks a person, does not end by itself, takes long, or names a bucket.
const NOT_RUN: [&str; 4] = ["piculet log delete orders", "--follow", "bench append", "s3://bucket"];
/// Programs of others that examples pass things to and from, as far as these examples use them.
const OTHERS: [(&str, &str); 3] = [("less", "cat"), ("jq", "cat"), ("producer", "echo produced")];

/// A built example of the client library.
pub(crate) fn example(name: &str) -> PathBuf {
    let piculet = tools::piculet().expect("piculet is built: cargo build -p piculet-node");
    let path = piculet.with_file_name("examples").join(name);
    assert!(path.exists(), "{} is not built: cargo build -p piculet-client --examples", path.display());
    path
}

/// A shell of somebody who uses the cluster.
fn user(stage: &Stage) -> Shell {
    let home = stage.dir().join("home");
    fs::create_dir(&home).expect("a directory");
    let mut shell = Shell::new(&home);
    for (name, value) in [
        ("PICULET_NODES", stage.addresses().join(",")),
        ("PICULET_CERTS", stage.cluster.certs().display().to_string()),
        ("HOME", home.display().to_string()),
    ] {
        shell.variables.insert(name.to_owned(), value);
    }
    shell
}

fn write_program(path: &Path, body: &str) {
    fs::write(path, format!("#!/bin/sh\n{body}\n")).expect("it can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it can be run");
}

/// What the examples expect to find.
async fn furnish(shell: &mut Shell, stage: &Stage) {
    let home = shell.dir.clone();
    let lines: String = (0..6000).map(|n| format!("{{\"order\":{n}}}\n")).collect();
    fs::write(home.join("orders.ndjson"), lines).expect("it can be written");
    fs::write(home.join("disk.img"), vec![7; 200_000]).expect("it can be written");
    fs::copy(stage.dir().join("node-1/node.toml"), home.join("node.toml")).expect("a node has settings");
    for dir in [".zfunc", ".config/fish/completions"] {
        fs::create_dir_all(home.join(dir)).expect("a directory");
    }
    for (name, body) in OTHERS {
        write_program(&home.join(".bin").join(name), body);
    }
    for log in ["orders", "old", "images"] {
        shell.run(&format!("piculet append {log} --create --file orders.ndjson")).await.ok();
    }
}

/// The examples in the help of a command, without what is said about them.
async fn examples(shell: &mut Shell, command: &str) -> Vec<String> {
    let help = shell.run(&format!("piculet {command} --help")).await.ok();
    let (_, shown) = help.split_once("Examples:").or_else(|| help.split_once("Example:")).expect("examples");
    let lines = shown.lines().map(str::trim).filter(|line| line.contains("piculet "));
    // What is said about an example stands two blanks or more behind it.
    lines.map(|line| line.split("  ").next().unwrap_or(line).to_owned()).collect()
}

#[tokio::test]
async fn the_examples_in_the_help_work() {
    with_stage(Setup::default(), async |stage| {
        let mut shell = user(stage);
        furnish(&mut shell, stage).await;
        let mut run = 0;
        for command in COMMANDS {
            for line in examples(&mut shell, command).await {
                if NOT_RUN.iter().any(|not| line == *not || (not.len() < 20 && line.contains(not))) {
                    continue;
                }
                let line = line.replace("10.0.0.1:7781,10.0.0.2:7781", &stage.addresses()[..2].join(","));
                // Each example starts from the same: what it makes is not there, what it uses is.
                if line.contains("certs") {
                    shell.variables.remove("PICULET_CERTS");
                    let old = match line.as_str() {
                        "piculet certs ca" => "certs",
                        line if line.contains("certs ca") => "piculet-ca",
                        _ => "certs/client.* certs/node-1.*",
                    };
                    shell.run(&format!("rm -rf {old}")).await.ok();
                }
                if let Some(name) = line.strip_prefix("piculet log create ") {
                    shell.run(&format!("piculet log delete {name} --yes || true")).await.ok();
                }
                if line.contains("append new") {
                    shell.run("piculet log delete new --yes || true").await.ok();
                }
                let ran = shell.run(&line).await;
                assert_eq!(ran.code, Some(0), "piculet {command} --help: {line}\n{}", ran.err);
                run += 1;
                let certs = stage.cluster.certs().display().to_string();
                shell.variables.insert("PICULET_CERTS".to_owned(), certs);
                if ["create", "delete", "truncate"]
                    .iter()
                    .any(|verb| line.contains(&format!("log {verb} orders")))
                {
                    shell.run("piculet log delete orders --yes || true").await.ok();
                    shell.run("piculet append orders --create --file orders.ndjson").await.ok();
                }
            }
        }
        assert!(run > COMMANDS.len(), "{run} examples were run");
    })
    .await;
}

#[tokio::test]
async fn the_examples_of_the_library_work() {
    with_stage(Setup::default(), async |stage| {
        let shell = &mut user(stage);
        shell.run(&example("tour").display().to_string()).await.ok();
    })
    .await;
}
