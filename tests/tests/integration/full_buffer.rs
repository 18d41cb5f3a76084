//! Buffers that are full because the object store is away.

use piculet_client::{Client, Error};
use piculet_quorum::ids::Offset;
use piculet_tests::{Ledger, PATIENCE, Setup, StoreKind, bounded, payload, read_all, with_stage};
use tokio::time::Instant;

const ENTRY: usize = 64 << 10;

#[tokio::test]
async fn full_buffers_refuse_appends_until_the_store_is_back_and_lose_nothing() {
    let setup = Setup { buffer_bytes: 4 << 20, store: StoreKind::RelayedS3, ..Setup::default() };
    with_stage(setup, async |stage| {
        let (_, name) = stage.client_and_log().await;
        let mut options = stage.options();
        options.writer.retransmit_bytes = 8 << 20;
        let client = Client::connect(options).await.expect("a node answers");
        let writer = client.take_over(&name).await.expect("it is taken over");
        stage.relay().cut();

        // More than the buffers and the writer's budget together can take, until a node has said that
        // it is full and the writer has told so.
        let (mut pending, start) = (Vec::new(), Instant::now());
        let refused = loop {
            let payload = payload(1, pending.len() as u64, ENTRY);
            let mut append = writer.append(&payload);
            match futures::FutureExt::now_or_never(&mut append) {
                Some(Err(error)) if error.to_string().contains("buffer of 4194304 bytes is full") => {
                    break error;
                }
                Some(Err(error)) => assert!(matches!(error, Error::Overloaded { .. }), "{error}"),
                _ => pending.push((payload, append)),
            }
            assert!(
                start.elapsed() < PATIENCE && pending.len() * ENTRY < 32 << 20,
                "no node said that it is full"
            );
            tokio::task::yield_now().await;
        };
        assert!(matches!(refused, Error::Overloaded { .. }), "{refused}");
        assert!(refused.is_retryable() && !refused.outcome_unknown(), "{refused}");
        let status = writer.status();
        assert!(status.committed < status.next, "what waits is not acknowledged");

        stage.relay().mend();
        let mut ledger = Ledger::default();
        for (payload, append) in pending {
            let offset = bounded("it is acknowledged", append).await.expect("what was taken is appended");
            ledger.acknowledged(offset, payload);
        }
        bounded("there is room again", writer.ready()).await;
        for n in 0..100 {
            let payload = payload(2, n, ENTRY);
            let offset = loop {
                match bounded("it is acknowledged", writer.append(&payload)).await {
                    Ok(offset) => break offset,
                    Err(Error::Overloaded { .. }) => bounded("there is room again", writer.ready()).await,
                    Err(error) => panic!("{error}"),
                }
            };
            ledger.acknowledged(offset, payload);
        }
        let end: Offset = bounded("the writer closes", writer.close()).await.expect("it closes");
        assert_eq!(end, ledger.end());
        stage.archived(&client, &name).await;
        stage.buffers_empty(&client).await;
        ledger.check(&read_all(&client, &name).await);
    })
    .await;
}
