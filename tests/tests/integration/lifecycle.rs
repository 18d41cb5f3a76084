//! Nodes that stop in good order, a metadata store that is away, and a name that is used twice.

use piculet_node::local::{Process, ScratchDir, free_port, tools};
use piculet_tests::{Appender, PATIENCE, Setup, read_all, until, with_stage};
use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn a_node_that_is_told_to_stop_leaves_nothing_behind_and_no_writer_notices() {
    with_stage(Setup::default(), async |stage| {
        let (client, name) = stage.client_and_log().await;
        let mut appender = Appender::new(client.take_over(&name).await.expect("it is taken over"));
        appender.pump_more(200).await;
        let status = {
            let mut stopping = pin!(stage.terminate(1));
            loop {
                tokio::select! {
                    status = &mut stopping => break status,
                    pumped = appender.pump() => pumped.expect("no append fails"),
                }
            }
        };
        assert_eq!(status.code(), Some(0));
        let log = stage.log(1);
        assert!(log.contains("everything that this node held is archived"), "{log}");
        appender.pump_until("two members", async |a| a.writer().status().members.len() == 2).await;
        appender.pump_more(100).await;
        stage.restart(1).await;
        appender.pump_until("three members", async |a| a.writer().status().members.len() == 3).await;
        let ledger = appender.close().await;
        stage.archived(&client, &name).await;
        stage.buffers_empty(&client).await;
        ledger.check(&read_all(&client, &name).await);
    })
    .await;
}

#[tokio::test]
async fn appends_go_on_while_the_metadata_store_is_away() {
    let setup = Setup { own_etcd: true, ..Setup::default() };
    with_stage(setup, async |stage| {
        let (client, name) = stage.client_and_log().await;
        let mut appender = Appender::new(client.take_over(&name).await.expect("it is taken over"));
        appender.pump_more(200).await;
        let rolls = appender.writer().status().rolls;
        stage.etcd().pause().expect("it runs");
        let (before, back) = (appender.ledger().len(), Instant::now() + Duration::from_secs(7));
        while Instant::now() < back {
            appender.pump().await.expect("no append fails");
        }
        assert!(appender.ledger().len() > before + 100, "appends were acknowledged meanwhile");
        stage.etcd().resume().expect("it is there");
        appender.pump_more(200).await;
        assert_eq!(appender.writer().status().rolls, rolls, "nobody was given up");
        let ledger = appender.close().await;
        stage.archived(&client, &name).await;
        stage.buffers_empty(&client).await;
        ledger.check(&read_all(&client, &name).await);
    })
    .await;
}

/// Another node with the settings of the first, its name included, on ports and memory of its own.
async fn namesake(dir: &Path, settings: &Path, memory: &Path) -> (Process, std::path::PathBuf) {
    let text = std::fs::read_to_string(settings).expect("a node has settings");
    let mut settings: toml::Table = text.parse().expect("they are TOML");
    settings["buffer"]["memory"]["dir"] = memory.display().to_string().into();
    let (listen, admin) = (free_port().expect("a port"), free_port().expect("a port"));
    let (file, log) = (dir.join("namesake.toml"), dir.join("namesake.log"));
    std::fs::write(&file, settings.to_string()).expect("it can be written");
    let mut command = Command::new(tools::piculet().expect("piculet is built"));
    command.arg("node").arg("--config").arg(file);
    command.args(["--listen", &listen.addr().to_string(), "--admin", &admin.addr().to_string()]);
    (Process::start("namesake", command, &log).await.expect("it starts"), log)
}

#[tokio::test]
async fn of_two_nodes_with_one_name_the_first_stops_and_says_why() {
    let setup = Setup {
        store: piculet_tests::StoreKind::Directory,
        provokes: vec!["the name node-1 is used twice"],
        ..Setup::default()
    };
    with_stage(setup, async |stage| {
        let (client, name) = stage.client_and_log().await;
        let mut appender = Appender::new(client.take_over(&name).await.expect("it is taken over"));
        appender.pump_more(100).await;
        let memory = ScratchDir::create(Path::new("/dev/shm")).expect("a directory");
        let settings = stage.dir().join("node-1/node.toml");
        let (mut second, log) = namesake(stage.dir(), &settings, memory.path()).await;

        appender
            .pump_until("the first says that its name is used twice", async |_| {
                stage.log(0).contains("the name node-1 is used twice")
            })
            .await;
        let stat = format!("/proc/{}/stat", stage.pid(0));
        let ended = || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "));
        appender.pump_until("the first has ended", async |_| ended()).await;
        let status = stage.terminate(0).await;
        assert_eq!(status.code(), Some(1), "it has ended by itself");
        assert!(stage.log(0).lines().last().is_some_and(|line| line.starts_with("piculet: the name node-1")));

        // The second takes part in its place, in a life of its own.
        appender.pump_until("three members", async |a| a.writer().status().members.len() == 3).await;
        let ledger = appender.close().await;
        stage.archived(&client, &name).await;
        ledger.check(&read_all(&client, &name).await);
        assert!(second.stop(PATIENCE).await.expect("it ends").success());
        piculet_tests::check_log(&log, &[]);
        until("its registration has gone with it", async || {
            let nodes = client.nodes().await.ok()?;
            nodes.values().filter(|node| node.running.is_some()).count().eq(&2).then_some(())
        })
        .await;
    })
    .await;
}
