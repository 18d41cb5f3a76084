use super::super::keep_registered;
use super::*;
use crate::fixture::{Fixture, Lossy, Lost, applied, eventually};
use piculet_quorum::meta::NodeState;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// In place of a buffer's directory: what is at rest of its life.
#[derive(Clone, Default)]
struct Dir(Start);

impl Dir {
    /// As after `adopt`.
    fn adopt(&mut self, life: Life) {
        let Life { incarnation, nonce, .. } = life;
        self.0 = Start { adopted: Some(IncarnationRecord { incarnation, nonce }), ..Start::default() };
    }
}

impl Header for Dir {
    fn start(&self) -> Start {
        self.0
    }

    fn begin(&mut self, life: IncarnationRecord) -> Result<(), BufferError> {
        self.0.begun = Some(life);
        Ok(())
    }

    fn landed(&mut self) -> Result<(), BufferError> {
        self.0 = Start { adopted: self.0.begun.take(), ..self.0 };
        Ok(())
    }
}

fn node() -> NodeId {
    NodeId::new("a").unwrap()
}

async fn take(meta: &dyn Metadata, dir: &mut Dir) -> Taken {
    let (node, advertise) = (node(), ["a:1".to_owned()]);
    let place = Place { node: &node, advertise: &advertise, admin: "a:2" };
    take_life(meta, &place, Level::Memory, dir).await.unwrap()
}

/// A start, all of it.
async fn start(meta: &dyn Metadata, dir: &mut Dir) -> (u64, bool) {
    let taken = take(meta, dir).await;
    dir.adopt(taken.life);
    (taken.life.incarnation.0, taken.kept)
}

async fn recorded(meta: &dyn Metadata) -> Versioned<IncarnationRecord> {
    let key = Key::Incarnation(node(), Level::Memory);
    meta.read(std::slice::from_ref(&key), &[]).await.unwrap().incarnation(&key).unwrap()
}

#[tokio::test]
async fn a_sound_buffer_keeps_its_incarnation_under_a_fresh_nonce() {
    let (lossy, mut dir) = (Lossy::default(), Dir::default());
    assert_eq!(start(&lossy, &mut dir).await, (1, false), "a first life");
    for lost in [None, Some(Lost::Request), Some(Lost::Answer)] {
        let before = recorded(&lossy).await;
        lossy.lose([lost]);
        assert_eq!(start(&lossy, &mut dir).await, (1, true), "{lost:?}");
        let now = recorded(&lossy).await;
        assert!(now.value.nonce != before.value.nonce && now.revision > before.revision);
    }
}

#[tokio::test]
async fn a_damaged_buffer_and_an_empty_one_begin_new_lives() {
    let (lossy, mut dir) = (Lossy::default(), Dir::default());
    start(&lossy, &mut dir).await;
    dir.0.damaged = true;
    lossy.lose([Some(Lost::Answer)]);
    assert_eq!(start(&lossy, &mut dir).await, (2, false));
    assert_eq!(start(&lossy, &mut dir).await, (2, true), "what it held since is sound");
    assert_eq!(start(&lossy, &mut Dir::default()).await, (3, false));
}

#[tokio::test]
async fn a_copied_directory_is_found_out_whichever_starts_first() {
    for copy_first in [false, true] {
        let (lossy, mut dir) = (Lossy::default(), Dir::default());
        start(&lossy, &mut dir).await;
        let mut copy = dir.clone();
        let (first, second) = if copy_first { (&mut copy, &mut dir) } else { (&mut dir, &mut copy) };
        assert_eq!(start(&lossy, first).await, (1, true));
        assert_eq!(start(&lossy, second).await, (2, false), "there is only one of it");
        assert_eq!(start(&lossy, first).await, (3, false));
    }
}

/// A start that is killed when it has asked for its swap, which lands at once, later, or never.
#[tokio::test]
async fn a_start_that_is_killed_midway_costs_no_incarnation() {
    for damaged in [false, true] {
        let (lossy, mut dir) = (Lossy::default(), Dir::default());
        start(&lossy, &mut dir).await;
        dir.0.damaged = damaged;
        let (kept, mut incarnation) = (!damaged, 1);
        for lands in [true, false] {
            // What it leaves behind: the directory with the swap begun, and perhaps the record.
            let before = recorded(&lossy).await;
            let mut killed = dir.clone();
            let taken = if lands {
                take(&lossy, &mut killed).await
            } else {
                let scratch = Lossy::default();
                let copy = register::swap_life(&node(), Level::Memory, None, before.value);
                applied(&scratch.inner, &copy).await;
                take(&scratch, &mut killed).await
            };
            assert_eq!(taken.kept, kept);
            if kept {
                assert_eq!(start(&lossy, &mut killed).await, (incarnation, true), "lands: {lands}");
                // The one that was killed can never take the life away any more.
                let late = IncarnationRecord { incarnation: taken.life.incarnation, nonce: taken.life.nonce };
                let late = register::swap_life(&node(), Level::Memory, Some(&before), late);
                assert_eq!(lossy.inner.commit(&late).await.unwrap(), TxnOutcome::Refused);
            } else {
                let (now, again) = start(&lossy, &mut killed).await;
                assert!(now > incarnation && !again, "nothing of it was served");
                incarnation = now;
                killed.0.damaged = true;
            }
            dir = killed;
        }
    }
}

#[tokio::test]
async fn two_starts_at_once_get_lives_of_their_own() {
    let lossy = Lossy::default();
    let (mut one, mut other) = (Dir::default(), Dir::default());
    let (one, other) = tokio::join!(start(&lossy, &mut one), start(&lossy, &mut other));
    assert_eq!((one.0.min(other.0), one.0.max(other.0)), (1, 2));
}

#[tokio::test]
async fn a_start_waits_while_the_name_is_registered_elsewhere() {
    let fixture = Fixture::new();
    let (core, life) = fixture.core("a").await;
    let (stop, stopped) = watch::channel(false);
    let registered = tokio::spawn({
        let core = Arc::clone(&core);
        async move { keep_registered(&core, stopped).await }
    });
    eventually("it is registered", || core.lease().is_some()).await;
    let (meta, done) = (fixture.meta.clone(), Arc::new(AtomicBool::new(false)));
    let waiting = tokio::spawn({
        let done = Arc::clone(&done);
        async move {
            let started = start(&meta, &mut Dir::default()).await;
            done.store(true, Ordering::Release);
            started
        }
    });
    // A node that was registered from the same place is its own predecessor.
    let here =
        Place { node: &core.id, advertise: &core.config.advertise, admin: &core.config.admin.to_string() };
    let snapshot = fixture.snapshot().await;
    let record = &snapshot.records[&Key::Node(core.id.clone())].value;
    assert!(matches!(record, Record::Node(record) if record.state == NodeState::Active));
    assert!(!is_elsewhere(record, &here));
    assert!(is_elsewhere(record, &Place { admin: "10.0.0.9:7780", ..here }));
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert!(!done.load(Ordering::Acquire));
    assert_eq!(recorded(&fixture.meta).await.value.nonce, life.nonce, "the one that runs is left alone");
    stop.send_replace(true);
    registered.await.unwrap().unwrap();
    assert_eq!(waiting.await.unwrap(), (2, false), "as soon as the other has gone");
}

#[tokio::test]
async fn a_life_is_ended_only_by_its_own_process() {
    let fixture = Fixture::new();
    let (core, life) = fixture.core("a").await;
    assert!(end_life(&fixture.meta, &core.id, Level::Memory, &life).await.unwrap());
    let now = recorded(&fixture.meta).await;
    assert_eq!(now.value.incarnation, life.incarnation.plus(1));
    assert!(!end_life(&fixture.meta, &core.id, Level::Memory, &life).await.unwrap());
    assert_eq!(recorded(&fixture.meta).await, now);
}

#[tokio::test]
async fn a_damaged_record_of_a_life_is_not_counted_on_from() {
    let (lossy, mut dir) = (Lossy::default(), Dir::default());
    start(&lossy, &mut dir).await;
    let (key, read) = (Key::Incarnation(node(), Level::Memory), recorded(&lossy).await);
    let damaged = IncarnationRecord { incarnation: Incarnation(u64::MAX), ..read.value };
    applied(&lossy.inner, &Txn::default().put(key, Record::Incarnation(damaged))).await;
    let (node, advertise) = (node(), ["a:1".to_owned()]);
    let place = Place { node: &node, advertise: &advertise, admin: "a:2" };
    let why = take_life(&lossy, &place, Level::Memory, &mut dir).await.unwrap_err().to_string();
    for expected in ["incarnation 18446744073709551615", "key incarnations/a/memory", "does not start"] {
        assert!(why.contains(expected), "{why}");
    }
}
