//! Logs from the command line: who may open one, what travels with an entry, what is given up.

use piculet_client::LogName;
use piculet_tests::{Ran, Setup, Stage, StoreKind, bounded, command, run_piculet, until, with_stage};
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::ChildStdout;

async fn run(stage: &Stage, args: &[&str], input: &[u8]) -> Ran {
    run_piculet(prepared(stage, args), input).await
}

fn prepared(stage: &Stage, args: &[&str]) -> tokio::process::Command {
    let mut command = command(args);
    command.env("PICULET_NODES", stage.addresses().join(","));
    command.env("PICULET_CERTS", stage.cluster.certs());
    command
}

/// Reads what `append --acks` prints up to a line.
async fn acknowledged(acks: &mut Lines<BufReader<ChildStdout>>, line: &str) {
    let read = async {
        while acks.next_line().await.expect("its output can be read").expect("it goes on") != line {}
    };
    bounded(line, read).await;
}

/// Objects in a directory, at any depth.
fn objects(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { objects(&entry.path()) } else { 1 }).sum()
}

#[tokio::test]
async fn a_log_is_opened_by_one_writer_and_taken_over_only_on_demand() {
    with_stage(Setup::default(), async |stage| {
        let mut first =
            prepared(stage, &["append", "orders", "--create", "--acks", "--set", "name=the first"])
                .stdin(Stdio::piped())
                .spawn()
                .expect("piculet runs");
        let mut input = first.stdin.take().expect("its input is a pipe");
        input.write_all(b"one\n").await.expect("it takes input");
        let mut acks = BufReader::new(first.stdout.take().expect("its output is a pipe")).lines();
        acknowledged(&mut acks, "acknowledged 1").await;

        // It is alive: nobody else gets in, and whoever tries is told who has the log.
        run(stage, &["append", "orders"], b"x\n").await.failed(5, &["orders", "the first", "--take-over"]);
        run(stage, &["append", "orders", "--take-over"], b"two\n").await.ok();
        input.write_all(b"late\n").await.expect("it takes input");
        drop(input);
        let output = first.wait_with_output().await.expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains("not appended"), "what is not there is known: {said}");
        assert_eq!(run(stage, &["read", "orders"], b"").await.ok(), "one\ntwo\n");
    })
    .await;
}

#[tokio::test]
async fn headers_travel_with_entries_and_come_back_as_json() {
    with_stage(Setup::default(), async |stage| {
        let sent = b"{\"payload\":\"a\",\"headers\":{\"kind\":\"x\",\"n\":[\"1\",\"2\"]}}\n{\"payload_base64\":\"/w==\"}\n";
        run(stage, &["append", "a", "--create", "--headers"], sent).await.ok();
        run(stage, &["append", "a", "--header", "kind=y"], b"plain").await.ok();
        let read = run(stage, &["read", "a", "--output", "json"], b"").await.ok();
        let entries: Vec<serde_json::Value> =
            read.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
        assert_eq!(entries[0]["headers"], serde_json::json!({"kind": "x", "n": ["1", "2"]}));
        assert_eq!((&entries[1]["payload_base64"], &entries[1]["offset"]), (&"/w==".into(), &1.into()));
        assert_eq!((&entries[2]["payload"], &entries[2]["headers"]["kind"]), (&"plain".into(), &"y".into()));
        run(stage, &["append", "b", "--create", "--headers"], read.as_bytes()).await.ok();
        let copied = run(stage, &["read", "b", "--output", "raw"], b"").await;
        assert_eq!(copied.out, b"a\xffplain");
        assert_eq!(run(stage, &["log", "tail", "b"], b"").await.ok(), "3\n");
        // Times: an entry is found by its own.
        let second = entries[1]["timestamp"].as_str().expect("a time");
        let from = run(stage, &["read", "a", "--from", second, "--limit", "1", "--output", "json"], b"").await.ok();
        assert!(from.contains(second), "{from}");
        for bad in ["{\"payload\":1}", "{\"payload\":\"a\",\"payload_base64\":\"\"}", "no json"] {
            run(stage, &["append", "a", "--headers"], bad.as_bytes()).await.failed(1, &["line 1"]);
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_truncated_or_deleted_is_gone_from_the_bucket_and_its_name_is_free() {
    with_stage(Setup { store: StoreKind::Directory, ..Setup::default() }, async |stage| {
        let dir = stage.dir().join("objects");
        let client = stage.client().await;
        let name = LogName::new("a").expect("a name");
        for _ in 0..3 {
            run(stage, &["append", "a", "--create"], b"1\n2\n").await.ok();
        }
        stage.archived(&client, &name).await;
        let all = objects(&dir);
        run(stage, &["log", "truncate", "a", "--before", "7"], b"").await.failed(6, &["7", "6"]);
        assert!(run(stage, &["log", "truncate", "a", "--before", "5"], b"").await.ok().contains('5'));
        run(stage, &["read", "a", "--from", "4"], b"").await.failed(6, &["5"]);
        assert_eq!(run(stage, &["read", "a"], b"").await.ok(), "2\n");
        until("what was truncated is gone", async || (objects(&dir) < all).then_some(())).await;
        assert_eq!(run(stage, &["read", "a"], b"").await.ok(), "2\n", "and nothing else is");

        run(stage, &["log", "delete", "a"], b"").await.failed(2, &["--yes"]);
        run(stage, &["log", "delete", "a", "--yes"], b"").await.ok();
        run(stage, &["read", "a"], b"").await.failed(3, &["a"]);
        run(stage, &["log", "delete", "a", "--yes"], b"").await.failed(3, &["a"]);
        run(stage, &["append", "a", "--create"], b"new\n").await.ok();
        assert_eq!(run(stage, &["read", "a"], b"").await.ok(), "new\n");
        stage.archived(&client, &name).await;
        until("only the new log has objects", async || (objects(&dir) <= 2).then_some(())).await;
    })
    .await;
}

/// A writer that is killed leaves a log that nobody takes over: the nodes seal and archive it.
#[tokio::test]
async fn a_log_whose_writer_was_killed_is_sealed_and_archived_by_the_nodes() {
    with_stage(Setup::default(), async |stage| {
        let client = stage.client().await;
        let name = LogName::new("a").expect("a name");
        let mut writer = prepared(stage, &["append", "a", "--create", "--acks"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("piculet runs");
        let mut input = writer.stdin.take().expect("its input is a pipe");
        input.write_all(&b"order\n".repeat(1000)).await.expect("it takes input");
        let mut acks = BufReader::new(writer.stdout.take().expect("its output is a pipe")).lines();
        acknowledged(&mut acks, "acknowledged 1000").await;
        writer.kill().await.expect("it is killed");

        let described = stage.archived(&client, &name).await;
        assert_eq!(described.view.record.value.epoch.0, 2, "a node has sealed it");
        assert!(described.view.record.value.next_base.0 >= 1000, "nothing acknowledged is missing");
        stage.buffers_empty(&client).await;
    })
    .await;
}
