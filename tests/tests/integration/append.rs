//! What an application appends is what it reads.

use futures::FutureExt;
use piculet_client::{AppendOptions, Client, Error, LogWriter, Producer, ProducerId};
use piculet_quorum::ids::Offset;
use piculet_quorum::limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, ENTRY_BYTES_MAX};
use piculet_quorum::time::Span;
use piculet_tests::{Appender, Ledger, Setup, bounded, payload, read_all, until, with_stage};

#[tokio::test]
async fn entries_of_every_size_come_back_as_they_were() {
    with_stage(Setup::default(), async |stage| {
        let (client, name) = stage.client_and_log().await;
        let writer = client.take_over(&name).await.expect("a new log is taken over");
        let mut ledger = Ledger::default();
        let sizes = [0, 1, 1 << 10, ENTRY_BYTES_MAX, 0, 100_000, 1, 300_000];
        for (n, size) in (0..).zip(sizes) {
            let payload = payload(1, n, size);
            let offset =
                bounded("it is acknowledged", writer.append(&payload)).await.expect("it is appended");
            assert_eq!(offset, Offset(n), "offsets are dense");
            ledger.acknowledged(offset, payload);
        }
        bounded("the writer closes", writer.close()).await.expect("it closes");
        ledger.check(&read_all(&client, &name).await);
        // From object storage too.
        stage.archived(&client, &name).await;
        stage.buffers_empty(&client).await;
        ledger.check(&read_all(&client, &name).await);
    })
    .await;
}

#[tokio::test]
async fn a_batch_stays_together_and_what_exceeds_the_limits_is_refused() {
    with_stage(Setup::default(), async |stage| {
        let (client, name) = stage.client_and_log().await;
        let writer = client.take_over(&name).await.expect("a new log is taken over");
        let mut ledger = Ledger::default();
        let (mut next, mut pending) = (0, Vec::new());
        for count in [1_u64, 7, 1000, 1, BATCH_ENTRIES_MAX as u64] {
            let batch: Vec<_> = (0..count).map(|n| payload(count, n, (n % 50) as usize)).collect();
            pending.push((next, writer.append_batch(&batch)));
            for (offset, payload) in (next..).map(Offset).zip(batch) {
                ledger.acknowledged(offset, payload);
            }
            next += count;
        }
        for (first, append) in pending {
            let offset = bounded("it is acknowledged", append).await.expect("it is appended");
            assert_eq!(offset, Offset(first), "a batch begins where the one before ends");
        }

        let long = vec![0; ENTRY_BYTES_MAX + 1];
        assert!(matches!(writer.append(&long).await, Err(Error::EntryTooLong(len)) if len == long.len()));
        assert!(matches!(writer.append_batch([b"fine", &long[..]]).await, Err(Error::EntryTooLong(_))));
        let many = vec![b"x"; BATCH_ENTRIES_MAX + 1];
        let large = vec![&long[..BATCH_BYTES_MAX / 2]; 2];
        for refused in
            [writer.append_batch([b""; 0]), writer.append_batch(&many), writer.append_batch(&large)]
        {
            let error = refused.await.expect_err("it is outside the limits");
            assert!(matches!(error, Error::BatchSize { .. }) && !error.outcome_unknown(), "{error}");
        }
        let offset = bounded("it is acknowledged", writer.append(b"")).await.expect("the writer goes on");
        assert_eq!(offset, Offset(next), "what was refused took no offset");
        ledger.acknowledged(offset, bytes::Bytes::new());
        bounded("the writer closes", writer.close()).await.expect("it closes");
        ledger.check(&read_all(&client, &name).await);
    })
    .await;
}

#[tokio::test]
async fn what_is_repeated_for_a_producer_is_there_once_from_memory_and_from_object_storage() {
    with_stage(Setup::default(), async |stage| {
        let (client, name) = stage.client_and_log().await;
        let id = ProducerId::new(7).expect("not 0");
        let append = async |writer: &LogWriter, sequence: u64| {
            let producer = Some(Producer { id, sequence });
            let once = AppendOptions { producer, ..AppendOptions::default() };
            bounded("it is acknowledged", writer.append_with(&sequence.to_string(), &once)).await
        };
        for round in 0_u64..3 {
            // Whoever writes: one that is replaced, and one that finds everything archived.
            let writer = client.take_over(&name).await.expect("it is taken over");
            let last = bounded("the table is read", writer.producer(id)).await.expect("a node answers");
            assert_eq!(last.map(|last| last.offset), round.checked_sub(1).map(Offset));
            for sequence in round.saturating_sub(1)..=round {
                assert_eq!(append(&writer, sequence).await.expect("it is appended"), Offset(sequence));
            }
            if round == 1 {
                bounded("the writer closes", writer.close()).await.expect("it closes");
                stage.archived(&client, &name).await;
                stage.buffers_empty(&client).await;
            }
        }
        let texts: Vec<_> = read_all(&client, &name).await.into_iter().map(|entry| entry.payload).collect();
        assert_eq!(texts, ["0", "1", "2"]);
    })
    .await;
}

#[tokio::test]
async fn acknowledgements_come_in_order() {
    with_stage(Setup::default(), async |stage| {
        let (client, name) = stage.client_and_log().await;
        let writer = client.take_over(&name).await.expect("a new log is taken over");
        for round in 0..20 {
            let mut appends: Vec<_> =
                (0..100).map(|n| writer.append(&payload(round, n, (n * 37 % 5000) as usize))).collect();
            let middle = appends.split_off(60);
            // Whichever completes, all before it have.
            for append in middle {
                let offset = bounded("it is acknowledged", append).await.expect("it is appended");
                for (n, earlier) in (round * 100..).zip(appends.drain(..)) {
                    let earlier =
                        earlier.now_or_never().unwrap_or_else(|| panic!("{n} waits, {offset} does not"));
                    assert_eq!(earlier.expect("it is appended"), Offset(n));
                }
            }
        }
        bounded("the writer closes", writer.close()).await.expect("it closes");
        assert_eq!(read_all(&client, &name).await.len(), 2000);
    })
    .await;
}

#[tokio::test]
async fn many_small_segments_are_one_log() {
    with_stage(Setup::default(), async |stage| {
        let (_, name) = stage.client_and_log().await;
        let mut options = stage.options();
        options.writer.segment_bytes = 64 << 10;
        let client = Client::connect(options).await.expect("a node answers");
        let mut appender = Appender::new(client.take_over(&name).await.expect("it is taken over"));
        appender.pump_until("ten rolls", async |appender| appender.writer().status().rolls >= 10).await;
        let ledger = appender.close().await;
        ledger.check(&read_all(&client, &name).await);
        let log = stage.archived(&client, &name).await;
        assert!(log.view.segments.len() > 10, "{} segments", log.view.segments.len());
        stage.buffers_empty(&client).await;
        ledger.check(&read_all(&client, &name).await);
    })
    .await;
}

#[tokio::test]
async fn an_idle_log_is_parked_and_goes_on_with_the_next_append() {
    with_stage(Setup::default(), async |stage| {
        let (_, name) = stage.client_and_log().await;
        let mut options = stage.options();
        options.writer.idle_after = Span::millis(300);
        let client = Client::connect(options).await.expect("a node answers");
        let writer = client.take_over(&name).await.expect("a new log is taken over");
        let mut expected = Ledger::default();
        for round in 0_u64..3 {
            let payload = payload(1, round, 1000);
            let append = bounded("it is acknowledged", writer.append(&payload)).await;
            expected.acknowledged(append.expect("it is appended"), payload);
            until("the log is parked", async || writer.status().parked.then_some(())).await;
            stage.buffers_empty(&client).await;
            let log = client.describe_log(&name).await.expect("it is there");
            assert_eq!((log.view.open_segment(), log.view.record.value.holder.as_ref()), (None, None));
        }
        bounded("it closes", writer.close()).await.expect("it closes");
        expected.check(&read_all(&client, &name).await);
    })
    .await;
}
