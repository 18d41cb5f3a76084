//! One writer after another.

use piculet_client::{Client, Error};
use piculet_quorum::ids::{LogName, Offset};
use piculet_tests::{Appender, Ledger, Setup, Stage, bounded, command, payload, read_all, until, with_stage};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[tokio::test]
async fn a_live_writer_is_replaced_and_learns_what_became_of_every_append() {
    with_stage(Setup::default(), async |stage| {
        for _ in 0..5 {
            replace_a_live_writer(stage).await;
        }
    })
    .await;
}

/// Takes a log over under a writer that appends all the time.
async fn replace_a_live_writer(stage: &Stage) {
    let (client, name) = stage.client_and_log().await;
    let mut first = Appender::new(client.take_over(&name).await.expect("it is taken over"));
    first.pump_more(200).await;
    let (other, log) = (stage.client().await, name.clone());
    let taking = tokio::spawn(async move { other.take_over(&log).await });
    // Without a pause: whenever the writer's own tasks run, the oldest append is waited for.
    let error = loop {
        if let Err(error) = first.append(1000).await {
            break error;
        }
    };
    for error in [error, first.writer().append("late").await.expect_err("it is not the writer any more")] {
        assert!(matches!(error, Error::Fenced { .. }) && !error.outcome_unknown(), "{error}");
    }
    // The ledger has every entry that is in the log, and no other.
    let (_, mut ledger) = first.fenced().await;

    let mut second =
        Appender::new(bounded("it is taken over", taking).await.expect("it ends").expect("it is taken over"));
    assert_eq!(second.writer().status().next, ledger.end(), "nothing else is there");
    second.pump_more(100).await;
    ledger.merge(second.close().await);
    ledger.check(&read_all(&client, &name).await);
}

#[tokio::test]
async fn a_writer_process_that_is_killed_is_replaced() {
    with_stage(Setup::default(), async |stage| {
        let (client, name) = stage.client_and_log().await;
        let mut append = command(["append", name.as_str(), "--acks"]);
        append.env("PICULET_NODES", stage.addresses().join(",")).env("PICULET_CERTS", stage.cluster.certs());
        let mut child = append.stderr(Stdio::inherit()).spawn().expect("piculet runs");
        let mut input = child.stdin.take().expect("its input is a pipe");
        let mut output = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines();
        let line = |n: u64| format!("line {n} of a process that will be killed\n");
        let (mut fed, mut acknowledged) = (0, 0);
        while acknowledged < 500 {
            for _ in 0..50 {
                bounded("it takes input", input.write_all(line(fed).as_bytes())).await.expect("it runs");
                fed += 1;
            }
            input.flush().await.expect("it runs");
            let told =
                bounded("it acknowledges", output.next_line()).await.expect("it runs").expect("it runs");
            acknowledged = told
                .strip_prefix("acknowledged ")
                .expect("that is all it prints")
                .parse()
                .expect("an offset");
        }
        child.kill().await.expect("it is killed");
        while let Some(told) = bounded("its output ends", output.next_line()).await.expect("it is read") {
            acknowledged = told
                .strip_prefix("acknowledged ")
                .expect("that is all it prints")
                .parse()
                .expect("an offset");
        }

        let mut second = Appender::new(client.take_over(&name).await.expect("it is taken over"));
        let found = second.writer().status().next.0;
        assert!(
            (acknowledged..=fed).contains(&found),
            "{acknowledged} acknowledged, {found} found, {fed} fed"
        );
        let mut ledger = Ledger::default();
        for n in 0..found {
            ledger.acknowledged(Offset(n), line(n).into());
        }
        second.pump_more(50).await;
        ledger.merge(second.close().await);
        ledger.check(&read_all(&client, &name).await);
    })
    .await;
}

#[tokio::test]
async fn a_log_is_taken_over_with_one_member_down() {
    with_stage(Setup::default(), async |stage| {
        let (client, name) = stage.client_and_log().await;
        let mut first = Appender::new(client.take_over(&name).await.expect("it is taken over"));
        first.pump_more(100).await;
        stage.kill(2);
        let other = stage.client().await;
        let second =
            bounded("it is taken over", other.take_over(&name)).await.expect("two members are enough");
        let (_, mut ledger) = first.fenced().await;
        let mut second = Appender::new(second);
        second.pump_more(100).await;
        assert_eq!(second.writer().status().members.len(), 2);
        ledger.merge(second.close().await);
        ledger.check(&read_all(&client, &name).await);
        stage.archived(&client, &name).await;
    })
    .await;
}

/// A log with some entries in an open segment that nobody writes to, and nothing of it archived.
pub(crate) async fn abandoned(stage: &Stage) -> (Client, LogName, Ledger) {
    let (client, name) = stage.client_and_log().await;
    let writer = client.take_over(&name).await.expect("it is taken over");
    assert_eq!(writer.status().members.len(), 3);
    let mut ledger = Ledger::default();
    for n in 0..100 {
        let payload = payload(1, n, 100);
        let offset = bounded("it is acknowledged", writer.append(&payload)).await.expect("it is appended");
        ledger.acknowledged(offset, payload);
    }
    until("all three hold it", async || {
        let held = client.status().await.ok()?;
        held.iter().all(|node| node.status.as_ref().is_ok_and(|status| status.buffer_used > 0)).then_some(())
    })
    .await;
    drop(writer);
    (client, name, ledger)
}

async fn impatient(stage: &Stage) -> Client {
    let mut options = stage.options();
    options.takeover_timeout = Duration::from_secs(4);
    options.call_timeout = Duration::from_secs(2);
    Client::connect(options).await.expect("a node answers")
}

async fn not_taken(client: &Client, name: &LogName, why: &str) -> Error {
    bounded("the takeover ends", client.take_over(name)).await.map(drop).expect_err(why)
}

/// Parts are uploaded late: what the nodes hold is all there is.
pub(crate) fn late_archive() -> Setup {
    Setup { flush_max_interval: Duration::from_secs(600), ..Setup::default() }
}

#[tokio::test]
async fn a_takeover_waits_for_members_that_are_away_and_gives_up_without_harm() {
    with_stage(late_archive(), async |stage| {
        let (client, name, mut ledger) = abandoned(stage).await;
        let impatient = impatient(stage).await;
        stage.freeze(0);
        stage.freeze(1);
        let error = not_taken(&impatient, &name, "two of three are away").await;
        assert!(matches!(&error, Error::TakeOver(_)) && error.is_retryable(), "{error}");
        stage.thaw(0);
        stage.thaw(1);
        let mut writer =
            Appender::new(until("they are back", async || client.take_over(&name).await.ok()).await);
        assert_eq!(writer.writer().status().next, ledger.end(), "nothing was lost, and nothing added");
        writer.pump_more(50).await;
        ledger.merge(writer.close().await);
        ledger.check(&read_all(&client, &name).await);
    })
    .await;
}

#[tokio::test]
async fn a_takeover_says_so_when_members_have_forgotten() {
    with_stage(late_archive(), async |stage| {
        let (client, name, _) = abandoned(stage).await;
        let impatient = impatient(stage).await;
        // What is left of it may be archived at any time.
        let records = async || {
            let segments = client.describe_log(&name).await.expect("it is there").view.segments;
            segments.into_iter().map(|(number, segment)| (number, segment.record)).collect::<Vec<_>>()
        };
        let before = records().await;
        stage.kill(0);
        stage.kill(1);
        let error = not_taken(&impatient, &name, "two of three are gone").await;
        assert!(
            matches!(&error, Error::TakeOver(why) if why.contains("node-1") && why.contains("node-2")),
            "{error}"
        );
        for at in [0, 1] {
            stage.forget(at);
            stage.restart(at).await;
        }
        let error = not_taken(&impatient, &name, "two have forgotten").await;
        let Error::Lost { nodes, .. } = &error else { panic!("{error}") };
        let nodes: Vec<&str> = nodes.iter().map(|node| node.as_str()).collect();
        assert_eq!(nodes, ["node-1", "node-2"]);
        assert_eq!(records().await, before, "nothing was changed, and no loss recorded");
    })
    .await;
}
