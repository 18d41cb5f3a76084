//! A process that is killed between any two stores: copies of the file, made just before each store,
//! are taken up and compared with what was published.

use super::*;
use crate::arena::{ArenaOptions, Full};
use crate::fixture::{Batch, Batches, PLACE};
use crate::mapping::hook;
use piculet_quorum::batch::BatchEnd;
use piculet_quorum::ids::{Chain, Index, SegmentNumber, Timestamp};
use piculet_quorum::replica::Kept;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use tempfile::TempDir;

/// Where files that live for a moment are made quickly.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn lock(dir: &TempDir) -> Arc<BufferDir> {
    Arc::new(BufferDir::open(dir.path()).unwrap())
}

fn options(chunks: u64, chunk_bytes: usize) -> ArenaOptions {
    ArenaOptions { bytes: chunks * chunk_bytes as u64, chunk_bytes }
}

fn place(number: u64) -> Place {
    Place { segment: SegmentNumber(number), ..PLACE }
}

/// What is at rest of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    kept: Kept,
    bytes: Vec<u8>,
}

impl State {
    fn of(buffer: &SegmentBuffer) -> Self {
        let kept = buffer.kept();
        let run = buffer.read(kept.freed, kept.tail, usize::MAX);
        Self { kept, bytes: run.map(|run| run.pieces.concat()).unwrap_or_default() }
    }
}

type States = BTreeMap<u64, State>;

/// A segment of which nothing was ever stored may be at rest or not: it is the same.
fn states<'a>(buffers: impl IntoIterator<Item = &'a SegmentBuffer>) -> States {
    let states = buffers.into_iter().map(|buffer| (buffer.place().segment.0, State::of(buffer)));
    states.filter(|(_, state)| state.kept.tail > Index(0)).collect()
}

fn open(file: &File, dir: &Arc<BufferDir>) -> Reopened {
    Reopened::open(file, dir).unwrap().unwrap_or_else(|damage| panic!("{damage}"))
}

/// A node's process: its arena and its segments.
struct Process {
    arena: Arc<Arena>,
    segments: BTreeMap<u64, (SegmentBuffer, Batches)>,
}

impl Process {
    fn start(dir: &Arc<BufferDir>, layout: Layout) -> Self {
        let arena = Arc::new(Arena::create(dir, layout).unwrap());
        Self { arena, segments: BTreeMap::new() }
    }

    fn states(&self) -> States {
        states(self.segments.values().map(|(buffer, _)| buffer))
    }

    fn segment(&mut self, number: u64) -> &mut (SegmentBuffer, Batches) {
        let arena = &self.arena;
        self.segments.entry(number).or_insert_with(|| {
            let batches = Batches { place: place(number), ..Batches::new(0) };
            (SegmentBuffer::new(Arc::clone(arena), batches.place, Index(0), batches.before), batches)
        })
    }

    /// Goes on in another process, after this one was killed.
    fn restart(self, dir: &Arc<BufferDir>) -> Self {
        let mut batches: BTreeMap<u64, Batches> =
            self.segments.iter().map(|(number, (_, batches))| (*number, batches.clone())).collect();
        let expected = self.states();
        drop(self);
        let found = open(&dir.open_arena().unwrap().unwrap(), dir);
        assert_eq!(found.damage, None);
        let (arena, buffers) = found.adopt();
        assert_eq!(states(&buffers), expected, "a new process takes up what was published");
        let segments = buffers.into_iter().map(|buffer| {
            let number = buffer.place().segment.0;
            (number, (buffer, batches.remove(&number).unwrap()))
        });
        let process = Self { segments: segments.collect(), arena };
        let held: u64 = process.segments.values().map(|(buffer, _)| buffer.held_bytes()).sum();
        assert_eq!(process.arena.used_bytes(), held, "chunks that nobody needs are free");
        process
    }
}

fn append(buffer: &mut SegmentBuffer, batch: &Batch, repair: bool) -> Result<(), Full> {
    buffer.begin(&batch.header)?;
    batch.body.chunks(100).for_each(|piece| buffer.fill(piece));
    buffer.publish(batch.end, repair);
    Ok(())
}

#[derive(Clone, Debug)]
enum Op {
    Append { lengths: Vec<usize>, repair: bool },
    Abandon { length: usize, come: usize, free: Option<usize> },
    Free(usize),
    Jump { by: u64 },
    Remove,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let lengths = prop::collection::vec(0..300_usize, 1..4);
    prop_oneof![
        8 => (lengths, prop::bool::weighted(0.1)).prop_map(|(lengths, repair)| Op::Append { lengths, repair }),
        2 => (0..900_usize, 0..900_usize, prop::option::of(any::<usize>()))
            .prop_map(|(length, come, free)| Op::Abandon { length, come, free }),
        4 => any::<usize>().prop_map(Op::Free),
        1 => (1..9_u64).prop_map(|by| Op::Jump { by }),
        1 => Just(Op::Remove),
        1 => Just(Op::Restart),
    ]
}

/// Frees up to one of the boundaries.
fn free(buffer: &mut SegmentBuffer, selector: usize) {
    let (freed, tail) = (buffer.freed().0, buffer.tail().0);
    let index = Index(freed + selector as u64 % (tail - freed + 1));
    let boundary = buffer.floor_boundary(index).unwrap();
    buffer.free_below(boundary);
}

impl Op {
    fn apply(&self, process: &mut Process, number: u64) {
        if matches!(self, Self::Remove) {
            if let Some((buffer, _)) = process.segments.remove(&number) {
                buffer.remove();
            }
            return;
        }
        let (buffer, batches) = process.segment(number);
        match self {
            Self::Append { lengths, repair } => {
                // The writer never appends behind a repair.
                let repair = *repair || buffer.kept().writer_tail < buffer.tail();
                if append(buffer, &batches.peek(lengths), repair).is_ok() {
                    batches.next(lengths);
                }
            }
            Self::Abandon { length, come, free } => {
                let batch = batches.peek(&[*length]);
                if buffer.begin(&batch.header).is_ok() {
                    buffer.fill(&batch.body[..*come.min(&batch.body.len())]);
                    free.iter().for_each(|selector| self::free(buffer, *selector));
                    buffer.discard();
                }
            }
            Self::Free(selector) => free(buffer, *selector),
            Self::Jump { by } => {
                let before = BatchEnd { chain: Chain(u128::from(*by)), last_timestamp: Timestamp(5000) };
                (batches.next, batches.before) = (buffer.tail().plus(*by), before);
                buffer.jump(batches.next, before);
            }
            Self::Remove | Self::Restart => unreachable!("done without the segment"),
        }
    }
}

/// Copies a file before every store into its mapping.
fn copies_during<T>(file: &File, during: impl FnOnce() -> T) -> Vec<Vec<u8>> {
    let copies = Rc::new(RefCell::new(Vec::new()));
    let (copied, file) = (Rc::clone(&copies), file.try_clone().unwrap());
    let copy = move || {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        copied.borrow_mut().push(bytes);
    };
    hook::with(copy, during);
    copies.take()
}

/// What a process finds that takes up these bytes, and goes on appending.
fn take_up(bytes: &[u8]) -> States {
    let dir = scratch();
    std::fs::write(dir.path().join("arena"), bytes).unwrap();
    let lock = lock(&dir);
    let found = open(&lock.open_arena().unwrap().unwrap(), &lock);
    assert_eq!(found.damage, None);
    let (arena, mut buffers) = found.adopt();
    let states = states(&buffers);
    let held: u64 = buffers.iter().map(SegmentBuffer::held_bytes).sum();
    assert_eq!(arena.used_bytes(), held);
    for buffer in &mut buffers {
        let mut batches = Batches { place: *buffer.place(), next: buffer.tail(), before: buffer.end() };
        let repair = buffer.kept().writer_tail < buffer.tail();
        if append(buffer, &batches.next(&[10]), repair).is_ok() {
            let state = State::of(buffer);
            let whole = buffer.read(buffer.freed(), buffer.tail(), usize::MAX).unwrap();
            assert_eq!((state.kept.tail, whole.end_chain), (batches.next, batches.before));
        }
    }
    states
}

/// A file with two segments, of some batches each in several chunks, and one that is empty again.
fn written(dir: &TempDir) -> (Vec<u8>, Layout, States) {
    let (lock, layout) = (lock(dir), Layout::new(&options(16, 256)).unwrap());
    let mut process = Process::start(&lock, layout);
    for number in [0, 1, 2, 1, 0] {
        Op::Append { lengths: vec![50, 70], repair: false }.apply(&mut process, number);
        Op::Append { lengths: vec![200], repair: number == 1 }.apply(&mut process, number);
    }
    let (buffer, _) = process.segment(2);
    buffer.free_below(buffer.tail());
    let states = process.states();
    drop(process);
    (std::fs::read(lock.arena_file()).unwrap(), layout, states)
}

/// What is found in these bytes.
fn found(bytes: &[u8]) -> Result<Reopened, Damage> {
    let dir = scratch();
    std::fs::write(dir.path().join("arena"), bytes).unwrap();
    let lock = lock(&dir);
    Reopened::open(&lock.open_arena().unwrap().unwrap(), &lock).unwrap()
}

fn damage(bytes: &[u8]) -> Damage {
    found(bytes).map_or_else(|damage| damage, |found| found.damage.expect("it is damaged"))
}

#[test]
fn every_flipped_bit_of_a_batch_is_found_in_its_place() {
    let dir = scratch();
    let (bytes, layout, states) = written(&dir);
    assert_eq!(states[&1].kept.writer_tail, Index(2), "the second batch was a repair");
    let segments = found(&bytes).unwrap().segments;
    assert_eq!((segments.len(), states.len()), (3, 3));
    let mut flipped = 0;
    for segment in &segments {
        let mut batches: Vec<u64> = Vec::new();
        let mut index = segment.frames.head().index;
        while index < segment.frames.tail().index {
            let start = segment.frames.at(index).unwrap();
            batches.push(start.at);
            index = segment.frames.stop(start, Index(u64::MAX), 0).unwrap().index;
        }
        for at in segment.extent.head.at..segment.extent.tail_at {
            let offset = |at: u64| {
                let chunk = &segment.chunks[(at / 256 - segment.extent.head.at / 256) as usize];
                layout.chunks_at() + chunk.number() as usize * 256 + (at % 256) as usize
            };
            let mut damaged = bytes.clone();
            damaged[offset(at)] ^= 1 << (at % 8);
            let start = batches.iter().rev().find(|start| **start <= at).unwrap();
            match damage(&damaged) {
                Damage::Segment { log, segment: number, offset: found, path, what } => {
                    assert_eq!((log, number), (segment.place.log, segment.place.segment), "{what}");
                    assert_eq!(found, offset(*start) as u64, "byte {at} of {number}: {what}");
                    assert!(path.ends_with("arena"));
                }
                other => panic!("{other}"),
            }
            flipped += 1;
        }
    }
    assert!(flipped > 1000, "{flipped}");
}

#[test]
fn a_damaged_table_is_found() {
    let dir = scratch();
    let (bytes, layout, _) = written(&dir);
    let at = |offset: usize| u64::from_le_bytes(*bytes[offset..].first_chunk().unwrap());
    let used = (0..layout.chunks).find(|chunk| at(layout.owner_at(*chunk)) != 0).unwrap();
    let free = (0..layout.chunks).find(|chunk| at(layout.owner_at(*chunk)) == 0).unwrap();
    let check = |change: &dyn Fn(&mut Vec<u8>), expected: &str| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        let text = damage(&bytes).to_string();
        assert!(text.contains(expected), "{text}");
    };
    let owner = |chunk: u32| layout.owner_at(chunk)..layout.owner_at(chunk) + 16;
    check(&|bytes| bytes[owner(used)].fill(0), "is missing");
    check(&|bytes| bytes.copy_within(owner(used), owner(free).start), "all say that they are");
    check(&|bytes| bytes.truncate(bytes.len() - 1), "are not what 16 chunks");
    check(&|bytes| bytes.truncate(10), "too few");
    check(&|bytes| bytes[0] ^= 1, "does not begin as a buffer does");
    check(&|bytes| bytes[layout.slot_at(1) + 16] ^= 1, "checksum");
    check(
        &|bytes| bytes.copy_within(layout.slot_at(0)..layout.slot_at(1), layout.slot_at(5)),
        "in two slots",
    );
    let text = damage(&{
        let mut bytes = bytes.clone();
        bytes[layout.chunks_at() + used as usize * 256 + 60] ^= 1;
        bytes
    });
    assert!(text.to_string().contains("byte "), "{text}");
}

#[test]
fn what_agrees_is_still_told_when_something_is_damaged() {
    let dir = scratch();
    let (mut bytes, layout, states) = written(&dir);
    let whole = found(&bytes).unwrap();
    let segment = whole.segments().iter().find(|segment| segment.place.segment.0 == 0).unwrap();
    let second = *segment.frames.at(Index(2)).unwrap();
    let chunk = segment.chunks[(second.at / 256) as usize].number();
    bytes[layout.chunks_at() + chunk as usize * 256 + (second.at % 256) as usize + 9] ^= 1;
    let found = found(&bytes).unwrap();
    assert!(matches!(found.damage, Some(Damage::Segment { .. })));
    let tails: BTreeMap<u64, Index> =
        found.segments().iter().map(|s| (s.place.segment.0, s.frames.tail().index)).collect();
    assert_eq!(tails, BTreeMap::from([(0, Index(2)), (1, states[&1].kept.tail), (2, states[&2].kept.tail)]));
}

#[test]
fn slots_run_out_and_come_back() {
    let dir = scratch();
    let layout = Layout { chunk_bytes: 256, chunks: 16, slots: 2 };
    let lock = lock(&dir);
    let mut process = Process::start(&lock, layout);
    for number in [0, 1] {
        let (buffer, batches) = process.segment(number);
        append(buffer, &batches.next(&[100]), false).unwrap();
        buffer.free_below(buffer.tail());
    }
    assert_eq!(process.arena.used_bytes(), 0, "they keep their ends, and no chunk");
    let (third, batches) = process.segment(2);
    let full = append(third, &batches.peek(&[100]), false).unwrap_err();
    assert_eq!(full, Full::Slots { slots: 2 });
    assert!(full.to_string().contains("2 segments"), "{full}");
    let before = BatchEnd { chain: Chain(7), last_timestamp: Timestamp(7) };
    (batches.next, batches.before) = (Index(30), before);
    third.jump(Index(30), before);
    assert_eq!((third.tail(), third.held_bytes()), (Index(30), 0));
    append(third, &batches.peek(&[100]), true).unwrap_err();
    process.segments.remove(&0).unwrap().0.remove();
    let (third, batches) = process.segment(2);
    append(third, &batches.next(&[100]), true).unwrap();
    let states = process.restart(&lock).states();
    assert_eq!(states.keys().collect::<Vec<_>>(), [&1, &2]);
    assert_eq!((states[&1].kept.freed, states[&1].kept.tail), (Index(1), Index(1)));
    let third = states[&2].kept;
    assert_eq!((third.freed, third.tail, third.writer_tail), (Index(30), Index(31), Index(0)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_process_killed_at_any_store_leaves_what_it_had_published(
        ops in prop::collection::vec((0..3_u64, op()), 1..40),
        chunk_bytes in prop::sample::select(vec![64_usize, 100, 1024]),
    ) {
        let (dir, layout) = (scratch(), Layout::new(&options(6000 / chunk_bytes as u64, chunk_bytes)).unwrap());
        let lock = lock(&dir);
        let mut process = Process::start(&lock, layout);
        for (number, op) in &ops {
            if matches!(op, Op::Restart) {
                process = process.restart(&lock);
                continue;
            }
            let before = process.states();
            let file = lock.open_arena().unwrap().unwrap();
            let copies = copies_during(&file, || op.apply(&mut process, *number));
            let after = process.states();
            for (at, copy) in copies.iter().enumerate() {
                let found = take_up(copy);
                prop_assert!(
                    found == before || found == after,
                    "killed before store {at} of {op:?}: {found:?} is neither {before:?} nor {after:?}"
                );
            }
        }
        process.restart(&lock);
    }
}

#[test]
fn a_tail_beyond_all_chunks_is_found() {
    let dir = scratch();
    let (mut bytes, layout, _) = written(&dir);
    let at = |offset: usize| u64::from_le_bytes(*bytes[offset..].first_chunk().unwrap());
    let serial =
        (0..layout.chunks).map(|chunk| at(layout.owner_at(chunk))).find(|owner| *owner != 0).unwrap();
    let slot = (0..layout.slots).map(|slot| layout.slot_at(slot)).find(|slot| at(*slot) == serial).unwrap();
    let copy = slot + 64 + (at(slot + 8) % 2) as usize * 64;
    let position: u64 = 1 << 47;
    let crc = crc32c::crc32c(&[serial.to_le_bytes(), position.to_le_bytes()].concat()) & 0xffff;
    bytes[copy + 56..copy + 64].copy_from_slice(&(u64::from(crc) | position << 16).to_le_bytes());
    let text = damage(&bytes).to_string();
    assert!(text.contains("of its entries is missing"), "{text}");
}
