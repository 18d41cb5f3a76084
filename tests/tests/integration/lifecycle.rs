//! Nodes that stop in good order, and a metadata store that is away.

use piculet_tests::{Appender, Setup, read_all, with_stage};
use std::pin::pin;
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
