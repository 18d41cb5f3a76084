//! What nodes do with a log whose writer has gone.

use super::{append, everything, state};
use crate::Error;
use crate::testing::{Cluster, numbered, soon};
use piculet_quorum::ids::{Epoch, Offset};
use piculet_quorum::meta::SegmentState;

const NODES: [&str; 3] = ["a", "b", "c"];

#[tokio::test]
async fn a_log_without_a_writer_is_sealed_and_left_free() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.open(&name)).await.unwrap();
    append(&writer, &numbered("x", 0..5)).await;
    let log = writer.log();
    drop(writer);
    let read = cluster.shared.meta.lock().record(log);
    assert!(read.value.holder.is_some());
    assert!(soon(client.recover_log(log, read.clone())).await.unwrap());
    let SegmentState::Sealed(seal) = state(&cluster, 0) else { panic!("it is sealed") };
    assert!(seal.settled && seal.by_epoch == Epoch(2), "{seal:?}");
    let after = cluster.shared.meta.lock().record(log);
    assert_eq!((after.value.epoch, after.value.holder.clone()), (Epoch(2), None));
    assert_eq!(after.value.next_base, Offset(5));
    assert_eq!(everything(&client, &name).await, numbered("x", 0..5));
    // From the record that was judged, and from no other.
    assert!(!soon(client.recover_log(log, read)).await.unwrap(), "somebody has recovered it before");
    assert!(soon(client.recover_log(log, after.clone())).await.unwrap(), "there is nothing to do");
    assert_eq!(cluster.shared.meta.lock().record(log), after);
    // It is free at once.
    let writer = soon(client.open(&name)).await.unwrap();
    assert_eq!((writer.epoch(), soon(writer.append("x5")).await.unwrap()), (Epoch(3), Offset(5)));
}

#[tokio::test]
async fn a_log_that_was_taken_over_meanwhile_is_left_alone() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.open(&name)).await.unwrap();
    let read = cluster.shared.meta.lock().record(writer.log());
    let next = soon(client.take_over(&name)).await.unwrap();
    assert!(!soon(client.recover_log(next.log(), read)).await.unwrap());
    append(&next, &numbered("x", 0..3)).await;
    assert_eq!(next.epoch(), Epoch(2));
}

#[tokio::test]
async fn lost_answers_do_not_keep_a_log_from_being_recovered() {
    for (answers, requests) in [(1, 0), (0, 1), (2, 1)] {
        let cluster = Cluster::start(&NODES);
        let (client, name) = cluster.client_and_log().await;
        let writer = soon(client.open(&name)).await.unwrap();
        append(&writer, &numbered("x", 0..5)).await;
        let log = writer.log();
        drop(writer);
        let read = {
            let mut meta = cluster.shared.meta.lock();
            (meta.lose_answers, meta.lose_requests) = (answers, requests);
            meta.record(log)
        };
        assert!(soon(client.recover_log(log, read)).await.unwrap());
        assert_eq!(cluster.shared.meta.lock().record(log).value.epoch, Epoch(2));
        assert_eq!(everything(&client, &name).await, numbered("x", 0..5));
    }
}

#[tokio::test]
async fn a_deleted_log_is_not_recovered() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.open(&name)).await.unwrap();
    let read = cluster.shared.meta.lock().record(writer.log());
    soon(client.delete_log(&name)).await.unwrap();
    let error = soon(client.recover_log(writer.log(), read)).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
}
