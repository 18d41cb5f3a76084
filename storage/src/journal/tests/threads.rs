use super::driver::{CLUSTER, SMALL, contents};
use crate::buffer::Position;
use crate::fixture::{Batches, PLACE};
use crate::journal::simulated::SimulatedDisk;
use crate::journal::{Change, Journal, JournalCore, JournalOptions, Manifest, Refused, Replayed};
use piculet_quorum::batch::Place;
use piculet_quorum::ids::{Epoch, Index, LogId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Waits for something that another thread brings about.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

fn start(disk: &SimulatedDisk, options: JournalOptions) -> Arc<Journal> {
    let core = JournalCore::create(disk.clone(), options, CLUSTER).unwrap();
    Arc::new(Journal::start(core).unwrap())
}

fn place(log: u64) -> Place {
    Place { log: LogId(log), ..PLACE }
}

/// Takes room for and hands over a batch of a log, and before the first one its manifest.
fn put_batch(journal: &Arc<Journal>, batches: &mut Batches, lengths: &[usize]) -> Result<Position, Refused> {
    let batch = batches.peek(lengths);
    let room = journal.reserve(batch.bytes.len())?;
    if batches.next == Index(0) {
        journal.put(Change::Segment(Manifest::new(batches.place, Index(0), batches.before)));
    }
    batches.next(lengths);
    let (place, end) = (batches.place, batches.next);
    let bytes = vec![batch.bytes];
    Ok(room.put(Change::Batch { place, repair: false, end, at_end: batch.end, bytes }))
}

#[test]
fn appends_of_all_logs_that_wait_share_one_sync() {
    let disk = SimulatedDisk::new(1);
    let journal = start(&disk, SMALL);
    let (syncs, writes) = (disk.syncs(), disk.writes());
    disk.hold_syncs(true);
    journal.put(Change::Fence { log: LogId(9), epoch: Epoch(1) });
    until("the first is written", || disk.writes() == writes + 1);
    std::thread::scope(|scope| {
        for log in 0..10 {
            let journal = &journal;
            scope.spawn(move || {
                let mut batches = Batches { place: place(log), ..Batches::new(0) };
                for _ in 0..5 {
                    put_batch(journal, &mut batches, &[7]).unwrap();
                }
            });
        }
    });
    assert_eq!(*journal.synced().borrow(), Position(0), "nothing is announced before the sync");
    assert!(journal.take_synced().is_empty());
    disk.hold_syncs(false);
    until("all is at rest", || *journal.synced().borrow() == Position(1 + 60));
    // What waited takes more than one file: the files before the last are synced with their seal.
    let files = disk.syncs() - syncs - 1;
    assert!(files <= 1 + 2 * 2, "{files} syncs for 50 batches");
    let mut synced = journal.take_synced();
    synced.sort_by_key(|synced| synced.log);
    assert_eq!(synced.len(), 10);
    assert!(synced.iter().zip(0..).all(|(synced, log)| (synced.log, synced.index) == (LogId(log), Index(5))));
    assert!(journal.take_synced().is_empty(), "each is said once");
}

#[test]
fn dropping_it_writes_what_waits_and_an_end_mark() {
    let disk = SimulatedDisk::new(2);
    let journal = start(&disk, SMALL);
    let mut batches = Batches { place: place(1), ..Batches::new(0) };
    for _ in 0..20 {
        put_batch(&journal, &mut batches, &[100]).unwrap();
    }
    drop(journal);
    let found = Replayed::read(disk.power_cut(|_| 0), SMALL, CLUSTER).unwrap();
    assert!(found.clean() && found.damage().is_none());
    assert_eq!(contents(&found).segments[&place(1)].manifest.tail, Index(20));
}

#[test]
fn a_failed_sync_is_announced_with_its_first_reason_and_nothing_is_synced_again() {
    let disk = SimulatedDisk::new(3);
    let journal = start(&disk, SMALL);
    let fence = |epoch| journal.put(Change::Fence { log: LogId(1), epoch: Epoch(epoch) });
    let first = fence(1);
    until("the first is at rest", || *journal.synced().borrow() == first);
    disk.fail_syncs_after(0);
    fence(2);
    until("it has failed", || journal.failed().borrow().is_some());
    let stopped = journal.failed().borrow().clone().unwrap();
    let reason = &stopped.reason;
    assert!(!stopped.sound);
    assert!(reason.contains("cannot sync") && reason.contains("the disk does not sync"), "{reason}");
    disk.fail_syncs_after(9);
    let syncs = disk.syncs();
    for epoch in 3..20 {
        fence(epoch);
    }
    assert_eq!(*journal.synced().borrow(), first, "nothing is announced after a failure");
    assert_eq!(*journal.failed().borrow(), Some(stopped));
    drop(journal);
    assert_eq!(disk.syncs(), syncs);
}

#[test]
fn what_waits_is_bounded_by_its_bytes() {
    let disk = SimulatedDisk::new(4);
    let options = JournalOptions { queue_bytes: 5000, ..SMALL };
    let journal = start(&disk, options);
    let mut batches = Batches { place: place(1), ..Batches::new(0) };
    disk.hold_syncs(true);
    put_batch(&journal, &mut batches, &[9000]).expect("one is taken, however large");
    let refused = put_batch(&journal, &mut batches, &[10]).unwrap_err();
    assert!(matches!(refused, Refused::Waiting { limit: 5000, waiting: 9000.. }), "{refused}");
    disk.hold_syncs(false);
    until("there is room again", || put_batch(&journal, &mut batches, &[10]).is_ok());
    until("that is written", || journal.reserve(4000).is_ok());
    let room = journal.reserve(4000).unwrap();
    assert!(journal.reserve(4000).is_err());
    drop(room);
    journal.reserve(4000).expect("room that was not used is given back");
}

#[test]
fn batches_are_refused_while_the_disk_is_full_and_taken_again_afterwards() {
    let disk = SimulatedDisk::new(5);
    // The journal itself, and no more than the reserve of two files.
    disk.set_capacity(3 * SMALL.file_bytes + 4096);
    let journal = start(&disk, SMALL);
    let mut batches = Batches { place: place(1), ..Batches::new(0) };
    put_batch(&journal, &mut batches, &[1000]).unwrap();
    let refused = put_batch(&journal, &mut batches, &[4000]).unwrap_err();
    assert!(matches!(refused, Refused::Room { wanted: 4000.., room: 1000..4000 }), "{refused}");
    let fence = journal.put(Change::Fence { log: LogId(1), epoch: Epoch(4) });
    until("a fence still finds room", || *journal.synced().borrow() == fence);
    disk.set_capacity(10 * SMALL.file_bytes);
    until("somebody made room", || put_batch(&journal, &mut batches, &[4000]).is_ok());
    assert!(journal.failed().borrow().is_none());
}

#[test]
fn a_journal_that_finds_no_room_for_a_file_stops_and_says_that_nothing_is_lost() {
    let disk = SimulatedDisk::new(6);
    let journal = start(&disk, SMALL);
    let fence = |epoch| journal.put(Change::Fence { log: LogId(1), epoch: Epoch(epoch) });
    let first = fence(1);
    until("the first is at rest", || *journal.synced().borrow() == first);
    disk.set_capacity(0);
    let mut epoch = 1;
    until("a file is full", || {
        epoch += 1;
        fence(epoch);
        journal.failed().borrow().is_some()
    });
    let stopped = journal.failed().borrow().clone().unwrap();
    assert!(stopped.sound && stopped.reason.contains("no room for the journal"), "{stopped:?}");
    let synced = journal.synced().borrow().0;
    drop(journal);
    disk.set_capacity(1 << 20);
    let found = Replayed::read(disk, SMALL, CLUSTER).unwrap();
    assert_eq!(found.damage(), None);
    // Only fences were put, so a position is an epoch.
    assert!(contents(&found).fences[&LogId(1)] >= Epoch(synced));
    found.resume().unwrap();
}
