//! What survives: all three processes killed at once, at each level; damaged, copied and doubly used
//! buffers; and writers that die together with the nodes.

use piculet_client::{Client, Error};
use piculet_node::local::{Process, ScratchDir, free_port, http, tools};
use piculet_quorum::ids::{Incarnation, Level, LogName, NodeId, Offset};
use piculet_tests::{
    Appender, Ledger, PATIENCE, Setup, Stage, StoreKind, bounded, check_log, read_all, until, with_stage,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Entries stay in the buffers, but for whole parts of 8 MiB, until a segment is sealed.
fn unhurried() -> Setup {
    Setup {
        flush_bytes: 8 << 20,
        flush_interval: Duration::from_secs(600),
        flush_max_interval: Duration::from_secs(600),
        store: StoreKind::Directory,
        ..Setup::default()
    }
}

/// A writer that appends without pause in a task of its own.
pub(super) struct Load {
    acknowledged: watch::Receiver<usize>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Appender>,
}

impl Load {
    pub(super) fn start(mut appender: Appender) -> Self {
        let (progress, acknowledged) = watch::channel(appender.ledger().len());
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            while !*stopped.borrow() {
                appender.pump().await.expect("no append fails");
                progress.send_replace(appender.ledger().len());
            }
            appender
        });
        Self { acknowledged, stop, task }
    }

    /// Waits until so many more appends are acknowledged.
    pub(super) async fn more(&mut self, appends: usize) {
        let wanted = *self.acknowledged.borrow() + appends;
        bounded("appends are acknowledged", self.acknowledged.wait_for(|now| *now >= wanted))
            .await
            .expect("the writer goes on");
    }

    pub(super) async fn stop(self) -> Appender {
        self.stop.send_replace(true);
        bounded("the writer stops", self.task).await.expect("no append has failed")
    }
}

pub(super) async fn incarnations(client: &Client, level: Level) -> BTreeMap<NodeId, Incarnation> {
    let nodes = client.nodes().await.expect("a node answers");
    nodes.iter().map(|(node, view)| (node.clone(), view.incarnation(level).0)).collect()
}

/// Every node is killed at once under load, again and again; the writer lives on.
async fn killed_under_load(level: Level) {
    with_stage(unhurried(), async |stage| {
        let (client, name) = stage.client_and_log_of(level).await;
        let before = incarnations(&client, level).await;
        let mut load = Load::start(Appender::new(client.open(&name).await.expect("it is opened")));
        for round in 1..=3 {
            load.more(300).await;
            stage.kill_all();
            stage.restart_all().await;
            for at in 0..3 {
                let kept = format!("level={level} incarnation={}", before.values().next().expect("three"));
                let log = stage.log(at);
                let kept = log.lines().filter(|l| l.contains("its incarnation is kept") && l.contains(&kept));
                assert_eq!(kept.count(), round, "{log}");
            }
        }
        load.more(300).await;
        assert_eq!(incarnations(&client, level).await, before, "no life has ended");
        let ledger = load.stop().await.close().await;
        stage.archived(&client, &name).await;
        stage.buffers_empty(&client).await;
        ledger.check(&read_all(&client, &name).await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_survives_the_end_of_all_three_processes() {
    killed_under_load(Level::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_survives_the_end_of_all_three_processes() {
    killed_under_load(Level::Disk).await;
}

/// The fences that each node has of its only log.
async fn fences(stage: &Stage) -> Vec<u64> {
    let mut fences = Vec::new();
    for node in stage.cluster.nodes() {
        let body = http::get(node.admin(), "/status").await.expect("it answers").body;
        let status: serde_json::Value = serde_json::from_str(&body).expect("it is JSON");
        let logs = status["logs"].as_array().expect("a list");
        fences.push(logs.iter().filter_map(|log| log["fence_epoch"].as_u64()).max().unwrap_or_default());
    }
    fences
}

/// The writer dies together with all nodes: whoever takes the log over afterwards has everything that
/// was acknowledged, and whoever was fenced before stays fenced.
async fn all_die_together(level: Level) {
    with_stage(unhurried(), async |stage| {
        let (client, name) = stage.client_and_log_of(level).await;
        let mut old = Appender::new(client.open(&name).await.expect("it is opened"));
        old.pump_more(200).await;
        old.settle().await.expect("no append fails");

        let other = stage.client().await;
        let mut appender = Appender::new(other.take_over(&name).await.expect("it is taken over"));
        appender.pump_more(300).await;
        let before = fences(stage).await;
        assert!(before.iter().filter(|fence| **fence >= 2).count() >= 2, "{before:?}");
        stage.kill_all();
        let mut ledger: Ledger = appender.abandon();
        other.close().await;
        stage.restart_all().await;
        let after = fences(stage).await;
        assert!(before.iter().zip(&after).all(|(before, after)| after >= before), "{before:?} {after:?}");

        let late = bounded("an append fails", old.writer().append(b"late")).await.expect_err("it is fenced");
        assert!(matches!(late, Error::Fenced { .. }), "{late}");
        let (_, first) = old.fenced().await;
        ledger.merge(first);
        let client = stage.client().await;
        let mut appender = Appender::new(client.take_over(&name).await.expect("it is taken over"));
        appender.pump_more(100).await;
        ledger.merge(appender.close().await);
        ledger.check(&read_all(&client, &name).await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_taken_over_whole_when_the_writer_dies_too() {
    all_die_together(Level::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_is_taken_over_whole_when_the_writer_dies_too() {
    all_die_together(Level::Disk).await;
}

/// A stage with a log that has 300 entries, none of them archived.
async fn written(stage: &Stage) -> (Client, LogName, Appender) {
    let (client, name) = stage.client_and_log().await;
    let mut appender = Appender::new(client.open(&name).await.expect("it is opened"));
    appender.pump_more(300).await;
    appender.settle().await.expect("no append fails");
    (client, name, appender)
}

/// Kills a node. The others stand still: nobody archives what it held before it is back.
fn kill_alone(stage: &mut Stage, at: usize) {
    others(at).for_each(|other| stage.freeze(other));
    stage.kill(at);
}

/// Starts it again. It says what it has forgotten before it serves; then the others go on.
async fn restart_alone(stage: &mut Stage, at: usize) {
    stage.restart(at).await;
    others(at).for_each(|other| stage.thaw(other));
}

fn others(at: usize) -> impl Iterator<Item = usize> {
    (0..3).filter(move |other| *other != at)
}

/// What was acknowledged is in the log, and `node` begins its second life because of `reason`.
async fn reborn(stage: &Stage, at: usize, reason: &str, wrote: (Client, LogName, Appender)) {
    let (client, name, mut appender) = wrote;
    let node = NodeId::new(stage.cluster.nodes()[at].name()).expect("a name");
    let now = incarnations(&client, Level::Memory).await;
    assert!(now.iter().all(|(name, life)| (life.0 == 2) == (*name == node)), "{now:?}");
    let log = stage.log(at);
    let warned = log.lines().find(|line| line.contains("WARN") && line.contains("begins a new life"));
    assert!(warned.is_some_and(|line| line.contains(reason)), "{log}");
    assert!(log.contains("forgotten here"), "{log}");
    appender.pump_until("three members", async |a| a.writer().status().members.len() == 3).await;
    let ledger = appender.close().await;
    ledger.check(&read_all(&client, &name).await);
}

fn memory_dir(settings: &toml::Table) -> PathBuf {
    PathBuf::from(settings["buffer"]["memory"]["dir"].as_str().expect("a path"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_buffer_begins_a_new_life_and_says_why() {
    with_stage(unhurried(), async |stage| {
        let wrote = written(stage).await;
        let arena = memory_dir(&stage.settings(1).0).join("arena");
        let (_, payload) = wrote.2.ledger().last_of(100).expect("there are entries of more than 100 bytes");
        let found = until("the third member has it too", async || {
            let bytes = fs::read(&arena).expect("the buffer is there");
            bytes.windows(payload.len()).position(|window| *window == *payload)
        })
        .await;
        kill_alone(stage, 1);
        let mut bytes = fs::read(&arena).expect("the buffer is there");
        bytes[found + 50] ^= 1;
        fs::write(&arena, bytes).expect("it can be written");
        restart_alone(stage, 1).await;
        reborn(stage, 1, "is damaged", wrote).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_buffer_is_found_out() {
    with_stage(unhurried(), async |stage| {
        let wrote = written(stage).await;
        kill_alone(stage, 2);
        let (mut settings, file) = stage.settings(2);
        let scratch = ScratchDir::create(Path::new("/dev/shm")).expect("room");
        let (from, copy) = (memory_dir(&settings), scratch.path().join("copy"));
        fs::create_dir(&copy).expect("it can be made");
        for entry in fs::read_dir(&from).expect("the buffer is there") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), copy.join(entry.file_name())).expect("it can be copied");
        }
        settings["buffer"]["memory"]["dir"] = copy.display().to_string().into();
        fs::write(file, settings.to_string()).expect("it can be written");
        restart_alone(stage, 2).await;
        reborn(stage, 2, "is a copy", wrote).await;
        stage.kill(2);
    })
    .await;
}

/// Another node with the settings of the first, its name included, on ports and buffers of its own.
async fn namesake(stage: &Stage, dir: &Path) -> (Process, PathBuf) {
    let (mut settings, _) = stage.settings(0);
    settings["buffer"]["memory"]["dir"] = dir.join("memory").display().to_string().into();
    settings["buffer"]["disk"]["dir"] = stage.dir().join("namesake").display().to_string().into();
    for key in ["listen", "admin"] {
        settings[key] = free_port().expect("a port").addr().to_string().into();
    }
    let (file, log) = (stage.dir().join("namesake.toml"), stage.dir().join("namesake.log"));
    fs::write(&file, settings.to_string()).expect("it can be written");
    let mut command = Command::new(tools::piculet().expect("piculet is built"));
    command.arg("node").arg("--config").arg(file);
    (Process::start("namesake", command, &log).await.expect("it starts"), log)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_of_a_name_waits_until_the_first_has_gone() {
    with_stage(Setup { store: StoreKind::Directory, ..Setup::default() }, async |stage| {
        let (client, name) = stage.client_and_log().await;
        let mut load = Load::start(Appender::new(client.open(&name).await.expect("it is opened")));
        let before = incarnations(&client, Level::Memory).await;
        let dir = ScratchDir::create(Path::new("/dev/shm")).expect("a directory");
        let (mut second, log) = namesake(stage, dir.path()).await;
        until("the second says that it waits", async || {
            fs::read_to_string(&log).ok()?.contains("another node of this name is registered").then_some(())
        })
        .await;
        load.more(300).await;
        assert_eq!(incarnations(&client, Level::Memory).await, before, "the first is left alone");
        assert!(stage.pid(0) > 0 && !stage.log(0).contains("used twice"));

        stage.kill(0);
        until("the second has taken its place", async || {
            let now = client.nodes().await.ok()?;
            let node = now.get(&NodeId::new("node-1").ok()?)?;
            (node.usable(Level::Memory) && node.incarnation(Level::Memory).0 == Incarnation(2)).then_some(())
        })
        .await;
        let mut appender = load.stop().await;
        appender.pump_until("three members", async |a| a.writer().status().members.len() == 3).await;
        let ledger = appender.close().await;
        assert!(ledger.end() > Offset(300));
        ledger.check(&read_all(&client, &name).await);
        assert!(second.stop(PATIENCE).await.expect("it ends").success());
        check_log(&log, &[]);
    })
    .await;
}
