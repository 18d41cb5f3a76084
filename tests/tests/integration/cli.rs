//! The command line as its users know it, from certificates to entries.

use piculet_node::local::{Process, ScratchDir, free_port, http, tools};
use piculet_tests::{
    PATIENCE, Ran, Services, bounded, check_log, command, payload, run_piculet, signal, until,
};
use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// A cluster as its operator sets it up, with the commands and files of the README.
struct Site {
    nodes: Vec<(Process, PathBuf)>,
    addresses: Vec<String>,
    services: Arc<Services>,
    metadata: String,
    memory: ScratchDir,
    dir: ScratchDir,
}

impl Site {
    async fn start() -> Self {
        let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        let memory = ScratchDir::create(Path::new("/dev/shm")).expect("a directory");
        let services = Services::shared().await;
        let metadata = services.metadata();
        let mut site = Self { nodes: Vec::new(), addresses: Vec::new(), services, metadata, memory, dir };
        let made = site.run(&["certs", "ca"], b"").await.ok();
        assert!(made.contains("ca.pem") && made.contains("ca.key"), "{made}");
        site.run(&["certs", "client"], b"").await.ok();
        for name in ["node-1", "node-2", "node-3"] {
            site.run(&["certs", "node", name, "--host", "127.0.0.1"], b"").await.ok();
        }
        let mut admins = Vec::new();
        let ports: Vec<_> = (0..6).map(|_| free_port().expect("a port")).collect();
        for (n, ports) in (1..).zip(ports.chunks(2)) {
            let (listen, admin) = (ports[0].addr(), ports[1].addr());
            site.settings(&format!("node-{n}"), listen, admin);
            let process = site.node(&format!("node-{n}")).await;
            site.nodes.push(process);
            site.addresses.push(listen.to_string());
            admins.push(admin);
        }
        for admin in admins {
            until("a node is ready", async || {
                http::get(admin, "/readyz").await.is_ok_and(|a| a.status == 200).then_some(())
            })
            .await;
        }
        site
    }

    /// Writes the settings of a node: paths are relative to the file.
    fn settings(&self, name: &str, listen: SocketAddr, admin: SocketAddr) {
        let access = self.services.s3().access();
        let text = format!(
            r#"
name = "{name}"
listen = "{listen}"
advertise = ["{listen}"]
admin = "{admin}"
metadata = "{}"
store = "{}"

[store_options]
region = "{}"
endpoint = "{}"
allow_http = true

[tls]
ca = "certs/ca.pem"
cert = "certs/node-1.pem"
key = "certs/node-1.key"

[buffer.memory]
dir = "{}"
bytes = 67108864
"#,
            self.metadata,
            self.services.s3().store("site").url,
            access.region,
            access.endpoint,
            self.memory.path().join(name).display(),
        );
        let text =
            text.replace("certs/node-1", &format!("certs/{}", if name == "spare" { "node-1" } else { name }));
        fs::write(self.path(&format!("{name}.toml")), text).expect("it can be written");
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    async fn node(&self, name: &str) -> (Process, PathBuf) {
        let access = self.services.s3().access();
        let mut command = Command::new(tools::piculet().expect("piculet is built"));
        command.arg("node").arg("--config").arg(self.path(&format!("{name}.toml")));
        command.env("AWS_ACCESS_KEY_ID", &access.access_key).env("AWS_SECRET_ACCESS_KEY", &access.secret_key);
        let log = self.path(&format!("{name}.log"));
        (Process::start(name, command, &log).await.expect("it starts"), log)
    }

    /// Runs a command in the directory of the site, where the certificates are.
    async fn run(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut command = command(args);
        command.current_dir(self.dir.path());
        if !self.addresses.is_empty() {
            command.env("PICULET_NODES", self.addresses.join(","));
        }
        run_piculet(command, input).await
    }

    async fn stop(mut self) {
        for (process, log) in &mut self.nodes {
            assert!(process.stop(PATIENCE).await.expect("it ends").success(), "{}", log.display());
            check_log(log, &[]);
        }
    }
}

#[tokio::test]
async fn a_cluster_is_set_up_and_used_from_the_command_line() {
    let site = Site::start().await;
    assert!(site.run(&["log", "create", "orders"], b"").await.ok().starts_with("created orders"));
    site.run(&["log", "create", "orders"], b"").await.failed(4, &["orders", "exists already"]);
    site.run(&["log", "create", "images/2026"], b"").await.ok();
    let list = site.run(&["log", "list"], b"").await.ok();
    let names: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(names, ["images/2026", "orders"]);

    // Lines from a pipe, and from a file; the last has no newline.
    let piped = b"one\n\nthree\r\nfour";
    let done = site.run(&["append", "orders"], piped).await;
    done.ok();
    assert!(done.err.contains("appended 4 entries") && done.err.contains("offsets 0 to 4"), "{}", done.err);
    let lines: String = (0..5000).map(|n| format!("{{\"order\": {n}}}\n")).collect();
    fs::write(site.path("orders.ndjson"), &lines).expect("it can be written");
    let done = site.run(&["append", "orders", "--file", "orders.ndjson", "--acks"], b"").await;
    assert!(done.ok().ends_with("acknowledged 5004\n"), "{}", String::from_utf8_lossy(&done.out));
    let all = [&piped[..], lines.as_bytes()].concat();
    assert!(site.run(&["read", "orders"], b"").await.out == all, "it comes out as it went in");
    assert_eq!(
        site.run(&["read", "orders", "--from", "5002"], b"").await.ok(),
        "{\"order\": 4998}\n{\"order\": 4999}\n"
    );
    assert_eq!(site.run(&["read", "orders", "--from", "latest"], b"").await.ok(), "");
    let newlines = site.run(&["read", "orders", "--from", "3", "--newline"], b"").await.ok();
    assert!(newlines.starts_with("four\n{\"order\": 0}\n\n"), "{newlines}");

    // Any bytes, cut into records.
    let image = payload(4, 4, 3_000_001);
    fs::write(site.path("disk.img"), &image).expect("it can be written");
    let done =
        site.run(&["append", "images/2026", "--file", "disk.img", "--record-bytes", "65536"], b"").await;
    done.ok();
    assert!(done.err.contains("appended 46 entries"), "{}", done.err);
    assert!(site.run(&["read", "images/2026"], b"").await.out == image, "byte for byte");
    site.run(&["append", "new", "--create"], b"x").await.ok();

    let shown = site.run(&["log", "describe", "orders"], b"").await.ok();
    for part in
        ["name        orders", "epoch       2", "next base   5004", "node-1/1", "node-2/1", "node-3/1"]
    {
        assert!(shown.contains(part), "{shown}");
    }
    let status = site.run(&["status"], b"").await.ok();
    assert_eq!(status.lines().filter(|line| line.starts_with("node-")).count(), 3, "{status}");
    site.stop().await;
}

#[tokio::test]
async fn what_goes_wrong_on_the_command_line_is_said_with_its_remedy() {
    let site = Site::start().await;
    site.run(&["log", "create", "a"], b"").await.ok();
    site.run(&["append", "a"], b"one\n").await.ok();
    for args in [&["read", "nobody"][..], &["append", "nobody"], &["log", "describe", "nobody"]] {
        site.run(args, b"x").await.failed(3, &["nobody", "create it first"]);
    }
    for bad in ["a//b", "/a", "ü", ".."] {
        site.run(&["log", "create", bad], b"").await.failed(2, &["log name", "A-Z a-z 0-9"]);
    }
    site.run(&["read", "a", "--from", "2"], b"")
        .await
        .failed(6, &["offset 2", "beyond the end of the log", "its tail is 1"]);
    site.run(&["read", "a", "--from", "middle"], b"").await.failed(2, &["earliest, latest"]);
    site.run(&["append", "a", "--record-bytes", "0"], b"").await.failed(2, &["--record-bytes"]);
    site.run(&["append", "a", "--file", "missing.txt"], b"").await.failed(1, &["missing.txt"]);
    site.run(&["append", "a", "--certs", "elsewhere"], b"").await.failed(8, &["elsewhere/ca.pem"]);
    site.run(&["read", "a", "--identity", "stranger"], b"").await.failed(8, &["certs/stranger."]);
    site.run(&["certs", "ca"], b"").await.failed(1, &["ca.pem", "not overwritten"]);
    let nobody = free_port().expect("a port").addr().to_string();
    site.run(&["read", "a", "--nodes", &nobody], b"").await.failed(7, &[&nobody]);
    site.run(&["read", "a", "--nodes", "not-an-address"], b"")
        .await
        .failed(2, &["--nodes: nodes is \"not-an-address\"", "host:port"]);

    // A node whose ports are taken, or whose settings or certificates are missing.
    let (listen, admin) = (free_port().expect("a port"), free_port().expect("a port"));
    site.settings("spare", listen.addr(), admin.addr());
    let spare = site.path("spare.toml").display().to_string();
    let taken = TcpListener::bind(admin.addr()).expect("it is free");
    site.run(&["node", "--config", &spare], b"").await.failed(1, &[&admin.addr().to_string(), "in use"]);
    drop(taken);
    site.run(&["node", "--config", "none.toml"], b"").await.failed(2, &["none.toml"]);
    let text = fs::read_to_string(&spare).expect("it is there");
    fs::write(site.path("spare.toml"), text.replace("certs/node-1.key", "certs/none.key"))
        .expect("it can be written");
    site.run(&["node", "--config", &spare], b"").await.failed(1, &["certs/none.key"]);
    fs::write(site.path("spare.toml"), text.replace("67108864", "5")).expect("it can be written");
    site.run(&["node", "--config", &spare], b"").await.failed(2, &["buffer.memory.bytes is 5"]);
    fs::write(site.path("spare.toml"), text.replace("[tls]", "[tsl]")).expect("it can be written");
    site.run(&["node", "--config", &spare], b"")
        .await
        .failed(2, &["spare.toml:14", "tsl", "did you mean tls?"]);

    // None of that has cost the node of that name its place.
    assert_eq!(site.run(&["read", "a"], b"").await.ok(), "one\n");
    site.stop().await;
}

#[tokio::test]
async fn a_node_whose_quic_port_is_taken_says_so() {
    let site = Site::start().await;
    let (listen, admin) = (free_port().expect("a port"), free_port().expect("a port"));
    site.settings("spare", listen.addr(), admin.addr());
    let _taken = UdpSocket::bind(listen.addr()).expect("it is free");
    let access = site.services.s3().access();
    let mut command = command(["node", "--name", "spare", "--config"]);
    command.arg(site.path("spare.toml"));
    command.env("AWS_ACCESS_KEY_ID", &access.access_key).env("AWS_SECRET_ACCESS_KEY", &access.secret_key);
    run_piculet(command, b"").await.failed(1, &[&listen.addr().to_string(), "in use"]);
    site.stop().await;
}

/// The processes that have been started by this one, directly or not.
fn descendants(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|line| line.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    children.iter().flat_map(|child| [vec![*child], descendants(*child)].concat()).collect()
}

#[tokio::test]
async fn the_development_cluster_starts_serves_and_stops_without_a_trace() {
    let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
    let (data, log) = (dir.path().join("data"), dir.path().join("dev.log"));
    let mut dev = Command::new(tools::piculet().expect("piculet is built"));
    dev.args(["dev", "--buffer-mib", "16", "--dir"]).arg(&data);
    let mut dev = Process::start("dev", dev, &log).await.expect("it starts");
    let shown = || fs::read_to_string(&log).unwrap_or_default();
    let up = || async { shown().contains("Ctrl-C stops everything.") };
    dev.until("say that it is up", PATIENCE, up).await.expect("it comes up");
    let text = shown();
    let exported = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("export {name}=")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
    };
    let (nodes, certs) = (exported("PICULET_NODES"), exported("PICULET_CERTS"));
    let run = async |args: &[&str], input: &[u8]| {
        let mut command = command(args);
        command.env("PICULET_NODES", &nodes).env("PICULET_CERTS", &certs);
        run_piculet(command, input).await
    };
    run(&["append", "first", "--create"], b"hello\n").await.ok();
    assert_eq!(run(&["read", "first"], b"").await.ok(), "hello\n");

    let started = descendants(dev.pid());
    assert_eq!(started.len(), 3, "three nodes and nothing else");
    signal(dev.pid(), libc::SIGINT);
    let ended = bounded("it ends", dev.wait(PATIENCE)).await.expect("it ends");
    assert!(ended.success(), "{ended}: {}", shown());
    for pid in started {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} lives on");
    }
    for node in ["node-1", "node-2", "node-3"] {
        check_log(&data.join(node).join("node.log"), &[]);
    }
    let objects = fs::read_dir(data.join("objects")).expect("there is a store").count();
    assert!(objects > 0, "what was in memory was archived");
}

#[tokio::test]
async fn a_script_that_is_repeated_appends_once_at_an_expected_offset() {
    let site = Site::start().await;
    let append = ["append", "starts", "--create", "--expected-offset", "0"];
    let done = site.run(&append, b"one\ntwo\n").await;
    done.ok();
    assert!(done.err.contains("offsets 0 to 2"), "{}", done.err);
    site.run(&append, b"one\ntwo\n").await.failed(13, &["offset 2", "0 was expected"]);
    site.run(&["append", "starts", "--expected-offset", "9"], b"nine\n")
        .await
        .failed(13, &["offset 2", "9 was expected"]);
    let refused =
        site.run(&["--output", "json", "append", "starts", "--expected-offset", "0"], b"one\n").await;
    refused.failed(13, &["offset-mismatch"]);
    site.run(&["append", "starts", "--expected-offset", "2"], b"three\n").await.ok();
    let read = site.run(&["read", "starts"], b"").await.ok();
    assert_eq!(read, "one\ntwo\nthree\n", "what was refused is not there");
    site.stop().await;
}
