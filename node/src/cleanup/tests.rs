use super::*;
use crate::fixture::{Fixture, Lossy, Lost, Running, Writer, eventually, used};
use crate::membership::Life;
use piculet_meta::Metadata;
use piculet_quorum::ids::{Index, Offset, Timestamp};
use piculet_quorum::meta::Record;
use std::path::Path;

/// The node that is asked to clean, another member of every segment, and a log.
struct Site {
    fixture: Fixture,
    core: (Arc<Core>, Life),
    other: (Arc<Core>, Life),
    writer: Writer,
}

impl Site {
    async fn new(fixture: Fixture, meta: Arc<dyn Metadata>) -> Self {
        let core = fixture.core_with(fixture.config("a"), meta).await;
        let other = fixture.core("b").await;
        let writer = Writer::create(&fixture.meta, 1, &[(&*core.0, core.1), (&*other.0, other.1)]).await;
        Self { fixture, core, other, writer }
    }

    fn members(&self) -> [(&Core, Life); 2] {
        [(&*self.core.0, self.core.1), (&*self.other.0, self.other.1)]
    }

    /// Appends one batch to the newest segment, has it archived, and opens the next.
    async fn archive_and_roll(&mut self) {
        self.archive().await;
        let (core, other) = ((&*self.core.0, self.core.1), (&*self.other.0, self.other.1));
        let archived = self.writer.archived().await.0;
        self.writer.roll(&[core, other], archived, &[core, other]).await;
    }

    async fn archive(&mut self) {
        let session = [(&*self.core.0, self.writer.open(&self.core.0).await)];
        self.writer.append(&session, 70 << 10);
        self.writer.commit(&session);
        self.writer.until_archived().await;
    }

    async fn segments(&self) -> Vec<u64> {
        let snapshot = self.fixture.snapshot().await;
        let numbers = snapshot.records.keys().filter_map(|key| match key {
            Key::Segment(_, number) => Some(number.0),
            _ => None,
        });
        numbers.collect()
    }

    /// The segments of which there are objects, one number for each object.
    async fn objects(&self) -> Vec<u64> {
        let listed = self.core.0.objects.list().await.unwrap();
        let mut numbers: Vec<u64> = listed.iter().map(|part| part.name.segment.0).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Waits until these segments, and nothing else of the log, are left.
    async fn until_left(&self, segments: &[u64], objects: &[u64]) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while (self.segments().await, self.objects().await) != (segments.to_vec(), objects.to_vec()) {
            let left = (self.segments().await, self.objects().await);
            assert!(Instant::now() < deadline, "{left:?} are left");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn site() -> Site {
    let fixture = Fixture::new();
    let meta = Arc::new(fixture.meta.clone());
    Site::new(fixture, meta).await
}

#[tokio::test]
async fn what_lies_below_the_trim_offset_is_deleted_but_the_newest_segment_stays() {
    let mut site = site().await;
    let running = Running::start(&site.core.0);
    for _ in 0..3 {
        site.archive_and_roll().await;
    }
    assert_eq!((site.segments().await, site.objects().await), (vec![0, 1, 2, 3], vec![0, 1, 2]));
    site.writer.trim(Offset(1)).await;
    site.until_left(&[1, 2, 3], &[1, 2]).await;
    // Everything, while the newest segment is empty and open: it stays.
    site.writer.trim(Offset(3)).await;
    site.until_left(&[3], &[]).await;
    // A segment that is archived after it was trimmed, and followed by another.
    site.writer.trim(Offset(4)).await;
    site.archive_and_roll().await;
    site.until_left(&[4], &[]).await;
    site.archive().await;
    site.writer.trim(Offset(5)).await;
    let archived = site.writer.archived().await.0;
    site.writer.seal(&site.members(), archived).await;
    let key = Key::Segment(site.writer.log, site.writer.number);
    eventually("the end is known", || {
        site.core.0.logs.get(site.writer.log).is_none_or(|log| log.lock().segments.is_empty())
    })
    .await;
    let now = site.fixture.snapshot().await;
    assert!(matches!(step::of(site.writer.log, &now, Timestamp(0)), Step::Nothing));
    assert!(now.segment(&key).is_some() && site.objects().await == [4], "the newest part stays");
    running.stop().await;
}

#[tokio::test]
async fn the_newest_part_of_a_log_with_producers_stays_until_there_is_a_newer_one() {
    let mut site = site().await;
    let running = Running::start(&site.core.0);
    for _ in 0..2 {
        site.archive_and_roll().await;
    }
    let begin = async || crate::producers::for_writer(&site.core.0, site.writer.log).await.unwrap();
    begin().await;
    // Everything, while the newest segment is empty and open.
    site.writer.trim(Offset(2)).await;
    site.until_left(&[1, 2], &[1]).await;
    let found = begin().await.expect("the log is there");
    assert_eq!(found.from, Some((SegmentNumber(1), Index(1))));
    site.archive_and_roll().await;
    site.until_left(&[2, 3], &[2]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_deleted_log_goes_with_all_that_is_its_own() {
    let mut site = site().await;
    let running = Running::start(&site.core.0);
    for _ in 0..2 {
        site.archive_and_roll().await;
    }
    // The last segment is open and holds what is archived nowhere.
    let session = [(&*site.core.0, site.writer.open(&site.core.0).await)];
    site.writer.append(&session, 10);
    let stray = part_that_nobody_recorded(&site).await;
    site.writer.delete(wall_clock()).await;
    site.until_left(&[], &[1]).await;
    assert_eq!(used(&site.core.0), 0);
    let now = site.fixture.snapshot().await;
    assert!(matches!(step::of(site.writer.log, &now, wall_clock()), Step::Wait(_)), "the tombstone stays");
    running.stop().await;

    // Another node starts when the grace is over.
    let key = Key::Log(site.writer.log);
    let mut record = now.log(&key).unwrap().value;
    record.deleted = Some(Timestamp(1));
    let old = Txn::default().put(key.clone(), Record::Log(record));
    crate::fixture::applied(&site.fixture.meta, &old).await;
    let running = Running::start(&site.other.0);
    site.until_left(&[], &[]).await;
    assert!(!stray.exists());
    let deadline = Instant::now() + Duration::from_secs(30);
    while site.fixture.snapshot().await.records.contains_key(&key) {
        assert!(Instant::now() < deadline, "the tombstone is still there");
        sleep(Duration::from_millis(5)).await;
    }
    let mine = |key: &Key| matches!(key, Key::Config(_) | Key::Trim(_) | Key::First(_) | Key::Name(_));
    assert!(!site.fixture.snapshot().await.records.keys().any(mine), "nor anything else of it");
    running.stop().await;
}

/// Copies an object of the log to where another would lie that was put and never recorded.
async fn part_that_nobody_recorded(site: &Site) -> std::path::PathBuf {
    let listed = site.core.0.objects.list().await.unwrap();
    let name = listed.iter().map(|part| part.name).find(|name| name.segment == SegmentNumber(1)).unwrap();
    let stray = PartName { end: Index(name.end.0 + 1), ..name };
    let at = |name: &PartName| site.fixture.objects().join(Path::new(&name.to_string()));
    std::fs::copy(at(&name), at(&stray)).unwrap();
    at(&stray)
}

#[tokio::test]
async fn lost_answers_leave_no_objects_behind() {
    for lost in [Lost::Answer, Lost::Request] {
        let fixture = Fixture::new();
        let lossy = Lossy { inner: fixture.meta.clone(), ..Lossy::default() };
        let mut site = Site::new(fixture, Arc::new(lossy.clone())).await;
        let running = Running::start(&site.core.0);
        site.archive_and_roll().await;
        running.stop().await;
        site.writer.trim(Offset(1)).await;
        lossy.lose([Some(lost)]);
        let again = clean(&site.core.0, site.writer.log, Instant::now()).await;
        assert_eq!(again.is_some(), lost == Lost::Request, "{lost:?}: what did not happen is tried again");
        if again.is_some() {
            assert_eq!(clean(&site.core.0, site.writer.log, Instant::now()).await, None);
        }
        assert_eq!((site.segments().await, site.objects().await), (vec![1], vec![]), "{lost:?}");
    }
}

#[tokio::test]
async fn the_nodes_take_turns() {
    let mut site = site().await;
    let running = [Running::start(&site.core.0), Running::start(&site.other.0)];
    let both = |key: &Key| matches!(key, Key::Node(_));
    let deadline = Instant::now() + Duration::from_secs(30);
    while site.fixture.snapshot().await.records.keys().filter(|key| both(key)).count() < 2 {
        assert!(Instant::now() < deadline, "not registered");
        sleep(Duration::from_millis(5)).await;
    }
    let asked = Instant::now();
    let a = turn(&site.core.0, site.writer.log, asked).await.unwrap();
    let b = turn(&site.other.0, site.writer.log, asked).await.unwrap();
    assert_eq!((a.min(b), a.max(b)), (asked, asked + FAILOVER));
    site.archive_and_roll().await;
    site.writer.trim(Offset(1)).await;
    site.until_left(&[1], &[]).await;
    for running in running {
        running.stop().await;
    }
}

#[tokio::test]
async fn contradictory_records_are_left_alone() {
    let site = site().await;
    let now = site.fixture.snapshot().await;
    let log = site.writer.log;
    let mut damaged = now.clone();
    damaged.records.remove(&Key::Segment(log, site.writer.number));
    assert!(
        matches!(step::of(log, &damaged, Timestamp(0)), Step::Damaged(why) if why.contains("segment, 0"))
    );
    let mut damaged = now.clone();
    damaged.records.remove(&Key::First(log));
    assert!(matches!(step::of(log, &damaged, Timestamp(0)), Step::Damaged(_)));
    assert_eq!(step::of(log, &now, Timestamp(0)), Step::Nothing);
}
