//! The README, from its first command to its last: only the addresses, the bucket and the directory
//! of the buffers are others, for three machines are one here.

use crate::blocks::{Block, blocks, document, root};
use crate::shell::Shell;
use piculet_node::local::{Process, ScratchDir, http};
use piculet_tests::{PATIENCE, Services, check_log, until};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const NODES: [u8; 3] = [1, 2, 3];
/// What `orders.ndjson` holds.
const ORDERS: &str = "{\"order\":1}\n{\"order\":2}\n{\"order\":3}\n";

/// Three machines, an operator's and what they share.
struct Site {
    shell: Shell,
    network: String,
    services: Arc<Services>,
    nodes: Vec<(Process, PathBuf)>,
    memory: ScratchDir,
    dir: ScratchDir,
}

impl Site {
    async fn new() -> Self {
        let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        let memory = ScratchDir::create(Path::new("/dev/shm")).expect("a directory");
        let services = Services::shared().await;
        // A network of this process alone: all of 127.0.0.0/8 is this machine.
        let pid = std::process::id();
        let network = format!("127.{}.{}.", 64 + pid / 256 % 128, pid % 256);
        let operator = dir.path().join("operator");
        fs::create_dir(&operator).expect("a directory");
        fs::write(operator.join("orders.ndjson"), ORDERS).expect("it can be written");
        Self { shell: Shell::new(&operator), network, services, nodes: Vec::new(), memory, dir }
    }

    /// What the README shows, with the addresses of this machine.
    fn here(&self, text: &str) -> String {
        let metadata = self.services.metadata();
        let (etcd, _) = metadata.trim_start_matches("etcd://").split_once('/').expect("it has a prefix");
        let store = self.services.s3().store("readme");
        let s3 = self.services.s3().access().endpoint.replace("http://", "");
        text.replace("10.0.0.9:2379", etcd)
            .replace("10.0.0.8:9000", &s3)
            .replace("10.0.0.", &self.network)
            .replace("s3://my-bucket/piculet", &store.url)
            .replace("# endpoint", "endpoint")
            .replace("# allow_http", "allow_http")
    }

    fn machine(&self, n: u8) -> PathBuf {
        self.dir.path().join(format!("machine-{n}"))
    }

    /// Copies certificates and settings to the machines, as the README says.
    fn install(&self, settings: &str) {
        for n in NODES {
            let certs = self.machine(n).join("certs");
            fs::create_dir_all(&certs).expect("a directory");
            for file in ["ca.pem".to_owned(), format!("node-{n}.pem"), format!("node-{n}.key")] {
                fs::copy(self.shell.dir.join("certs").join(&file), certs.join(&file)).expect("it is there");
            }
            let own = settings.replace("node-1", &format!("node-{n}"));
            let own = own.replace("[\"10.0.0.1:", &format!("[\"10.0.0.{n}:"));
            let own = self.here(&own);
            let memory = self.memory.path().join(format!("node-{n}"));
            let own = own.replace("/dev/shm/piculet", &memory.display().to_string());
            fs::write(self.machine(n).join("node.toml"), own).expect("it can be written");
        }
    }

    /// A shell on one of the machines.
    fn on_machine(&self, n: u8) -> Shell {
        let access = self.services.s3().access();
        let mut shell = Shell { dir: self.machine(n), variables: self.shell.variables.clone() };
        for (name, value) in [
            ("AWS_ACCESS_KEY_ID", access.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", access.secret_key.clone()),
            // The usual ports are taken once on this machine, not three times.
            ("PICULET_NODE_LISTEN", format!("{}{n}:7781", self.network)),
            ("PICULET_NODE_ADMIN", self.admin(n).to_string()),
        ] {
            shell.variables.insert(name.to_owned(), value);
        }
        shell
    }

    fn admin(&self, n: u8) -> SocketAddr {
        format!("{}{n}:7780", self.network).parse().expect("an address")
    }

    async fn start_nodes(&mut self, line: &str) {
        for n in NODES {
            let log = self.machine(n).join("node.log");
            let command = self.on_machine(n).command(line);
            let process = Process::start(format!("node-{n}"), command, &log).await.expect("it starts");
            self.nodes.push((process, log));
        }
        for n in NODES {
            until("a node is ready", async || {
                http::get(self.admin(n), "/readyz").await.is_ok_and(|a| a.status == 200).then_some(())
            })
            .await;
        }
    }

    async fn run(&mut self, line: &str) {
        if line.starts_with("piculet node ") {
            self.start_nodes(line).await;
        } else if line.contains("node.toml") {
            self.on_machine(1).run(line).await.ok();
        } else if line.ends_with("--follow") {
            self.shell.run_until(line, ORDERS).await;
        } else {
            let line = self.here(line);
            self.shell.run(&line).await.ok();
        }
    }

    async fn stop(mut self) {
        for (process, log) in &mut self.nodes {
            assert!(process.stop(PATIENCE).await.expect("it ends").success(), "{}", log.display());
            check_log(log, &[]);
        }
    }
}

fn readme() -> Vec<Block> {
    blocks(&document("README.md"))
}

fn has(block: &Block, text: &str) -> bool {
    block.language == "sh" && block.text.contains(text)
}

/// A cluster by hand: certificates, settings, three nodes, and what an application's team does.
#[tokio::test]
async fn the_cluster_of_the_readme_works_as_it_says() {
    let all = readme();
    let settings = all.iter().find(|block| block.language == "toml").expect("settings of a node");
    let mut site = Site::new().await;
    let from = all.iter().position(|block| has(block, "piculet certs ca")).expect("certificates");
    let mut commands = 0;
    for block in &all[from..] {
        if block == settings {
            site.install(&settings.text);
        }
        for line in if block.language == "sh" { block.commands() } else { Vec::new() } {
            site.run(&line).await;
            commands += 1;
        }
    }
    assert!(commands > 10, "the commands of the README have been run");
    assert_eq!(site.nodes.len(), NODES.len());

    // The program that the README shows, against this cluster.
    let example = root().join("client/examples/hello.rs");
    let example = fs::read_to_string(example).expect("the example is there");
    let shown = all.iter().find(|block| block.language.starts_with("rust")).expect("a client in 20 lines");
    assert_eq!(shown.text, example, "client/examples/hello.rs is what the README shows");
    site.shell.run("piculet log create hello").await.ok();
    let hello = crate::manuals::example("hello");
    let said = site.shell.run(&hello.display().to_string()).await.ok();
    assert!(said.contains("0: "), "{said}");
    site.stop().await;
}

/// A cluster for trying out.
#[tokio::test]
async fn the_readme_can_be_tried_out() {
    let all = readme();
    let block = all.iter().find(|block| has(block, "piculet dev")).expect("how to try it");
    let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
    let mut shell = Shell::new(dir.path());
    let mut dev = None;
    let mut said = String::new();
    for line in block.commands() {
        if line.starts_with("cargo ") {
            continue;
        }
        if line == "piculet dev" {
            let log = dir.path().join("dev.log");
            let process = Process::start("dev", shell.command(&line), &log).await.expect("it starts");
            dev = Some(process);
            let exports = until("it says how it is reached", async || {
                let text = fs::read_to_string(&log).ok()?;
                let exports: Vec<_> =
                    text.lines().filter(|l| l.starts_with("export ")).map(str::to_owned).collect();
                (exports.len() >= 2).then_some(exports)
            })
            .await;
            for export in exports {
                shell.run(&export).await.ok();
            }
            continue;
        }
        said.push_str(&shell.run(&line).await.ok());
    }
    assert_eq!(said, "hello\n", "what was appended is read");
    let mut dev = dev.expect("the README starts a cluster");
    assert!(dev.stop(PATIENCE).await.expect("it ends").success());
}

/// The two commands at the top are there; continuous integration runs them.
#[tokio::test]
async fn the_two_commands_exist() {
    let all = readme();
    let mut shell = Shell::new(ScratchDir::create(&std::env::temp_dir()).expect("a directory").path());
    shell.dir = root();
    let block = all.iter().find(|block| has(block, "make demo")).expect("the two commands");
    for line in block.commands() {
        assert!(line.starts_with("make "), "{line}");
        shell.run(&format!("{line} --dry-run")).await.ok();
    }
}
