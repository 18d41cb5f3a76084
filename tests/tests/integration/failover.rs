//! Nodes that die under a writer.

use piculet_client::Client;
use piculet_quorum::ids::LogName;
use piculet_quorum::meta::SegmentState;
use piculet_tests::{Appender, Setup, read_all, with_stage};
use std::collections::BTreeSet;

#[tokio::test]
async fn appends_go_on_when_a_node_is_killed_and_it_takes_part_again_when_it_is_back() {
    with_stage(Setup::default(), async |stage| {
        let (client, name) = stage.client_and_log().await;
        let mut appender = Appender::new(client.take_over(&name).await.expect("it is taken over"));
        appender.pump_more(200).await;
        assert_eq!(appender.writer().status().members.len(), 3);
        stage.kill(1);
        let at_kill = appender.writer().status().next;
        appender
            .pump_until("appends go on with two", async |appender| {
                let status = appender.writer().status();
                status.members.len() == 2 && status.committed > at_kill
            })
            .await;
        let two: BTreeSet<String> =
            appender.writer().status().members.iter().map(ToString::to_string).collect();
        assert_eq!(two, ["node-1", "node-3"].map(str::to_owned).into());
        stage.restart(1).await;
        appender.pump_until("three members", async |a| a.writer().status().members.len() == 3).await;
        appender.pump_more(200).await;
        let ledger = appender.close().await;
        ledger.check(&read_all(&client, &name).await);
        stage.archived(&client, &name).await;
        stage.buffers_empty(&client).await;
        ledger.check(&read_all(&client, &name).await);
    })
    .await;
}

/// The node that says that it uploads the log's newest segment.
async fn uploader(client: &Client, name: &LogName) -> Option<String> {
    let log = client.describe_log(name).await.ok()?.view;
    let (newest, _) = log.segments.last_key_value()?;
    let status = client.status().await.ok()?;
    let uploads = |status: &piculet_client::NodeStatus| {
        status.status.as_ref().is_ok_and(|status| status.uploading.contains(&(log.log, *newest)))
    };
    status.into_iter().find(uploads).map(|status| status.node.to_string())
}

#[tokio::test]
async fn another_node_finishes_the_upload_when_the_uploader_is_killed() {
    let setup = Setup { flush_bytes: 256 << 10, ..Setup::default() };
    with_stage(setup, async |stage| {
        let (client, name) = stage.client_and_log().await;
        let mut appender = Appender::new(client.take_over(&name).await.expect("it is taken over"));
        let mut elected = None;
        appender
            .pump_until("an uploader is elected", async |_| {
                elected = uploader(&client, &name).await;
                elected.is_some()
            })
            .await;
        let elected = elected.expect("it was just found");
        let log = client.describe_log(&name).await.expect("a node answers").view;
        let (segment, _) = log.segments.last_key_value().expect("the one that is uploaded");
        stage.kill(stage.position(&elected));
        appender
            .pump_until("another node uploads what the killed one left", async |_| {
                let Ok(log) = client.describe_log(&name).await else { return false };
                let left = log.view.segments.get(segment).expect("it is not deleted");
                matches!(left.record.value.state, SegmentState::Archived(_))
            })
            .await;
        let ledger = appender.close().await;
        stage.archived(&client, &name).await;
        stage.buffers_empty(&client).await;
        ledger.check(&read_all(&client, &name).await);
    })
    .await;
}
