use super::driver::{CLUSTER, Driver, SMALL, contents};
use crate::buffer::Damage;
use crate::journal::simulated::SimulatedDisk;
use crate::journal::{Disk, JournalCore, JournalError, JournalOptions, Replayed, file_name};
use std::io;

fn files(disk: &SimulatedDisk) -> Vec<String> {
    disk.list().unwrap().into_iter().filter(|name| name.starts_with("journal-")).collect()
}

#[test]
fn a_flush_is_one_write_and_one_sync_for_all_logs() {
    let mut driver = Driver::new(1);
    let before = (driver.disk.writes(), driver.disk.syncs());
    for log in 0..3 {
        driver.batch(log, &[10, 20], false);
        driver.batch(log, &[30], false);
    }
    driver.flush().unwrap();
    assert_eq!((driver.disk.writes(), driver.disk.syncs()), (before.0 + 1, before.1 + 1));
    driver.flush().unwrap();
    assert_eq!(driver.disk.syncs(), before.1 + 1, "nothing waits: nothing is synced");
}

#[test]
fn files_go_oldest_first_when_their_batches_are_freed() {
    let mut driver = Driver::new(2);
    for _ in 0..12 {
        driver.batch(0, &[1000], false);
        driver.flush().unwrap();
    }
    let full = files(&driver.disk);
    assert!(full.len() >= 4, "{full:?}");
    driver.free(0, 5);
    driver.flush().unwrap();
    let fewer = files(&driver.disk);
    assert!(fewer.len() < full.len() && full.ends_with(&fewer), "{fewer:?}");
    driver.free(0, 200);
    driver.flush().unwrap();
    assert_eq!(files(&driver.disk), full[full.len() - 1..], "only the newest is left");
    assert_eq!(driver.core().file_bytes(), SMALL.file_bytes);
    let tail = driver.now().segments.values().next().unwrap().manifest.tail;
    let left = driver.disk.power_cut(|_| 0);
    driver.reopen(left).unwrap();
    let kept = driver.now().segments.values().next().unwrap().manifest;
    assert_eq!((kept.head, kept.tail), (tail, tail), "an empty segment keeps its tail");
}

#[test]
fn a_batch_larger_than_a_file_gets_a_file_of_its_own() {
    let mut driver = Driver::new(3);
    driver.batch(0, &[20_000], false);
    driver.batch(0, &[10], true);
    driver.flush().unwrap();
    let left = driver.disk.power_cut(|_| 0);
    driver.reopen(left).unwrap();
    assert_eq!(driver.now().segments.values().next().unwrap().batches.len(), 2);
}

#[test]
fn many_segments_and_fences_get_a_file_that_has_room_beside_their_list() {
    let mut driver = Driver::new(10);
    for log in 0..100 {
        driver.roll(log);
        driver.take(&super::driver::Step::Fence { log, epoch: 7 }).unwrap();
    }
    driver.flush().unwrap();
    assert!(driver.core().room_bytes().unwrap() > 100_000, "the next files have room");
    for round in 0..5 {
        (0..100).for_each(|log| driver.batch(log, &[100], false));
        driver.flush().unwrap();
        let left = driver.disk.power_cut(|_| 0);
        driver.reopen(left).unwrap();
        assert_eq!(driver.now().segments.len(), 100, "round {round}");
    }
}

#[test]
fn a_failed_sync_stops_the_journal_for_good_and_the_next_start_knows() {
    let mut driver = Driver::new(4);
    driver.batch(0, &[10], false);
    driver.flush().unwrap();
    driver.disk.fail_syncs_after(0);
    driver.batch(0, &[11], false);
    let first = driver.flush().unwrap_err();
    assert!(matches!(first, JournalError::Io { action: "sync", .. }), "{first}");
    let syncs = driver.disk.syncs();
    driver.disk.fail_syncs_after(9);
    driver.batch(0, &[12], false);
    let second = driver.flush().unwrap_err();
    assert!(second.to_string().contains(&first.to_string()), "{second}");
    assert_eq!(driver.disk.syncs(), syncs, "a sync is never tried again");
    assert_eq!(driver.core().failed().map(|reason| reason.to_string()), Some(first.to_string()));

    let found = Replayed::read(driver.disk.process_end(), SMALL, CLUSTER).unwrap();
    let Some(Damage::FailedBefore { reason, .. }) = found.damage() else { panic!("{:?}", found.damage()) };
    assert_eq!(**reason, first.to_string());
    assert_eq!(found.segments().len(), 1, "what is there is shown");
}

#[test]
fn a_start_that_cannot_sync_what_it_found_stops_the_journal_for_good_as_well() {
    // What a killed process leaves is in the page cache, and the start must put it at rest: after a
    // failed sync the next start would find the same pages, clean, and nothing of them on the disk.
    for syncs in 0..3 {
        let mut driver = Driver::new(11);
        driver.batch(0, &[10], false);
        driver.flush().unwrap();
        let disk = driver.disk.process_end();
        disk.fail_syncs_after(syncs);
        let error = Replayed::read(disk.clone(), SMALL, CLUSTER).unwrap().resume().unwrap_err();
        let JournalError::Failed(reason) = error else { panic!("{error}") };
        let next = Replayed::read(disk.process_end(), SMALL, CLUSTER).unwrap();
        let damage = next.damage();
        assert!(
            matches!(damage, Some(Damage::FailedBefore { reason: kept, .. }) if *kept == reason),
            "sync {syncs}: {damage:?}"
        );
    }
}

#[test]
fn discarding_leaves_an_empty_journal_without_a_trace_of_failure() {
    let mut driver = Driver::new(5);
    driver.batch(0, &[10], false);
    driver.flush().unwrap();
    driver.disk.fail_syncs_after(0);
    driver.batch(0, &[11], false);
    driver.flush().unwrap_err();
    let disk = driver.disk.process_end();
    Replayed::read(disk.clone(), SMALL, CLUSTER).unwrap().discard().unwrap().close().unwrap();
    let found = Replayed::read(disk.power_cut(|_| 0), SMALL, CLUSTER).unwrap();
    assert!(found.damage().is_none() && found.clean());
    assert_eq!(contents(&found), super::driver::Contents::default());
    assert_eq!(files(&disk), [file_name(2)], "generations are never used again");
}

#[test]
fn a_full_disk_is_refused_before_it_fails_and_says_what_to_do() {
    let mut driver = Driver::new(6);
    let used = driver.core().file_bytes() + 4096;
    driver.disk.set_capacity(used + 4 * SMALL.file_bytes);
    // Two files are kept in reserve, two may be filled.
    let room = driver.core().room_bytes().unwrap();
    assert!(room > 2 * SMALL.file_bytes && room < 3 * SMALL.file_bytes, "{room}");
    while driver.core().room_bytes().unwrap() >= 1200 {
        driver.batch(0, &[1000], false);
        driver.flush().unwrap();
    }
    // Whoever goes on nevertheless uses up the reserve, and then it fails.
    let error = loop {
        driver.batch(0, &[1000], false);
        if let Err(error) = driver.flush() {
            break error;
        }
    };
    let JournalError::NoSpace { free, wanted, .. } = &error else { panic!("{error}") };
    assert!(*wanted == SMALL.file_bytes && *free < *wanted);
    let text = error.to_string();
    assert!(text.contains("/simulated/journal-") && text.contains("make room"), "{text}");
    let again = driver.flush().unwrap_err();
    assert!(matches!(again, JournalError::Failed(_)), "it has stopped: {again}");
    // Nothing that was not synced was written: a start needs room, and then has everything.
    let left = driver.disk.process_end();
    let found = Replayed::read(left.clone(), SMALL, CLUSTER).unwrap();
    assert_eq!(found.damage(), None);
    let error = found.resume().unwrap_err();
    assert!(matches!(error, JournalError::NoSpace { .. }), "{error}");
    left.set_capacity(1 << 20);
    driver.reopen(left).unwrap();
}

#[test]
fn the_options_limit_what_the_files_take() {
    let options = JournalOptions { bytes: 3 * SMALL.file_bytes, ..SMALL };
    let core = JournalCore::create(SimulatedDisk::new(7), options, CLUSTER).unwrap();
    let room = core.room_bytes().unwrap();
    assert!(room > 2 * SMALL.file_bytes && room < 3 * SMALL.file_bytes, "{room}");
    for bad in [JournalOptions { file_bytes: 100, ..SMALL }, JournalOptions { bytes: 5000, ..SMALL }] {
        let error = JournalCore::create(SimulatedDisk::new(8), bad, CLUSTER).unwrap_err();
        assert!(matches!(error, JournalError::Options { .. }), "{error}");
    }
}

#[test]
fn a_batch_that_changed_after_it_was_checked_is_not_given_out() {
    let mut driver = Driver::new(9);
    driver.batch(0, &[100], false);
    driver.close().unwrap();
    let found = Replayed::read(driver.disk.clone(), SMALL, CLUSTER).unwrap();
    let at = found.segments().next().unwrap().batches[0];
    let end = driver.disk.bytes(&file_name(1)).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    driver.disk.flip(&file_name(1), (end - 40) * 8);
    let error = found.read_batch(&at).unwrap_err();
    let JournalError::Io { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.kind(), io::ErrorKind::InvalidData);
}
