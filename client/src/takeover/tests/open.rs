//! Opening a log that somebody may hold.

use super::{BRIEF, append, everything, named, writer_is_there};
use crate::store::Store;
use crate::takeover::Takeover;
use crate::testing::{Cluster, Faults, log_name, numbered, soon};
use crate::{Error, LogWriter};
use futures::future::join_all;
use piculet_quorum::ids::{Epoch, Offset};
use std::time::Duration;

const NODES: [&str; 3] = ["a", "b", "c"];
const SHORT: Duration = Duration::from_millis(300);

fn error(opened: Result<LogWriter, Error>) -> Error {
    opened.map(|_| ()).unwrap_err()
}

#[tokio::test]
async fn a_log_that_a_live_writer_holds_is_not_opened() {
    let cluster = Cluster::start(&NODES);
    let (_, name) = cluster.client_and_log().await;
    let (first, second) = (named(&cluster, "first", |_| ()).await, named(&cluster, "second", |_| ()).await);
    let writer = soon(first.open(&name)).await.unwrap();
    append(&writer, &numbered("x", 0..3)).await;
    let held = error(soon(second.open(&name)).await);
    let Error::Held { log, holder, peer, epoch } = &held else { panic!("{held}") };
    assert_eq!((log, holder.as_str(), *epoch), (&name, "first", Epoch(1)));
    assert!(
        peer.as_ref().is_some_and(|peer| peer.contains("client") && peer.contains("127.0.0.1")),
        "{held}"
    );
    assert!(held.code() == "held" && held.is_retryable() && !held.outcome_unknown());
    // The writer has noticed nothing.
    append(&writer, &numbered("x", 3..5)).await;
    soon(writer.close()).await.unwrap();
    let next = soon(second.open(&name)).await.unwrap();
    assert_eq!(next.epoch(), Epoch(2));
    append(&next, &numbered("x", 5..6)).await;
    assert_eq!(everything(&second, &name).await, numbered("x", 0..6));
    let missing = error(soon(second.open(&log_name("other"))).await);
    assert!(matches!(missing, Error::NotFound(_)), "{missing}");
}

#[tokio::test]
async fn a_log_whose_writer_went_without_closing_is_opened_once_it_is_missed() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.open(&name)).await.unwrap();
    append(&writer, &numbered("x", 0..3)).await;
    writer_is_there(&cluster, &NODES, true).await;
    drop(writer);
    let next = named(&cluster, "next", |options| options.writer_timeout = SHORT).await;
    let writer = soon(next.open(&name)).await.unwrap();
    assert_eq!(soon(writer.append("x3")).await.unwrap(), Offset(3));
    assert_eq!(everything(&next, &name).await, numbered("x", 0..4));
}

#[tokio::test]
async fn of_several_who_open_a_log_one_does() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    for round in 0..3 {
        let clients = join_all((0..4).map(|nth| {
            let name = format!("client {nth}");
            let cluster = &cluster;
            async move { named(cluster, &name, |options| options.writer_timeout = SHORT).await }
        }))
        .await;
        let opened = soon(join_all(clients.iter().map(|client| client.open(&name)))).await;
        let mut winner = None;
        for (nth, result) in opened.into_iter().enumerate() {
            match result {
                Ok(writer) => assert!(winner.replace((nth, writer)).is_none(), "two have opened it"),
                // Who is slow may be overtaken between its epoch and its segment.
                Err(Error::Held { .. }) => {}
                Err(error) => assert!(matches!(error, Error::TakeOver(_)) && error.is_retryable(), "{error}"),
            }
        }
        let (nth, writer) = winner.expect("one has opened it");
        let held = error(soon(client.open(&name)).await);
        assert!(matches!(&held, Error::Held { holder, .. } if *holder == format!("client {nth}")), "{held}");
        append(&writer, &numbered("x", round..round + 1)).await;
        if round == 0 {
            soon(writer.close()).await.unwrap();
        }
    }
    assert_eq!(everything(&client, &name).await, numbered("x", 0..3));
}

#[tokio::test]
async fn one_member_that_hears_the_writer_is_enough_to_leave_it_alone() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.open(&name)).await.unwrap();
    writer_is_there(&cluster, &NODES, true).await;
    for mute in ["a", "b"] {
        cluster.node(mute).set_faults(Faults { mute: true, ..Faults::default() });
    }
    let other = named(&cluster, "other", |options| options.writer_timeout = SHORT).await;
    let held = error(soon(other.open(&name)).await);
    assert!(matches!(held, Error::Held { .. }), "{held}");
    drop(writer);
    writer_is_there(&cluster, &["c"], false).await;
    // One that misses it is not enough to depose it.
    let hasty = named(&cluster, "hasty", |options| {
        (options.writer_timeout, options.takeover_timeout) = (SHORT, BRIEF);
    })
    .await;
    let unsure = error(soon(hasty.open(&name)).await);
    let message = unsure.to_string();
    assert!(matches!(unsure, Error::TakeOver(_)) && unsure.is_retryable(), "{message}");
    assert!(message.contains("node a") && message.contains("node b"), "{message}");
    cluster.node("b").set_faults(Faults::default());
    assert_eq!(soon(other.open(&name)).await.unwrap().epoch(), Epoch(2));
}

#[tokio::test]
async fn a_takeover_that_was_abandoned_is_waited_for_and_then_passed_over() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    append(&soon(client.open(&name)).await.unwrap(), &numbered("x", 0..3)).await;
    let options = cluster.options(&["a"]);
    let pool = crate::pool::Pool::new(&options).unwrap();
    let store = Store::new(&options);
    soon(async { Takeover::find(&pool, &store, &options, &name).await?.claim().await }).await.unwrap();
    let patient = named(&cluster, "patient", |options| options.takeover_timeout = BRIEF).await;
    let unsure = error(soon(patient.open(&name)).await);
    assert!(matches!(unsure, Error::TakeOver(_)), "it may still be on its way: {unsure}");
    let next = named(&cluster, "next", |options| options.writer_timeout = SHORT).await;
    assert_eq!(soon(next.open(&name)).await.unwrap().epoch(), Epoch(3));
    assert_eq!(everything(&next, &name).await, numbered("x", 0..3));
}

#[tokio::test]
async fn lost_answers_and_lost_requests_leave_one_epoch() {
    for (answers, requests) in [(1, 0), (0, 1), (2, 2)] {
        let cluster = Cluster::start(&NODES);
        let (client, name) = cluster.client_and_log().await;
        {
            let mut meta = cluster.shared.meta.lock();
            (meta.lose_answers, meta.lose_requests) = (answers, requests);
        }
        let writer = soon(client.open(&name)).await.unwrap();
        assert_eq!(writer.epoch(), Epoch(1), "one takeover, however often it was sent");
        assert_eq!(soon(writer.append("x")).await.unwrap(), Offset(0));
    }
}
