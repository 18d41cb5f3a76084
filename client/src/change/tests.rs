//! Deleting and truncating logs on nodes in this process.

use crate::testing::{Cluster, numbered, read_all, read_some, soon};
use crate::{Client, Error, LogName, LogWriter, ReadOptions, Start};
use piculet_quorum::ids::Offset;
use std::time::Duration;

const NODES: [&str; 3] = ["a", "b", "c"];

async fn append(writer: &LogWriter, payloads: &[String]) {
    for payload in payloads {
        soon(writer.append(payload)).await.unwrap();
    }
}

async fn everything(client: &Client, name: &LogName) -> Vec<String> {
    let mut reader = soon(client.read(name, Start::Earliest, ReadOptions::default())).await.unwrap();
    let (payloads, error) = read_all(&mut reader).await;
    assert!(error.is_none(), "{error:?}");
    payloads
}

#[tokio::test]
async fn a_deleted_log_is_gone_and_its_name_free() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    append(&writer, &numbered("x", 0..3)).await;
    let mut following =
        soon(client.read(&name, Start::Earliest, ReadOptions { follow: true })).await.unwrap();
    assert_eq!(read_some(&mut following, 3).await, numbered("x", 0..3));
    soon(client.delete_log(&name)).await.unwrap();
    let (payloads, error) = read_all(&mut following).await;
    assert!(payloads.is_empty() && matches!(error, Some(Error::NotFound(_))), "{error:?}");
    for error in [
        soon(client.delete_log(&name)).await.unwrap_err(),
        soon(client.open(&name)).await.map(|_| ()).unwrap_err(),
        soon(client.take_over(&name)).await.map(|_| ()).unwrap_err(),
        soon(client.check_tail(&name)).await.map(|_| ()).unwrap_err(),
        soon(client.truncate_log(&name, Offset(1))).await.map(|_| ()).unwrap_err(),
        soon(client.describe_log(&name)).await.map(|_| ()).unwrap_err(),
        soon(client.read(&name, Start::Earliest, ReadOptions::default())).await.map(|_| ()).unwrap_err(),
    ] {
        assert!(matches!(&error, Error::NotFound(missing) if *missing == name), "{error}");
        assert_eq!(error.code(), "not-found");
    }
    assert!(soon(client.list_logs()).await.unwrap().is_empty());
    // Another log of that name has nothing to do with it.
    let again = soon(client.create_log(&name)).await.unwrap();
    assert_ne!(again, writer.log());
    assert!(everything(&client, &name).await.is_empty());
    append(&soon(client.open(&name)).await.unwrap(), &numbered("y", 0..2)).await;
    assert_eq!(everything(&client, &name).await, numbered("y", 0..2));
}

#[tokio::test]
async fn a_deletion_of_unknown_outcome_is_settled() {
    for (answers, requests) in [(1, 0), (0, 1), (2, 1)] {
        let cluster = Cluster::start(&NODES);
        let (client, name) = cluster.client_and_log().await;
        {
            let mut meta = cluster.shared.meta.lock();
            (meta.lose_answers, meta.lose_requests) = (answers, requests);
        }
        soon(client.delete_log(&name)).await.unwrap();
        assert!(soon(client.list_logs()).await.unwrap().is_empty());
    }
    // Never settled: that is said, and nothing is guessed.
    let cluster = Cluster::start(&NODES);
    let (_, name) = cluster.client_and_log().await;
    let options =
        crate::ClientOptions { call_timeout: Duration::from_millis(300), ..cluster.options(&["a"]) };
    let hasty = soon(Client::connect(options)).await.unwrap();
    cluster.shared.meta.lock().lose_answers = u32::MAX;
    let error = soon(hasty.delete_log(&name)).await.unwrap_err();
    assert!(matches!(error, Error::Unknown(_)) && error.outcome_unknown(), "{error}");
    assert_eq!((error.code(), error.is_retryable()), ("unknown-outcome", false));
}

#[tokio::test]
async fn what_is_truncated_is_not_read_any_more() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let first = soon(client.take_over(&name)).await.unwrap();
    append(&first, &numbered("x", 0..5)).await;
    soon(first.close()).await.unwrap();
    let second = soon(client.open(&name)).await.unwrap();
    append(&second, &numbered("x", 5..10)).await;
    assert_eq!(soon(client.truncate_log(&name, Offset(0))).await.unwrap(), Offset(0));
    assert_eq!(everything(&client, &name).await, numbered("x", 0..10));
    for (before, holds) in [(3, 3), (2, 3), (3, 3), (5, 5), (7, 7)] {
        assert_eq!(soon(client.truncate_log(&name, Offset(before))).await.unwrap(), Offset(holds));
        assert_eq!(everything(&client, &name).await, numbered("x", holds as usize..10));
    }
    let refused = soon(client.read(&name, Start::Offset(Offset(6)), ReadOptions::default())).await;
    let refused = refused.map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::Trimmed { trim_offset: Offset(7) }), "{refused}");
    let beyond = soon(client.truncate_log(&name, Offset(11))).await.unwrap_err();
    assert!(matches!(beyond, Error::BeyondTail { offset: Offset(11), tail: Offset(10) }), "{beyond}");
    assert_eq!(beyond.code(), "beyond-tail");
    // Up to the tail: the log is empty, and goes on where it was.
    assert_eq!(soon(client.truncate_log(&name, Offset(10))).await.unwrap(), Offset(10));
    assert!(everything(&client, &name).await.is_empty());
    assert_eq!(soon(second.append("x10")).await.unwrap(), Offset(10));
    assert_eq!(everything(&client, &name).await, numbered("x", 10..11));
}

#[tokio::test]
async fn a_truncation_of_unknown_outcome_is_settled() {
    for (answers, requests) in [(1, 0), (0, 1), (2, 1)] {
        let cluster = Cluster::start(&NODES);
        let (client, name) = cluster.client_and_log().await;
        let writer = soon(client.take_over(&name)).await.unwrap();
        append(&writer, &numbered("x", 0..5)).await;
        {
            let mut meta = cluster.shared.meta.lock();
            (meta.lose_answers, meta.lose_requests) = (answers, requests);
        }
        assert_eq!(soon(client.truncate_log(&name, Offset(3))).await.unwrap(), Offset(3));
        assert_eq!(everything(&client, &name).await, numbered("x", 3..5));
    }
}
