//! Readers: where they begin and end, and that they see each entry once whatever happens.

use bytes::Bytes;
use piculet_client::{Client, Entry, Error, LogReader, ReadOptions, Start};
use piculet_quorum::ids::{LogName, Offset};
use piculet_tests::{Appender, Ledger, Setup, Stage, bounded, read_all, until, with_stage};
use std::time::Duration;

async fn read(client: &Client, name: &LogName, start: Start, follow: bool) -> Result<LogReader, Error> {
    bounded("a reader is made", client.read(name, start, ReadOptions { follow })).await
}

async fn rest(mut reader: LogReader) -> Vec<u64> {
    let mut offsets = Vec::new();
    while let Some(entry) = bounded("the reader goes on", reader.next()).await {
        offsets.push(entry.expect("the log can be read").offset.0);
    }
    offsets
}

async fn next(reader: &mut LogReader) -> Entry {
    bounded("an entry comes", reader.next()).await.expect("the reader follows").expect("the log can be read")
}

#[tokio::test]
async fn readers_begin_and_end_where_they_should() {
    with_stage(Setup::default(), async |stage| {
        let (client, name) = stage.client_and_log().await;
        let reader = read(&client, &name, Start::Earliest, false).await.expect("an empty log can be read");
        assert!(rest(reader).await.is_empty());

        let writer = client.take_over(&name).await.expect("it is taken over");
        let mut ledger = Ledger::default();
        for n in 0..50 {
            let payload = Bytes::from(format!("entry {n}"));
            let offset =
                bounded("it is acknowledged", writer.append(&payload)).await.expect("it is appended");
            ledger.acknowledged(offset, payload);
            // A reader that stops at the tail sees everything that was acknowledged before.
            let reader = read(&client, &name, Start::Offset(offset), false).await.expect("it is there");
            assert_eq!(rest(reader).await, [n]);
        }
        let all: Vec<u64> = (0..50).collect();
        for (start, expected) in [
            (Start::Earliest, &all[..]),
            (Start::Latest, &[]),
            (Start::Offset(Offset(0)), &all[..]),
            (Start::Offset(Offset(49)), &all[49..]),
            (Start::Offset(Offset(50)), &[]),
        ] {
            let reader = read(&client, &name, start, false).await.expect("it is no further than the tail");
            assert_eq!(rest(reader).await, expected, "{start:?}");
        }
        let beyond = read(&client, &name, Start::Offset(Offset(51)), false).await.expect_err("it is beyond");
        assert!(matches!(beyond, Error::BeyondTail { tail: Offset(50), .. }), "{beyond}");
        let nobody = LogName::new("tests/nobody").expect("a name");
        let missing = read(&client, &nobody, Start::Earliest, false).await.expect_err("there is none");
        assert!(matches!(missing, Error::NotFound(_)), "{missing}");

        // Whoever follows sees what comes, from wherever it began.
        let mut early = read(&client, &name, Start::Offset(Offset(48)), true).await.expect("it is there");
        let mut late = read(&client, &name, Start::Latest, true).await.expect("it is there");
        let offset = bounded("it is acknowledged", writer.append("new")).await.expect("it is appended");
        for expected in [48, 49, 50] {
            assert_eq!(next(&mut early).await.offset, Offset(expected));
        }
        let entry = next(&mut late).await;
        assert_eq!((entry.offset, &entry.payload[..]), (offset, &b"new"[..]));
        ledger.acknowledged(offset, Bytes::from("new"));
        bounded("the writer closes", writer.close()).await.expect("it closes");
        ledger.check(&read_all(&client, &name).await);
    })
    .await;
}

/// Gathers what a reader sees until it has seen the entry before `end`.
async fn gather(mut reader: LogReader, end: tokio::sync::watch::Receiver<Option<Offset>>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut ended = end.clone();
    loop {
        let seen = Offset(entries.len() as u64);
        if end.borrow().is_some_and(|end| seen >= end) {
            return entries;
        }
        tokio::select! {
            entry = reader.next() => {
                entries.push(entry.expect("a reader that follows has no end").expect("the log can be read"));
            }
            changed = ended.changed() => changed.expect("the test tells where the log ends"),
        }
    }
}

/// Kills a node, waits until appends go on with two, restarts it, and waits for three.
async fn kill_and_restart(stage: &mut Stage, appender: &mut Appender, at: usize) {
    stage.kill(at);
    appender.pump_until("two members", async |a| a.writer().status().members.len() == 2).await;
    appender.pump_more(200).await;
    stage.restart(at).await;
    appender.pump_until("three members", async |a| a.writer().status().members.len() == 3).await;
}

#[tokio::test]
async fn a_reader_sees_each_entry_once_through_rolls_crashes_takeovers_and_archiving() {
    let setup = Setup { flush_bytes: 128 << 10, ..Setup::default() };
    with_stage(setup, async |stage| {
        let (client, name) = stage.client_and_log().await;
        let mut options = stage.options();
        options.writer.segment_bytes = 256 << 10;
        let small = Client::connect(options).await.expect("a node answers");
        let (tell, end) = tokio::sync::watch::channel(None);
        let reader = read(&client, &name, Start::Earliest, true).await.expect("it is there");
        let follower = tokio::spawn(gather(reader, end));

        let mut ledger = Ledger::default();
        let mut appender = Appender::new(small.take_over(&name).await.expect("it is taken over"));
        // Whichever node it reads from, it dies.
        for at in 0..3 {
            kill_and_restart(stage, &mut appender, at).await;
            if at < 2 {
                // The data of older segments must not depend on nodes that die one after the other.
                sealed_are_archived(&client, &name, &mut appender).await;
                let second = small.take_over(&name).await.expect("it is taken over");
                let (_, before) = appender.fenced().await;
                ledger.merge(before);
                appender = Appender::new(second);
            }
        }
        appender.pump_more(200).await;
        ledger.merge(appender.close().await);
        let log = stage.archived(&client, &name).await;
        tell.send_replace(Some(log.view.record.value.next_base));
        let seen = bounded("the follower has seen everything", follower).await.expect("it does not fail");
        ledger.check(&seen);
        ledger.check(&read_all(&client, &name).await);
        stage.buffers_empty(&client).await;
    })
    .await;
}

async fn sealed_are_archived(client: &Client, name: &LogName, appender: &mut Appender) {
    appender
        .pump_until("sealed segments are archived", async |_| {
            let Ok(log) = client.describe_log(name).await else { return false };
            let sealed = log.view.segments.values().rev().skip(1);
            sealed.into_iter().all(|s| s.record.value.state.end().is_some_and(|at| at.end == s.archived.end))
        })
        .await;
}

#[tokio::test]
async fn a_reader_without_any_node_fails_and_says_so() {
    with_stage(Setup::default(), async |stage| {
        let (client, name) = stage.client_and_log().await;
        let writer = client.take_over(&name).await.expect("it is taken over");
        bounded("it is acknowledged", writer.append("one")).await.expect("it is appended");
        bounded("the writer closes", writer.close()).await.expect("it closes");
        stage.archived(&client, &name).await;
        let mut options = stage.options();
        options.read_timeout = Duration::from_secs(2);
        let impatient = Client::connect(options).await.expect("a node answers");
        let mut reader = read(&impatient, &name, Start::Latest, true).await.expect("it is there");
        (0..3).for_each(|at| stage.kill(at));
        let ended = bounded("the reader gives up", reader.next()).await;
        assert!(matches!(ended, Some(Err(Error::NoNode(_)))), "{ended:?}");
        assert!(bounded("nothing follows an error", reader.next()).await.is_none());
        let error = read(&impatient, &name, Start::Earliest, false).await.expect_err("nobody answers");
        assert!(matches!(error, Error::NoNode(_)) && error.is_retryable(), "{error}");
        for at in 0..3 {
            stage.restart(at).await;
        }
        let reader =
            until("nodes answer again", async || read(&client, &name, Start::Earliest, false).await.ok());
        assert_eq!(rest(reader.await).await, [0], "what was archived is there");
    })
    .await;
}
