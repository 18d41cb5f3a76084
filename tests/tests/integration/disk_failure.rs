//! A disk that fails while a node writes to it.

use crate::durability::{Load, incarnations};
use piculet_node::local::{Process, http, tools};
use piculet_quorum::ids::{Incarnation, Level, NodeId};
use piculet_tests::{Appender, PATIENCE, Setup, Stage, StoreKind, check_log, read_all, until, with_stage};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Bytes behind which no file of the node may be written: its journal gets there, its log does not.
const LIMIT: u64 = 512 << 10;

/// The first node again, as a process of the test's own, to which a write beyond a limit is an error and
/// no signal.
async fn first_node(stage: &Stage, log: &str) -> (Process, PathBuf) {
    let (_, settings) = stage.settings(0);
    let log = stage.dir().join(log);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" node --config \"$1\""]);
    command.arg(tools::piculet().expect("piculet is built")).arg(settings);
    let process = Process::start("node-1", command, &log).await.expect("it starts");
    let admin = stage.cluster.nodes()[0].admin();
    until("it is ready", async || (http::get(admin, "/readyz").await.ok()?.status == 200).then_some(()))
        .await;
    (process, log)
}

/// Lets every write of a process beyond so many bytes of a file fail.
fn limit_files(pid: u32, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    let pid = libc::pid_t::try_from(pid).expect("a process id is a pid_t");
    // SAFETY: the limit outlives the call, and nothing is written back.
    let set = unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(set, 0, "cannot limit process {pid}: {}", std::io::Error::last_os_error());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_fails_ends_and_says_why_and_nothing_that_was_acknowledged_is_lost() {
    let hour = Duration::from_secs(3600);
    let setup = Setup {
        flush_bytes: 8 << 20,
        flush_interval: hour,
        flush_max_interval: hour,
        store: StoreKind::Directory,
        ..Setup::default()
    };
    with_stage(setup, async |stage| {
        let (client, name) = stage.client_and_log_of(Level::Disk).await;
        stage.kill(0);
        let (mut node, log) = first_node(stage, "failing.log").await;
        let before = incarnations(&client, Level::Disk).await;
        let mut load = Load::start(Appender::new(client.open(&name).await.expect("it is opened")));
        load.more(100).await;
        limit_files(node.pid(), LIMIT);
        let ended = node.wait(PATIENCE).await.expect("it ends");
        assert_eq!(ended.code(), Some(12), "{}", node.last_lines(20));
        let text = fs::read_to_string(&log).expect("it has a log");
        let failed = |line: &&str| line.contains("ERROR") && line.contains("the disk buffer failed");
        let said = text.lines().find(failed).unwrap_or_else(|| panic!("no such line in {text}"));
        assert!(said.contains("journal-") && said.contains("os error 27"), "the first reason: {said}");
        check_log(&log, &["the disk buffer failed"]);

        load.more(300).await;
        let first = NodeId::new("node-1").expect("a name");
        let life = |more| Incarnation(before[&first].0 + more);
        assert_eq!(incarnations(&client, Level::Disk).await[&first], life(1), "its life is over");
        let (mut node, log) = first_node(stage, "again.log").await;
        let text = fs::read_to_string(&log).expect("it has a log");
        let begins = |line: &str| line.contains("begins a new life") && line.contains("os error 27");
        assert!(text.lines().any(begins), "{text}");
        assert!(incarnations(&client, Level::Disk).await[&first] >= life(2));
        let mut appender = load.stop().await;
        appender.pump_until("three members", async |a| a.writer().status().members.len() == 3).await;
        let ledger = appender.close().await;
        ledger.check(&read_all(&client, &name).await);
        assert!(node.stop(PATIENCE).await.expect("it ends").success());
    })
    .await;
}
