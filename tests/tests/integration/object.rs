//! Durability `object`: what is acknowledged survives the loss of every node, and of the writer.

use piculet_client::{Client, ClientOptions, Error, Level, LogName, Offset, StoreOptions};
use piculet_tests::{Appender, Setup, Stage, StoreKind, bounded, command, read_all, run_piculet, with_stage};
use std::fs;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

/// Pause behind every fifty lines: a load that leaves a shared machine room for the nodes.
const PACE: Duration = Duration::from_millis(2);

/// A client with the store of the cluster, and a new log of level `object`.
async fn client_and_log(stage: &Stage) -> (Client, LogName) {
    let (without, name) = stage.client_and_log_of(Level::Object).await;
    without.close().await;
    (Client::connect(stage.options_with_store()).await.expect("a node answers"), name)
}

/// Takes from every node, all of which are down, whatever it held.
fn forget_everything(stage: &Stage) {
    for at in 0..3 {
        stage.forget(at);
        let (settings, _) = stage.settings(at);
        if let Some(dir) = settings["buffer"].get("disk").and_then(|disk| disk["dir"].as_str()) {
            fs::remove_dir_all(dir).expect("it can be removed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn object_survives_the_loss_of_every_node() {
    with_stage(Setup::default(), async |stage| {
        let (client, name) = client_and_log(stage).await;
        let mut appender = Appender::new(client.open(&name).await.expect("it is opened"));
        appender.pump_more(300).await;
        assert_eq!(appender.writer().status().members, []);
        // Some more are on their way, and go on being uploaded.
        appender.pump().await.expect("no append fails");
        stage.kill_all();
        forget_everything(stage);
        stage.restart_all().await;
        appender.pump_more(100).await;
        stage.kill_all();
        forget_everything(stage);
        let mut ledger = appender.abandon();
        client.close().await;
        stage.restart_all().await;

        let reader = stage.client().await;
        let read = read_all(&reader, &name).await;
        ledger.check(&read);
        let client = Client::connect(stage.options_with_store()).await.expect("a node answers");
        let mut appender = Appender::new(client.take_over(&name).await.expect("it is taken over"));
        appender.pump_more(50).await;
        ledger.merge(appender.close().await);
        stage.archived(&reader, &name).await;
        ledger.check(&read_all(&reader, &name).await);
    })
    .await;
}

/// `piculet append` to a log, with the store's settings where a user gives them.
fn append(stage: &Stage, name: &LogName) -> Command {
    let store = stage.store();
    let access = store.s3.as_ref().expect("it is on S3");
    let (nodes, endpoint) =
        (stage.addresses().join(","), format!("store_options.endpoint={}", access.endpoint));
    let mut command = command(["append", name.as_str(), "--nodes", &nodes, "--store", &store.url]);
    command.arg("--certs").arg(stage.cluster.certs()).args(["--set", &endpoint, "--output", "json"]);
    command
        .env("PICULET_STORE_OPTIONS_ALLOW_HTTP", "true")
        .env("PICULET_STORE_OPTIONS_REGION", &access.region);
    command.env("AWS_ACCESS_KEY_ID", &access.access_key).env("AWS_SECRET_ACCESS_KEY", &access.secret_key);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_killed_during_its_uploads_has_lost_nothing_that_it_acknowledged() {
    with_stage(Setup::default(), async |stage| {
        let (client, name) = client_and_log(stage).await;
        let mut acknowledged = 0;
        for round in 0..3 {
            let mut command = append(stage, &name);
            let mut child =
                command.args(["--acks", "--take-over"]).stderr(Stdio::null()).spawn().expect("it runs");
            let mut input = child.stdin.take().expect("its input is a pipe");
            let mut output = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines();
            let feed = async {
                for line in 0_u64.. {
                    if input.write_all(format!("{round}/{line}\n").as_bytes()).await.is_err() {
                        break;
                    }
                    if line % 50 == 0 {
                        tokio::time::sleep(PACE).await;
                    }
                }
                std::future::pending().await
            };
            // It says at first where it begins; then an upload that is not the first is under way.
            let progress = async {
                let mut told = 0;
                while told < 4 {
                    let line = output.next_line().await.expect("it is read").expect("it goes on");
                    let ack: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
                    acknowledged = ack["acknowledged"].as_u64().expect("an offset");
                    told += 1;
                }
            };
            tokio::select! {
                () = bounded("uploads are acknowledged", progress) => {}
                () = feed => {}
            }
            child.kill().await.expect("it is killed");
            let read = read_all(&client, &name).await;
            assert!(
                read.len() as u64 >= acknowledged && acknowledged > 0,
                "{} of {acknowledged}",
                read.len()
            );
            let mine = read.iter().filter(|entry| entry.payload.starts_with(format!("{round}/").as_bytes()));
            for (line, entry) in mine.enumerate() {
                assert_eq!(entry.payload, format!("{round}/{line}\n"), "in order, without a gap");
            }
        }
        // Nobody need take over by force: a writer that records nothing has gone.
        let writer = client.open(&name).await.expect("its writer has gone");
        let before = read_all(&client, &name).await.len() as u64;
        assert_eq!(writer.append("more").await.expect("it is archived"), Offset(before));
        writer.close().await.expect("it closes");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_refuses_a_log_whose_store_it_does_not_have() {
    with_stage(Setup::default(), async |stage| {
        let (_, name) = client_and_log(stage).await;
        let nodes = stage.addresses().join(",");
        let mut without = command(["append", name.as_str(), "--nodes", &nodes]);
        without.arg("--certs").arg(stage.cluster.certs());
        run_piculet(without, b"x\n").await.failed(2, &["setting store", "durability object"]);
        let done = run_piculet(append(stage, &name), b"x\ny\n").await.ok();
        assert!(done.contains("\"end_offset\":2"), "{done}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_in_a_store_that_the_nodes_do_not_have_are_never_acknowledged() {
    with_stage(Setup { store: StoreKind::Directory, ..Setup::default() }, async |stage| {
        let (_, name) = client_and_log(stage).await;
        let elsewhere = format!("file://{}", stage.dir().join("elsewhere").display());
        let options = ClientOptions { store: Some(StoreOptions::new(elsewhere)), ..stage.options() };
        let client = Client::connect(options).await.expect("a node answers");
        let writer = client.open(&name).await.expect("its store can be written to");
        let error = bounded("the append fails", writer.append("x")).await.expect_err("nobody could read it");
        let told = error.to_string();
        assert!(
            matches!(error, Error::Stopped(_)) && told.contains("give the writer the same one"),
            "{told}"
        );
        let client = Client::connect(stage.options_with_store()).await.expect("a node answers");
        let writer = client.take_over(&name).await.expect("it is taken over");
        assert_eq!(writer.append("y").await.expect("it is archived"), Offset(0));
    })
    .await;
}
