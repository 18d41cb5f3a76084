use super::*;
use crate::buffer::Position;
use crate::fixture::{Batch, Batches, PLACE};
use piculet_quorum::ids::{Epoch, Incarnation, Index, Level, LogId};
use piculet_quorum::replica::Kept;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const CLUSTER: Nonce = Nonce(0xc1);
const SMALL: DiskOptions =
    DiskOptions { bytes: 64 << 10, chunk_bytes: 1 << 10, file_bytes: 8 << 10, queue_bytes: 32 << 10 };

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn found(dir: &Path) -> Found {
    Found::disk(dir, &SMALL, CLUSTER).unwrap()
}

/// Starts as a node does whose swap lands at once.
fn start(mut found: Found) -> (Arc<Buffer>, Contents) {
    let (incarnation, nonce) = found.adopted().unwrap_or((Incarnation(0), Nonce(0)));
    let keep = found.damage().is_none();
    let incarnation = if keep { incarnation } else { Incarnation(incarnation.0 + 1) };
    found.begin_swap(incarnation, Nonce(nonce.0 + 1)).unwrap();
    found.adopt(keep).unwrap()
}

fn append(buffer: &mut SegmentBuffer, batch: &Batch, repair: bool) {
    buffer.begin(&batch.header).unwrap();
    buffer.fill(&batch.body);
    buffer.publish(batch.end, repair);
}

/// Waits until a fence put now, and so everything before it, is at rest.
fn settle(buffer: &Buffer) {
    let position = buffer.put_fence(LogId(0xffff), Epoch(1)).unwrap();
    let (synced, deadline) = (buffer.synced(), Instant::now() + Duration::from_secs(30));
    while *synced.borrow() < position {
        assert!(Instant::now() < deadline, "nothing is synced");
        std::thread::yield_now();
    }
}

fn read(buffer: &SegmentBuffer) -> Vec<u8> {
    let run = buffer.read(buffer.freed(), buffer.tail(), usize::MAX);
    run.map_or_else(Vec::new, |run| run.pieces.concat())
}

/// Bytes that the files of a directory take on the disk.
fn taken(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap();
    files.map(|file| std::os::unix::fs::MetadataExt::blocks(&file.unwrap().metadata().unwrap()) * 512).sum()
}

#[test]
fn a_process_that_starts_again_and_again_takes_no_more_room_each_time() {
    let dir = dir();
    let options = DiskOptions { file_bytes: 256 << 10, ..SMALL };
    let found = || Found::disk(dir.path(), &options, CLUSTER).unwrap();
    let (buffer, _) = start(found());
    // The first batch pins the first file, and with it all that come after it.
    let mut batches = Batches::new(0);
    let mut segment = buffer.segment(PLACE, batches.next, batches.before);
    append(&mut segment, &batches.next(&[700]), false);
    settle(&buffer);
    drop((segment, buffer));
    for _ in 0..50 {
        let (buffer, contents) = start(found());
        let [KeptSegment { buffer: mut segment, kept }] = contents.segments.try_into().unwrap();
        assert_eq!((kept.tail, kept.freed), (batches.next, Index(0)));
        append(&mut segment, &batches.next(&[100]), false);
        settle(&buffer);
        assert!(!buffer.nearly_full());
    }
    let limit = 2 * options.file_bytes + 52 * (8 << 10);
    assert!(taken(dir.path()) <= limit, "{} bytes, and {limit} would do", taken(dir.path()));
    let (buffer, contents) = start(found());
    let [KeptSegment { buffer: mut segment, .. }] = contents.segments.try_into().unwrap();
    segment.free_below(batches.next);
    settle(&buffer);
    drop((segment, buffer));
    assert!(taken(dir.path()) <= 2 * options.file_bytes, "{} bytes", taken(dir.path()));
}

#[test]
fn files_that_one_old_batch_pins_are_refused_more_and_said_to_be_nearly_full_before() {
    let dir = dir();
    let (buffer, _) = start(found(dir.path()));
    let mut pinning = Batches::new(0);
    let mut old = buffer.segment(pinning.place, pinning.next, pinning.before);
    append(&mut old, &pinning.next(&[10]), false);
    let mut batches =
        Batches { place: piculet_quorum::batch::Place { log: LogId(77), ..PLACE }, ..Batches::new(0) };
    let mut segment = buffer.segment(batches.place, batches.next, batches.before);
    assert!(!buffer.nearly_full());
    let mut warned = false;
    let refused = loop {
        let batch = batches.next(&[900, 900]);
        if let Err(refused) = segment.begin(&batch.header) {
            break refused;
        }
        segment.fill(&batch.body);
        segment.publish(batch.end, false);
        // All of it is archived at once, and the files stay.
        segment.free_below(segment.tail());
        settle(&buffer);
        warned |= buffer.nearly_full();
        assert!(batches.next < Index(10_000), "it is never full");
    };
    assert!(matches!(refused, crate::arena::Full::Journal(_)), "{refused}");
    assert!(warned && buffer.arena().used_bytes() <= 4 << 10, "its memory is empty");
    old.free_below(old.tail());
    settle(&buffer);
    let deadline = Instant::now() + Duration::from_secs(30);
    while buffer.nearly_full() {
        assert!(Instant::now() < deadline, "there is no room again");
        std::thread::yield_now();
    }
}

#[test]
fn a_file_that_cannot_be_read_is_no_damage() {
    for name in ["identity", "health", "journal-0000000000000001"] {
        let dir = dir();
        let (buffer, _) = start(found(dir.path()));
        drop(buffer);
        let (path, kept) = (dir.path().join(name), dir.path().join("kept"));
        std::fs::rename(&path, &kept).unwrap();
        std::fs::create_dir(&path).unwrap();
        let error = Found::disk(dir.path(), &SMALL, CLUSTER).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&kept, &path).unwrap();
        assert_eq!(found(dir.path()).damage(), None, "it goes on when the system lets it");
    }
}

#[test]
fn what_was_put_at_rest_is_taken_up_by_the_next_process_in_the_same_incarnation() {
    let dir = dir();
    let path = dir.path().join("deep/er");
    assert!(matches!(found(&path).damage(), Some(Damage::NoIdentity { .. })));
    let (buffer, contents) = start(found(&path));
    assert!(contents.segments.is_empty() && contents.fences.is_empty());
    assert_eq!((buffer.level(), *buffer.synced().borrow()), (Level::Disk, Position(0)));
    let mut batches = Batches::new(0);
    let mut segment = buffer.segment(PLACE, batches.next, batches.before);
    let written: Vec<Batch> = [700, 90, 4000].map(|length| batches.next(&[length, 3])).into();
    append(&mut segment, &written[0], false);
    append(&mut segment, &written[1], false);
    append(&mut segment, &written[2], true);
    buffer.put_fence(PLACE.log, Epoch(4)).unwrap();
    buffer.put_fence(LogId(5), Epoch(9)).unwrap();
    buffer.forget_log(LogId(5));
    settle(&buffer);
    let synced = buffer.take_synced();
    assert_eq!(synced.len(), 1);
    assert_eq!((synced[0].log, synced[0].segment, synced[0].index), (PLACE.log, PLACE.segment, batches.next));
    segment.free_below(Index(2));
    drop((segment, buffer));

    let (buffer, contents) = start(found(&path));
    assert_eq!(contents.fences, [(PLACE.log, Epoch(4)), (LogId(0xffff), Epoch(1))]);
    let [KeptSegment { buffer: mut segment, kept }] = contents.segments.try_into().unwrap();
    let (tail, at_tail) = (batches.next, batches.before);
    assert_eq!(kept, Kept { tail, writer_tail: Index(4), freed: Index(2), at_tail });
    assert_eq!(read(&segment), [&written[1].bytes[..], &written[2].bytes[..]].concat());
    let more = batches.next(&[10]);
    append(&mut segment, &more, true);
    settle(&buffer);
    drop((segment, buffer));

    let last = found(&path);
    assert_eq!(last.adopted(), Some((Incarnation(1), Nonce(2))));
    assert_eq!(last.leftovers(), [Leftover { place: PLACE, freed: Index(2), tail: batches.next }]);
    let (_buffer, contents) = start(last);
    assert_eq!(contents.segments[0].kept.writer_tail, Index(4), "repairs stay repairs");
    assert!(read(&contents.segments[0].buffer).ends_with(&more.bytes));
}

#[test]
fn jumps_and_removals_are_at_rest_and_nothing_before_the_first_batch_is() {
    let dir = dir();
    let (buffer, _) = start(found(dir.path()));
    let place = |log| piculet_quorum::batch::Place { log: LogId(log), ..PLACE };
    let mut batches = Batches::new(0);
    let before = batches.before;
    let mut jumping = buffer.segment(place(1), Index(0), before);
    jumping.jump(Index(30), before);
    let mut removed = buffer.segment(PLACE, Index(0), before);
    append(&mut removed, &batches.next(&[100]), false);
    removed.remove();
    let empty = buffer.segment(place(3), Index(0), before);
    settle(&buffer);
    assert_eq!(buffer.arena().used_bytes(), 0, "what is written and removed takes no memory");
    drop((jumping, empty, buffer));

    let (_buffer, contents) = start(found(dir.path()));
    let [KeptSegment { buffer, kept }] = contents.segments.try_into().unwrap();
    assert_eq!(*buffer.place(), place(1));
    let (tail, freed) = (Index(30), Index(30));
    assert_eq!(kept, Kept { tail, freed, writer_tail: Index(0), at_tail: before });
}

#[test]
fn room_that_a_batch_did_not_use_is_given_back() {
    let dir = dir();
    let (buffer, _) = start(found(dir.path()));
    let mut batches = Batches::new(0);
    let mut segment = buffer.segment(PLACE, batches.next, batches.before);
    let batch = batches.next(&[20 << 10]);
    for _ in 0..20 {
        segment.begin(&batch.header).expect("the room of the last attempt is free again");
        segment.fill(&batch.body[..100]);
        segment.discard();
        let mut other = buffer.segment(PLACE, batch.header.first, batch.before);
        other.begin(&batch.header).unwrap();
        // As when a log is deleted while a batch comes in.
        other.remove();
    }
    append(&mut segment, &batch, false);
    settle(&buffer);
}

#[test]
fn a_full_memory_refuses_and_takes_no_room_in_the_journal() {
    let dir = dir();
    let (buffer, _) = start(found(dir.path()));
    let mut batches = Batches::new(0);
    let mut segment = buffer.segment(PLACE, batches.next, batches.before);
    let deadline = Instant::now() + Duration::from_secs(30);
    let full = loop {
        assert!(Instant::now() < deadline, "it is never full");
        let batch = batches.peek(&[8 << 10]);
        match segment.begin(&batch.header) {
            Ok(()) => {
                segment.fill(&batch.body);
                segment.publish(batch.end, false);
                batches.next(&[8 << 10]);
            }
            Err(crate::Full::Journal(_)) => std::thread::yield_now(),
            Err(full) => break full,
        }
    };
    assert!(matches!(full, crate::Full::Chunks { .. }), "{full}");
    settle(&buffer);
    segment.free_below(batches.next);
    append(&mut segment, &batches.peek(&[8 << 10]), false);
}

/// A buffer with two batches, at rest.
fn leave(dir: &Path) {
    let (buffer, _) = start(found(dir));
    let mut batches = Batches::new(0);
    let mut segment = buffer.segment(PLACE, batches.next, batches.before);
    append(&mut segment, &batches.next(&[700, 800]), false);
    append(&mut segment, &batches.next(&[900]), false);
    settle(&buffer);
}

fn journal_file(dir: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("journal-")).min().unwrap()
}

#[test]
fn a_damaged_journal_begins_a_new_incarnation_and_leaves_evidence() {
    let dir = dir();
    leave(dir.path());
    let path = journal_file(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end - 200] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let damaged = found(dir.path());
    let text = damaged.damage().unwrap().to_string();
    assert!(text.contains(&path.display().to_string()) && text.contains("at byte"), "{text}");
    assert_eq!(damaged.leftovers(), [Leftover { place: PLACE, freed: Index(0), tail: Index(2) }]);
    let (buffer, contents) = start(damaged);
    assert!(contents.segments.is_empty() && contents.fences.is_empty());
    drop((buffer, contents));
    assert_eq!(found(dir.path()).adopted().unwrap().0, Incarnation(2));
    assert_eq!(found(dir.path()).damage(), None);
}

#[test]
fn a_journal_without_its_identity_and_an_identity_without_its_journal_are_damage() {
    let dir = dir();
    leave(dir.path());
    let file = journal_file(dir.path());
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(found(dir.path()).damage(), Some(Damage::Missing { .. })));
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(found(dir.path()).damage(), None);
    std::fs::remove_file(dir.path().join("identity")).unwrap();
    let found = found(dir.path());
    assert!(matches!(found.damage(), Some(Damage::NoIdentity { .. })));
    assert_eq!(found.leftovers().len(), 1);
}

#[test]
fn a_journal_of_a_later_version_is_refused_and_not_touched() {
    let dir = dir();
    leave(dir.path());
    let path = journal_file(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 2;
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(found(dir.path()).damage(), Some(Damage::File { .. })), "it only looks like one");
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..64]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let error = Found::disk(dir.path(), &SMALL, CLUSTER).unwrap_err().to_string();
    assert!(error.contains("is of format 2") && error.contains(&path.display().to_string()), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_copied_directory_and_another_cluster_are_found_out() {
    let dir = dir();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    leave(&one);
    std::fs::create_dir(&two).unwrap();
    for entry in std::fs::read_dir(&one).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, two.join(path.file_name().unwrap())).unwrap();
    }
    assert!(matches!(found(&two).damage(), Some(Damage::OtherDirectory { .. })));
    let error = Found::disk(&one, &SMALL, Nonce(0xc2)).unwrap_err();
    assert!(matches!(error, BufferError::OtherCluster { .. }), "{error}");
}

#[test]
fn nothing_that_a_start_of_the_machine_may_change_proves_a_directory() {
    let dir = dir();
    leave(dir.path());
    let made = std::fs::metadata(dir.path()).unwrap().created().unwrap();
    let made = made.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let proof = found(dir.path()).identity.unwrap().proof;
    assert_eq!((u128::from(proof.origin), proof.boot), (made, Boot(0)), "not its file system's id");
}

#[test]
fn the_directory_stays_locked_until_the_last_of_it_is_written() {
    let dir = dir();
    let (buffer, _) = start(found(dir.path()));
    let mut batches = Batches::new(0);
    let mut segment = buffer.segment(PLACE, batches.next, batches.before);
    append(&mut segment, &batches.next(&[50]), false);
    drop(buffer);
    let error = Found::disk(dir.path(), &SMALL, CLUSTER).unwrap_err();
    assert!(matches!(error, BufferError::Busy { .. }), "{error}");
    drop(segment);
    assert_eq!(found(dir.path()).leftovers()[0].tail, Index(1), "what waited was written");
}

#[test]
fn less_memory_than_what_is_kept_is_refused_and_loses_nothing() {
    let dir = dir();
    leave(dir.path());
    let less = DiskOptions { bytes: 2 << 10, ..SMALL };
    let error = Found::disk(dir.path(), &less, CLUSTER).unwrap_err();
    assert!(error.to_string().contains("raise buffer.disk.bytes"), "{error}");
    let more = DiskOptions { bytes: 1 << 20, chunk_bytes: 4 << 10, ..SMALL };
    let found = Found::disk(dir.path(), &more, CLUSTER).unwrap();
    assert_eq!(found.damage(), None, "another size is no damage");
    assert_eq!(start(found).1.segments[0].kept.tail, Index(3));
}
