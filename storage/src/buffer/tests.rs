use super::*;
use crate::fixture::{Batch, Batches, PLACE};
use piculet_quorum::replica::ChainAt;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const CLUSTER: Nonce = Nonce(0xc1);
const SMALL: ArenaOptions = ArenaOptions { bytes: 64 << 10, chunk_bytes: 1 << 10 };

fn dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn found(dir: &Path) -> Found {
    Found::memory(dir, &SMALL, CLUSTER).unwrap()
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

/// A buffer with two batches and a fence, left as a killed process leaves it.
fn leave(dir: &Path) -> Batches {
    let (buffer, contents) = start(found(dir));
    assert!(contents.segments.is_empty() && contents.fences.is_empty());
    let mut batches = Batches::new(0);
    let mut segment = buffer.segment(PLACE, batches.next, batches.before);
    append(&mut segment, &batches.next(&[700, 800]), false);
    append(&mut segment, &batches.next(&[900]), true);
    buffer.put_fence(PLACE.log, Epoch(4)).unwrap();
    batches
}

#[test]
fn the_first_start_finds_nothing_and_begins_a_life() {
    let dir = dir();
    let path = dir.path().join("deep/er");
    let mut first = found(&path);
    assert_eq!((first.adopted(), first.unfinished()), (None, None));
    assert_eq!(first.damage(), Some(&Damage::NoIdentity { path: path.clone() }));
    first.begin_swap(Incarnation(1), Nonce(5)).unwrap();
    drop(first);

    let second = found(&path);
    assert_eq!((second.adopted(), second.unfinished()), (None, Some((Incarnation(1), Nonce(5)))));
    assert_eq!(second.damage(), Some(&Damage::NoIdentity { path: path.clone() }), "it was never adopted");
    let (buffer, contents) = second.adopt(false).unwrap();
    assert!(contents.segments.is_empty() && contents.fences.is_empty());
    assert_eq!(buffer.level(), Level::Memory);
    assert_eq!((buffer.arena().capacity_bytes(), buffer.arena().used_bytes()), (64 << 10, 0));
    assert_eq!((*buffer.synced().borrow(), buffer.take_synced()), (Position::MAX, vec![]));
    assert_eq!(*buffer.failed().borrow(), None);
    drop(buffer);
    let third = found(&path);
    assert_eq!((third.adopted(), third.unfinished()), (Some((Incarnation(1), Nonce(5))), None));
    assert_eq!(third.damage(), None);
}

#[test]
fn a_killed_process_leaves_its_entries_and_fences_to_the_next() {
    let dir = dir();
    let batches = leave(dir.path());
    for nonce in 2..5 {
        let found = found(dir.path());
        assert_eq!((found.adopted(), found.damage()), (Some((Incarnation(1), Nonce(nonce - 1))), None));
        assert_eq!(found.leftovers(), [Leftover { place: PLACE, freed: Index(0), tail: Index(3) }]);
        let (buffer, mut contents) = start(found);
        assert_eq!(contents.fences, [(PLACE.log, Epoch(4))]);
        let KeptSegment { buffer: segment, kept } = contents.segments.pop().unwrap();
        assert!(contents.segments.is_empty());
        assert_eq!((*segment.place(), segment.end()), (PLACE, batches.before));
        let at_tail = batches.before;
        assert_eq!(kept, Kept { tail: Index(3), writer_tail: Index(2), freed: Index(0), at_tail });
        assert_eq!(buffer.arena().used_bytes(), 3 << 10);
    }
    let (buffer, mut contents) = start(found(dir.path()));
    contents.segments.pop().unwrap().buffer.remove();
    assert_eq!(buffer.arena().used_bytes(), 0);
    drop((buffer, contents));
    let found = found(dir.path());
    assert_eq!(found.leftovers(), [], "what was given back does not come back");
    assert_eq!(start(found).1.fences, [(PLACE.log, Epoch(4))], "but the fence does");
}

#[test]
fn another_incarnation_begins_with_nothing() {
    let dir = dir();
    leave(dir.path());
    let mut found = found(dir.path());
    found.begin_swap(Incarnation(7), Nonce(9)).unwrap();
    let (buffer, contents) = found.adopt(false).unwrap();
    assert!(contents.segments.is_empty() && contents.fences.is_empty());
    assert_eq!(buffer.arena().used_bytes(), 0);
    drop(buffer);
    let found = self::found(dir.path());
    assert_eq!((found.adopted(), found.damage()), (Some((Incarnation(7), Nonce(9))), None));
    assert_eq!(found.leftovers(), []);
}

#[test]
#[should_panic(expected = "stay if the incarnation does")]
fn contents_of_one_life_are_never_taken_into_another() {
    let dir = dir();
    leave(dir.path());
    let mut found = found(dir.path());
    found.begin_swap(Incarnation(2), Nonce(9)).unwrap();
    let adopted = found.adopt(true);
    assert!(adopted.is_err(), "not reached");
}

#[test]
fn a_directory_in_use_is_refused_until_the_last_reader_is_gone() {
    let dir = dir();
    leave(dir.path());
    let (buffer, mut contents) = start(found(dir.path()));
    let segment = contents.segments.pop().unwrap().buffer;
    let run = segment.read(Index(0), Index(2), usize::MAX).unwrap();
    let busy = || {
        let error = Found::memory(dir.path(), &SMALL, CLUSTER).unwrap_err();
        assert!(matches!(error, BufferError::Busy { .. }), "{error}");
    };
    busy();
    drop(buffer);
    busy();
    drop(segment);
    busy();
    drop(run);
    assert_eq!(found(dir.path()).damage(), None);
}

/// A damage stays found through starts that get no further than the swap.
fn stays_damaged(start: impl Fn() -> Found, expected: impl Fn(&Damage) -> bool) {
    for nonce in 50..52 {
        let mut found = start();
        let damage = found.damage().expect("it is damaged");
        assert!(expected(damage), "{damage}");
        found.begin_swap(Incarnation(2), Nonce(nonce)).unwrap();
    }
    let found = start();
    assert_eq!(found.adopted(), Some((Incarnation(1), Nonce(1))));
    let (buffer, contents) = found.adopt(false).unwrap();
    assert!(contents.segments.is_empty() && contents.fences.is_empty());
    drop(buffer);
    assert_eq!(start().damage(), None);
}

#[test]
fn another_boot_of_the_machine_is_found_out() {
    let dir = dir();
    leave(dir.path());
    let start = || Found::memory_in(dir.path(), &SMALL, CLUSTER, Boot(77)).unwrap();
    assert_eq!(start().leftovers().len(), 1, "evidence");
    stays_damaged(
        start,
        |damage| matches!(damage, Damage::OtherBoot { expected, .. } if **expected == *Boot(77).to_string()),
    );
}

#[test]
fn a_copied_directory_is_found_out() {
    let dir = dir();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    leave(&one);
    std::fs::create_dir(&two).unwrap();
    for file in std::fs::read_dir(&one).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), two.join(file.file_name())).unwrap();
    }
    stays_damaged(
        || found(&two),
        |damage| matches!(damage, Damage::OtherDirectory { path, .. } if *path == two),
    );
    assert_eq!(found(&one).damage(), None, "the original is as good as before");
}

#[test]
fn another_size_waits_until_the_buffer_is_empty() {
    let dir = dir();
    leave(dir.path());
    for (bytes, chunk_bytes) in [(128 << 10, 1 << 10), (64 << 10, 2 << 10), (1 << 10, 1 << 10)] {
        let found = Found::memory(dir.path(), &ArenaOptions { bytes, chunk_bytes }, CLUSTER).unwrap();
        assert_eq!(found.damage(), None, "{bytes} in {chunk_bytes}");
        let (buffer, contents) = start(found);
        let kept = &contents.segments[0].kept;
        assert_eq!((buffer.arena().capacity_bytes(), buffer.arena().chunk_bytes()), (64 << 10, 1 << 10));
        assert_eq!((kept.tail, &contents.fences[..]), (Index(3), &[(PLACE.log, Epoch(4))][..]));
    }
    let (_, contents) = start(found(dir.path()));
    contents.segments.into_iter().for_each(|segment| segment.buffer.remove());
    let options = ArenaOptions { bytes: 128 << 10, ..SMALL };
    let empty = Found::memory(dir.path(), &options, CLUSTER).unwrap();
    assert!(
        matches!(empty.damage(), Some(Damage::OtherSize { found: 0x1_0000, .. })),
        "{:?}",
        empty.damage()
    );
    assert_eq!(start(empty).0.arena().capacity_bytes(), 128 << 10);
}

#[test]
fn an_empty_buffer_of_another_size_is_made_anew() {
    let dir = dir();
    drop(start(found(dir.path())));
    let options = ArenaOptions { bytes: 128 << 10, ..SMALL };
    stays_damaged(
        || Found::memory(dir.path(), &options, CLUSTER).unwrap(),
        |damage| matches!(damage, Damage::OtherSize { .. }),
    );
}

#[test]
fn a_size_that_does_not_fit_is_refused_before_anything_has_happened() {
    let dir = dir();
    leave(dir.path());
    // More than any file system has.
    let options = ArenaOptions { bytes: 1 << 50, chunk_bytes: 1 << 31 };
    let refused = |path: &Path| {
        let error = Found::memory(path, &options, CLUSTER).unwrap_err();
        assert!(matches!(error, BufferError::NoSpace { wanted, .. } if wanted > 1 << 50), "{error}");
        let text = error.to_string();
        assert!(text.contains(&path.display().to_string()) && text.contains("buffer.memory.bytes"), "{text}");
    };
    refused(&dir.path().join("fresh"));
    // Over a damaged one, too: what is here stays until there is room.
    std::fs::write(dir.path().join("fences"), b"not what it was").unwrap();
    refused(dir.path());
    assert_eq!(found(dir.path()).adopted(), Some((Incarnation(1), Nonce(1))));
}

/// A size waits until nothing is in the buffer, also one for which there is no room.
#[test]
fn a_buffer_with_segments_keeps_its_size() {
    let dir = dir();
    leave(dir.path());
    let options = ArenaOptions { bytes: 1 << 50, chunk_bytes: 1 << 31 };
    let found = Found::memory(dir.path(), &options, CLUSTER).unwrap();
    assert_eq!((found.adopted(), found.damage()), (Some((Incarnation(1), Nonce(1))), None));
    assert_eq!(start(found).1.segments.len(), 1, "the life goes on with the size that it had");
}

#[test]
fn the_file_that_is_replaced_counts_as_room() {
    let place = dir();
    let dir = BufferDir::open(place.path()).unwrap();
    let free = || {
        let system = crate::mapping::FileSystem::of(&std::fs::File::open(place.path()).unwrap()).unwrap();
        system.free_bytes.expect("the tests' file system has a limit")
    };
    // What others write meanwhile is far less than this.
    let large = 64 << 20;
    let arena = dir.create_arena(large).unwrap();
    let left = free();
    dir.check_room(left + large / 2).unwrap();
    drop(arena);
    std::fs::remove_file(dir.arena_file()).unwrap();
    let error = dir.check_room(free() + large / 2).unwrap_err();
    assert!(matches!(error, BufferError::NoSpace { .. }), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_no_damage() {
    for name in ["identity", "fences", "arena"] {
        let dir = dir();
        leave(dir.path());
        let (path, kept) = (dir.path().join(name), dir.path().join("kept"));
        std::fs::rename(&path, &kept).unwrap();
        // The system refuses to read it, even for whoever may read everything.
        std::fs::create_dir(&path).unwrap();
        let error = Found::memory(dir.path(), &SMALL, CLUSTER).unwrap_err();
        assert!(matches!(&error, BufferError::Io { path: at, .. } if *at == path), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&kept, &path).unwrap();
        assert_eq!(found(dir.path()).damage(), None, "it goes on when the system lets it");
    }
}

#[test]
fn another_number_of_slots_is_as_good() {
    let dir = dir();
    let mut first = found(dir.path());
    first.layout.slots += 64;
    let (buffer, _) = start(first);
    let mut batches = Batches::new(0);
    let mut segment = buffer.segment(PLACE, batches.next, batches.before);
    append(&mut segment, &batches.next(&[100]), false);
    drop((segment, buffer));
    let again = found(dir.path());
    assert_eq!(again.damage(), None);
    assert_eq!(start(again).1.segments.len(), 1);
}

#[test]
fn a_directory_of_another_cluster_is_refused_and_not_touched() {
    let dir = dir();
    leave(dir.path());
    let error = Found::memory(dir.path(), &SMALL, Nonce(0xc2)).unwrap_err();
    assert!(
        matches!(error, BufferError::OtherCluster { found: CLUSTER, expected: Nonce(0xc2), .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains(&CLUSTER.to_string()) && text.contains(&Nonce(0xc2).to_string()), "{text}");
    let found = found(dir.path());
    assert_eq!((found.damage(), found.leftovers().len()), (None, 1));
}

#[test]
fn files_of_a_later_version_are_refused_and_not_touched() {
    // Where the checksum of a header lies, which covers what is before it.
    for (name, checksum) in [("arena", 28), ("fences", 28)] {
        let dir = dir();
        leave(dir.path());
        let path = dir.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..checksum]);
        bytes[checksum..checksum + 4].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let error = Found::memory(dir.path(), &SMALL, CLUSTER).unwrap_err();
        assert!(matches!(error, BufferError::Version { found: 2, expected: 1, .. }), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        bytes[checksum] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(found(dir.path()).damage(), Some(Damage::File { .. })), "it only looks like one");
    }
}

#[test]
fn missing_and_damaged_files_are_found() {
    for name in ["arena", "fences", "identity"] {
        let dir = dir();
        leave(dir.path());
        let path = dir.path().join(name);
        std::fs::remove_file(&path).unwrap();
        let found = found(dir.path());
        match found.damage() {
            Some(Damage::NoIdentity { .. }) => assert_eq!(name, "identity"),
            Some(Damage::Missing { path: missing }) => assert_eq!(*missing, path),
            other => panic!("{other:?}"),
        }
        drop(found);

        let dir = self::dir();
        leave(dir.path());
        let path = dir.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[17] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let found = self::found(dir.path());
        assert!(
            matches!(found.damage(), Some(Damage::File { path: damaged, .. }) if *damaged == path),
            "{:?}",
            found.damage()
        );
    }
}

const CHILD_DIR: &str = "PICULET_TEST_CHILD_DIR";
const LOGS: u64 = 4;

/// What is at rest of a log's one segment, in a line: it is printed before and after each step.
fn line(buffer: &SegmentBuffer) -> String {
    let Kept { tail, writer_tail, freed, at_tail } = buffer.kept();
    format!("{tail} {writer_tail} {freed} {} {}", at_tail.chain, at_tail.last_timestamp)
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).unwrap();
    out.flush().unwrap();
}

/// The process that is killed: appends, repairs and frees until then, and says so.
#[test]
fn appends_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let found = found(Path::new(&dir));
    assert!(found.damage().is_none_or(|damage| matches!(damage, Damage::NoIdentity { .. })));
    let (buffer, contents) = start(found);
    let (mut segments, mut seed) = (contents.segments, contents.fences.first().map_or(1, |fence| fence.1.0));
    for log in 0..LOGS {
        if !segments.iter().any(|kept| kept.buffer.place().log == LogId(log)) {
            let place = Place { log: LogId(log), ..PLACE };
            let fresh = buffer.segment(place, Index(0), Batches::new(0).before);
            segments.push(KeptSegment { kept: fresh.kept(), buffer: fresh });
        }
    }
    loop {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = (seed >> 33) as usize;
        let segment = &mut segments[random % LOGS as usize].buffer;
        let log = segment.place().log.0;
        let mut batches = Batches { place: *segment.place(), next: segment.tail(), before: segment.end() };
        // Odd logs are repaired from some point on.
        let repair = log % 2 == 1 && segment.tail() > Index(100);
        if (random / 4).is_multiple_of(4) || segment.held_bytes() > 8 << 10 {
            segment
                .free_below(segment.floor_boundary(Index(segment.tail().0 - segment.tail().0 % 7)).unwrap());
            say(&format!("log {log} {}\n", line(segment)));
        } else {
            let batch = batches.next(&[random % 900, random % 13]);
            append(segment, &batch, repair);
            say(&format!("log {log} {}\n", line(segment)));
        }
        if random % 16 == 1 {
            let epoch = Epoch(segment.tail().0);
            buffer.put_fence(LogId(100 + log), epoch).unwrap();
            say(&format!("fence {} {epoch}\n", 100 + log));
        }
    }
}

/// What a killed process had said last, of each log and fence.
fn said(dir: &Path, lines_wanted: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "buffer::tests::appends_until_it_is_killed", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let (mut said, mut killed) = (Vec::new(), false);
    loop {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        // It ends when the process has ended; a line that it could not finish was never said.
        let Some(line) = line.strip_suffix('\n') else { break };
        if line.starts_with("log ") || line.starts_with("fence ") {
            said.push(line.to_owned());
        }
        if said.len() >= lines_wanted && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    said
}

#[test]
fn nothing_that_a_killed_process_said_is_missing() {
    let dir = dir();
    let mut rounds = 0;
    for wanted in [1, 2, 3, 5, 8, 40, 100, 400, 1500, 3000] {
        let said = said(dir.path(), wanted);
        assert!(said.len() >= wanted, "{said:?}");
        let found = found(dir.path());
        assert_eq!(found.damage(), None, "after {} steps", said.len());
        let (_buffer, contents) = start(found);
        for log in 0..LOGS {
            let Some(last) = said.iter().rev().find_map(|line| line.strip_prefix(&format!("log {log} ")))
            else {
                continue;
            };
            let numbers: Vec<&str> = last.split(' ').collect();
            let (tail, freed) = (numbers[0].parse().unwrap(), numbers[2].parse().unwrap());
            let kept = contents.segments.iter().find(|kept| kept.buffer.place().log == LogId(log));
            let Some(kept) = kept else {
                assert_eq!(tail, 0, "log {log} has gone");
                continue;
            };
            let buffer = &kept.buffer;
            if line(buffer) != last {
                // The step that it was killed in may be there or not, whole.
                let Kept { tail: now, freed: freed_now, .. } = kept.kept;
                assert!(now >= Index(tail) && freed_now >= Index(freed), "{} after {last}", line(buffer));
                assert!(
                    now.0 <= tail + 2 && (now == Index(tail) || freed_now == Index(freed)),
                    "{} after {last}",
                    line(buffer)
                );
                let chain = buffer.chain_at(Index(tail));
                let same = match chain {
                    ChainAt::Boundary(chain) => chain.to_string() == numbers[3],
                    other => other == ChainAt::Freed,
                };
                assert!(same, "{chain:?} after {last}");
            }
            rounds += 1;
        }
        for log in 100..100 + LOGS {
            let last = said.iter().rev().find_map(|line| line.strip_prefix(&format!("fence {log} ")));
            let last: u64 = last.map_or(0, |epoch| epoch.parse().unwrap());
            let kept =
                contents.fences.iter().find(|fence| fence.0 == LogId(log)).map_or(0, |fence| fence.1.0);
            assert!(kept >= last, "the fence of log {log} is at {kept}, it was at {last}");
        }
    }
    assert!(rounds > 20, "{rounds}");
}
