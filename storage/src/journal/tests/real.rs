//! Real files, and real processes that are killed.

use super::driver::{CLUSTER, contents};
use crate::fixture::Batches;
use crate::journal::{
    Change, Disk, Journal, JournalCore, JournalOptions, Manifest, RealDisk, Replayed, file_name,
};
use bytes::Bytes;
use piculet_quorum::ids::{Epoch, Index, LogId};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

const OPTIONS: JournalOptions =
    JournalOptions { bytes: 4 << 20, file_bytes: 64 << 10, queue_bytes: 256 << 10 };
const CHILD: &str = "PICULET_TEST_JOURNAL";

fn open(dir: &Path) -> Replayed<RealDisk> {
    Replayed::read(RealDisk::open(dir, None).unwrap(), OPTIONS, CLUSTER).unwrap()
}

#[test]
fn real_files_do_what_is_asked_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = RealDisk::open(dir.path(), None).unwrap();
    let mut file = disk.create("a", 8192).unwrap();
    assert_eq!((disk.length(&file).unwrap(), disk.list().unwrap()), (8192, vec!["a".to_owned()]));
    assert_eq!(disk.create("a", 1).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    let pieces: Vec<Bytes> = (0..3000_u32).map(|at| Bytes::copy_from_slice(&at.to_le_bytes()[..2])).collect();
    disk.write(&mut file, 100, &pieces).unwrap();
    disk.sync(&mut file).unwrap();
    disk.sync_dir().unwrap();
    let mut read = vec![0; 6000];
    disk.read(&disk.open("a").unwrap(), 100, &mut read).unwrap();
    assert_eq!(read, pieces.concat(), "more pieces than one call takes");
    assert_eq!(disk.length(&file).unwrap(), 8192);
    let beyond = disk.read(&file, 8000, &mut read).unwrap_err();
    assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    assert!(disk.free_bytes().unwrap().is_none_or(|free| free > 0));
    assert_ne!(disk.random().unwrap(), disk.random().unwrap());
    disk.remove("a").unwrap();
    assert_eq!(disk.open("a").unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_flipped_byte_in_a_real_file_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let core = JournalCore::create(RealDisk::open(dir.path(), None).unwrap(), OPTIONS, CLUSTER).unwrap();
    let journal = Arc::new(Journal::start(core).unwrap());
    let mut batches = Batches::new(0);
    journal.put(Change::Segment(Manifest::new(batches.place, Index(0), batches.before)));
    for _ in 0..10 {
        put_batch(&journal, &mut batches);
    }
    drop(journal);
    assert!(open(dir.path()).clean() && open(dir.path()).damage().is_none());
    let path = dir.path().join(file_name(1));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[2000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let damage = open(dir.path()).damage().unwrap().to_string();
    assert!(damage.contains(&path.display().to_string()), "{damage}");
}

fn put_batch(journal: &Arc<Journal>, batches: &mut Batches) {
    let batch = batches.next(&[(batches.next.0 % 400) as usize, 30]);
    let room = loop {
        match journal.reserve(batch.bytes.len()) {
            Ok(room) => break room,
            Err(_) => std::thread::yield_now(),
        }
    };
    let (place, end, at_end) = (batches.place, batches.next, batch.end);
    room.put(Change::Batch { place, repair: false, end, at_end, bytes: vec![batch.bytes] });
}

/// Not a test by itself: the process that is killed. It takes up what is there, and goes on with it
/// for ever; it says on its output how far it is at rest.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let found = open(dir.as_ref());
    let (mut batches, mut epoch) = (Batches::new(0), found.fences().next().map_or(1, |(_, epoch)| epoch.0));
    let known = found.segments().next().map(|segment| *segment.manifest);
    let mut freed = known.map_or(Index(0), |manifest| manifest.head);
    if let Some(manifest) = known {
        (batches.next, batches.before) = (manifest.tail, manifest.at_tail);
    }
    let core = match found.damage() {
        None => found.resume().unwrap(),
        Some(_) => found.discard().unwrap(),
    };
    let journal = Arc::new(Journal::start(core).unwrap());
    if known.is_none() {
        journal.put(Change::Segment(Manifest::new(batches.place, Index(0), batches.before)));
    }
    loop {
        let mut ends = Vec::new();
        for _ in 0..20 {
            put_batch(&journal, &mut batches);
            ends.push((batches.next, batches.before));
        }
        epoch += 1;
        let position = journal.put(Change::Fence { log: LogId(1), epoch: Epoch(epoch) });
        while *journal.synced().borrow() < position {
            std::thread::yield_now();
        }
        // Most of it is freed soon, so that files come and go.
        let (index, before) = ends[4];
        journal.put(Change::Freed { place: batches.place, index, before });
        freed = freed.max(index);
        println!("synced {} {epoch} {freed}", batches.next);
        io::stdout().flush().unwrap();
    }
}

/// Ends the process also when the test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it ends");
    }
}

#[test]
fn a_process_that_is_killed_again_and_again_loses_nothing_that_it_announced() {
    let dir = tempfile::tempdir().unwrap();
    let (mut tail, mut epoch) = (0, 0);
    for round in 0..8 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "journal::tests::real::child", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = Killed(child);
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        // Then it is killed, wherever it has come to meanwhile.
        for line in lines.filter(|line| line.starts_with("synced ")).take(5 + round * 7) {
            let numbers: Vec<u64> = line.split(' ').skip(1).map(|number| number.parse().unwrap()).collect();
            (tail, epoch) = (numbers[0], numbers[1]);
        }
        drop(child);
        let found = open(dir.path());
        assert_eq!(found.damage(), None);
        let contents = contents(&found);
        let segment = contents.segments.values().next().unwrap();
        assert!(segment.manifest.tail >= Index(tail), "round {round}: {} of {tail}", segment.manifest.tail);
        assert!(contents.fences[&LogId(1)] >= Epoch(epoch), "a fence went back");
        let mut expected = Batches::new(0);
        (expected.next, expected.before) = (segment.manifest.head, segment.manifest.before);
        for (end, at_end, bytes) in &segment.batches {
            let batch = expected.next(&[(expected.next.0 % 400) as usize, 30]);
            assert_eq!((expected.next, expected.before, &batch.bytes), (*end, *at_end, bytes));
        }
        assert_eq!(expected.next, segment.manifest.tail);
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().count() < 40, "files that nobody needs are deleted");
    assert!(!dir.path().join(file_name(1)).exists());
}
