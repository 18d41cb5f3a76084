use super::*;
use crate::fixture::{Fixture, Lossy, Lost, applied, eventually};
use piculet_quorum::meta::ClusterRecord;
use std::sync::Arc;

fn node() -> NodeId {
    NodeId::new("a").unwrap()
}

async fn record(fixture: &Fixture) -> Option<NodeRecord> {
    match fixture.snapshot().await.records.remove(&Key::Node(node()))?.value {
        Record::Node(record) => Some(record),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_cluster_is_named_once() {
    let lossy = Lossy::default();
    lossy.lose([Some(Lost::Request), Some(Lost::Answer)]);
    let (first, second) = tokio::join!(join_cluster(&lossy), join_cluster(&lossy));
    assert_eq!(first.unwrap(), second.unwrap());
}

#[tokio::test]
async fn metadata_of_another_form_are_refused() {
    let fixture = Fixture::new();
    let record = Record::Cluster(ClusterRecord { cluster: Nonce(1), format: 99 });
    applied(&fixture.meta, &Txn::default().put(Key::Cluster, record)).await;
    let error = join_cluster(&fixture.meta).await.unwrap_err();
    assert!(matches!(error, MembershipError::Format { found: 99 }), "{error}");
}

#[tokio::test]
async fn a_node_is_registered_for_as_long_as_it_lives() {
    let fixture = Fixture::new();
    let lossy = Lossy { inner: fixture.meta.clone(), ..Lossy::default() };
    let (core, life) = fixture.core_with(fixture.config("a"), Arc::new(lossy.clone())).await;
    lossy.lose([Some(Lost::Request), Some(Lost::Answer)]);
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn({
        let core = Arc::clone(&core);
        async move { keep_registered(&core, stopped).await }
    });
    eventually("it has a lease", || core.lease().is_some()).await;
    assert!(core.readiness.registered.load(Ordering::Acquire));
    let registered = record(&fixture).await.unwrap();
    assert_eq!(
        (registered.incarnations[&Level::Memory], registered.state),
        (life.incarnation, NodeState::Active)
    );
    assert_eq!(registered.addresses, core.config.advertise);

    let lost = core.lease().unwrap();
    fixture.meta.expire(lost);
    eventually("it has another lease", || core.lease().is_some_and(|lease| lease != lost)).await;
    assert!(record(&fixture).await.is_some());

    core.start_draining();
    let deadline = Instant::now() + Duration::from_secs(20);
    while record(&fixture).await.map(|record| record.state) != Some(NodeState::Draining) {
        assert!(Instant::now() < deadline, "it does not say that it is draining");
        sleep(Duration::from_millis(5)).await;
    }
    stop.send_replace(true);
    task.await.unwrap().unwrap();
    assert_eq!((record(&fixture).await, core.lease()), (None, None));
}

#[tokio::test]
async fn a_displaced_process_does_not_register() {
    let fixture = Fixture::new();
    let (core, _) = fixture.core("a").await;
    fixture.displace(&core).await;
    let (_stop, stopped) = watch::channel(false);
    let error = keep_registered(&core, stopped).await.unwrap_err().to_string();
    assert!(error.contains("name a is used twice") && error.contains("incarnation 2"), "{error}");
    assert_eq!(record(&fixture).await, None);
}
