use super::*;
use crate::arena::ArenaOptions;
use crate::buffer::BufferDir;
use crate::fixture::{Batch, Batches, PLACE};
use crate::slots::Layout;
use piculet_quorum::ids::Chain;
use piculet_quorum::limits::BATCH_BYTES_MAX;
use proptest::prelude::*;
use tempfile::TempDir;

fn arena(chunks: u64, chunk_bytes: usize) -> (TempDir, Arc<Arena>) {
    let dir = tempfile::tempdir().unwrap();
    let options = ArenaOptions { bytes: chunks * chunk_bytes as u64, chunk_bytes };
    let lock = Arc::new(BufferDir::open(dir.path()).unwrap());
    let arena = Arena::create(&lock, Layout::new(&options).unwrap()).unwrap();
    (dir, Arc::new(arena))
}

fn segment(arena: &Arc<Arena>, batches: &Batches) -> SegmentBuffer {
    SegmentBuffer::new(arena.clone(), PLACE, batches.next, batches.before)
}

fn append(segment: &mut SegmentBuffer, batch: &Batch, piece: usize) -> Result<(), Full> {
    segment.begin(&batch.header)?;
    for piece in batch.body.chunks(piece) {
        segment.fill(piece);
    }
    segment.publish(batch.end, false);
    Ok(())
}

#[test]
fn a_segment_can_be_kept_under_a_lock_and_sent() {
    fn needs_send<T: Send>() {}
    needs_send::<SegmentBuffer>();
    needs_send::<Run>();
}

#[test]
fn the_largest_batch_spans_chunks_and_comes_back() {
    let (_dir, arena) = arena(128, 256 << 10);
    let mut batches = Batches::new(0);
    let mut segment = segment(&arena, &batches);
    append(&mut segment, &batches.next(&[100]), 7).unwrap();
    let entry = piculet_quorum::limits::ENTRY_BYTES_MAX;
    let large = batches.next(&[entry]);
    append(&mut segment, &large, 64 << 10).unwrap();
    let run = segment.read(Index(1), Index(2), 0).unwrap();
    assert_eq!(run.bytes, large.bytes.len());
    assert!(run.bytes <= BATCH_BYTES_MAX && run.pieces.len() > 64);
    assert!(run.pieces.concat() == large.bytes, "the bytes come back");
}

#[test]
fn a_full_arena_refuses_and_recovers_when_something_is_freed() {
    let (_dir, arena) = arena(4, 1024);
    let (mut one_batches, mut two_batches) = (Batches::new(0), Batches::new(0));
    let (mut one, mut two) = (segment(&arena, &one_batches), segment(&arena, &two_batches));
    append(&mut one, &one_batches.next(&[2500]), 100).unwrap();
    let large = two_batches.next(&[1500]);
    let full = two.begin(&large.header).unwrap_err();
    assert_eq!(full, Full::Chunks { wanted: 2048, free: 1024, capacity: 4096 });
    assert_eq!((two.held_bytes(), two.staged_left(), arena.used_bytes()), (0, 0, 3072));

    let reader = one.read(Index(0), Index(1), usize::MAX).unwrap();
    one.free_below(Index(1));
    assert_eq!((one.held_bytes(), arena.used_bytes()), (0, 3072), "a reader holds the chunks");
    two.begin(&large.header).unwrap_err();
    drop(reader);
    assert_eq!(arena.used_bytes(), 0);
    append(&mut two, &large, 100).unwrap();
    assert_eq!(two.tail(), Index(1));
}

#[test]
fn an_idle_segment_holds_nothing() {
    let (_dir, arena) = arena(4, 1024);
    let mut batches = Batches::new(40);
    let mut segment = segment(&arena, &batches);
    for _ in 0..50 {
        append(&mut segment, &batches.next(&[300]), 100).unwrap();
        let staged = batches.peek(&[10]);
        segment.begin(&staged.header).unwrap();
        segment.free_below(batches.next);
        assert!(segment.held_bytes() > 0, "the staged batch keeps its chunk");
        segment.discard();
        segment.discard();
        assert_eq!((segment.held_bytes(), arena.used_bytes()), (0, 0));
        assert_eq!(
            (segment.freed(), segment.tail(), segment.end()),
            (batches.next, batches.next, batches.before)
        );
    }
}

#[test]
fn a_segment_gives_its_chunks_back_when_it_is_removed_and_not_when_it_is_dropped() {
    let (_dir, arena) = arena(4, 1024);
    let mut batches = Batches::new(0);
    let mut segment = segment(&arena, &batches);
    append(&mut segment, &batches.next(&[2000]), 100).unwrap();
    assert_eq!(arena.used_bytes(), 3072);
    segment.remove();
    assert_eq!(arena.used_bytes(), 0);
    let mut batches = Batches::new(0);
    let mut dropped = self::segment(&arena, &batches);
    append(&mut dropped, &batches.next(&[2000]), 100).unwrap();
    drop(dropped);
    assert_eq!(arena.used_bytes(), 3072, "the next process takes it up");
}

#[test]
fn reads_stop_at_the_limits_they_are_given() {
    let (_dir, arena) = arena(64, 128);
    let mut batches = Batches::new(10);
    let mut segment = segment(&arena, &batches);
    // Five batches of two entries, of 164 bytes each.
    for _ in 0..5 {
        append(&mut segment, &batches.next(&[38, 38]), 33).unwrap();
    }
    let ends = |from, to, max| segment.read(Index(from), Index(to), max).map(|run| (run.end.0, run.bytes));
    assert_eq!(ends(10, 20, usize::MAX), Some((20, 820)));
    assert_eq!(ends(10, 99, 0), Some((12, 164)), "one batch in any case");
    assert_eq!(ends(12, 20, 327), Some((14, 164)));
    assert_eq!(ends(12, 20, 328), Some((16, 328)));
    assert_eq!(ends(12, 17, usize::MAX), Some((16, 328)), "none that ends beyond");
    assert_eq!(ends(12, 13, usize::MAX), None);
    assert_eq!(ends(18, 99, 100), Some((20, 164)));
    for nowhere in [0, 9, 11, 20, 21] {
        assert_eq!(ends(nowhere, 99, 1000), None, "from {nowhere}");
    }
}

#[test]
#[should_panic(expected = "continues the segment")]
fn a_batch_with_another_chain_is_a_broken_invariant() {
    let (_dir, arena) = arena(4, 1024);
    let batches = Batches::new(0);
    let mut segment = segment(&arena, &batches);
    let header = batches.peek(&[1]).header;
    segment.begin(&BatchHeader { chain: Chain(1), ..header }).unwrap();
}

#[test]
#[should_panic(expected = "when it is complete")]
fn an_incomplete_batch_is_never_published() {
    let (_dir, arena) = arena(4, 1024);
    let batches = Batches::new(0);
    let mut segment = segment(&arena, &batches);
    let batch = batches.peek(&[10]);
    segment.begin(&batch.header).unwrap();
    segment.fill(&batch.body[1..]);
    segment.publish(batch.end, false);
}

/// What may happen to one of the segments of a node. Numbers select among what there is.
#[derive(Clone, Debug)]
enum Op {
    Append {
        lengths: Vec<usize>,
        piece: usize,
    },
    /// A batch of which only a part comes; entries may be freed meanwhile.
    Abandon {
        length: usize,
        come: usize,
        free: Option<usize>,
    },
    Free(usize),
    Read {
        from: usize,
        to: usize,
        max_bytes: usize,
    },
    DropReader(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let lengths = prop::collection::vec(0..300_usize, 1..4);
    prop_oneof![
        4 => (lengths, 1..200_usize).prop_map(|(lengths, piece)| Op::Append { lengths, piece }),
        1 => (0..900_usize, 0..900_usize, prop::option::of(any::<usize>()))
            .prop_map(|(length, come, free)| Op::Abandon { length, come, free }),
        2 => any::<usize>().prop_map(Op::Free),
        3 => (any::<usize>(), any::<usize>(), 0..2000_usize)
            .prop_map(|(from, to, max_bytes)| Op::Read { from, to, max_bytes }),
        2 => any::<usize>().prop_map(Op::DropReader),
    ]
}

/// One segment, and everything that was ever published in it.
struct Modelled {
    segment: SegmentBuffer,
    batches: Batches,
    published: Vec<Batch>,
    freed: usize,
}

/// Pieces that a reader got, and the bytes that they must show for ever.
type Reader = (Vec<Bytes>, Vec<u8>);

impl Modelled {
    fn new(arena: &Arc<Arena>, first: u64) -> Self {
        let batches = Batches::new(first);
        Self { segment: segment(arena, &batches), batches, published: Vec::new(), freed: 0 }
    }

    /// The boundary before batch `n`.
    fn boundary(&self, n: usize) -> Index {
        self.published.get(n).map_or(self.batches.next, |batch| batch.header.first)
    }

    fn free(&mut self, selector: usize) {
        self.freed += selector % (self.published.len() - self.freed + 1);
        self.segment.free_below(self.boundary(self.freed));
    }

    fn apply(&mut self, op: &Op, readers: &mut Vec<Reader>) {
        match op {
            Op::Append { lengths, piece } => {
                let batch = self.batches.peek(lengths);
                if append(&mut self.segment, &batch, *piece).is_ok() {
                    self.batches.next(lengths);
                    self.published.push(batch);
                }
            }
            Op::Abandon { length, come, free } => {
                let batch = self.batches.peek(&[*length]);
                if self.segment.begin(&batch.header).is_ok() {
                    self.segment.fill(&batch.body[..*come.min(&batch.body.len())]);
                    assert_eq!(self.segment.staged_left(), batch.body.len().saturating_sub(*come));
                    free.iter().for_each(|selector| self.free(*selector));
                    self.segment.discard();
                }
            }
            Op::Free(selector) => self.free(*selector),
            Op::Read { from, to, max_bytes } => {
                let from = self.freed + from % (self.published.len() - self.freed + 1);
                let to = self.boundary(from).plus(*to as u64 % 8);
                readers.extend(self.read(from, to, *max_bytes));
            }
            Op::DropReader(selector) => {
                if !readers.is_empty() {
                    readers.swap_remove(selector % readers.len());
                }
            }
        }
    }

    fn read(&self, from: usize, to: Index, max_bytes: usize) -> Option<Reader> {
        let (mut expected, mut end) = (Vec::new(), from);
        while let Some(batch) = self.published.get(end) {
            let fits = end == from || expected.len() + batch.bytes.len() <= max_bytes;
            if batch.header.end() > to || !fits {
                break;
            }
            expected.extend_from_slice(&batch.bytes);
            end += 1;
        }
        let run = self.segment.read(self.boundary(from), to, max_bytes);
        if end == from {
            assert_eq!(run, None);
            return None;
        }
        let run = run.expect("there is a batch");
        assert_eq!((run.first, run.before), (self.boundary(from), self.published[from].before));
        assert_eq!((run.end, run.end_chain), (self.boundary(end), self.published[end - 1].end));
        assert_eq!(run.bytes, expected.len());
        Some((run.pieces, expected))
    }

    fn check(&self) {
        let Self { segment, batches, published, freed } = self;
        assert_eq!((segment.tail(), segment.end()), (batches.next, batches.before));
        assert_eq!(segment.freed(), self.boundary(*freed));
        let kept = &published[*freed..];
        let bytes = kept.iter().map(|batch| batch.bytes.len() as u64).sum::<u64>();
        assert_eq!(segment.bytes_between(segment.freed(), segment.tail()), bytes);
        assert!(segment.held_bytes() >= bytes);
        let chunk_bytes = segment.arena.chunk_bytes() as u64;
        assert!(
            segment.held_bytes() < bytes + 2 * chunk_bytes,
            "only the first and last chunk are partly used"
        );
        assert_eq!(segment.held_bytes() == 0, kept.is_empty(), "an idle segment holds no chunk");
        let first = segment.freed().0;
        if first > 0 {
            assert_eq!(segment.chain_at(Index(first - 1)), ChainAt::Freed);
            assert_eq!(segment.floor_boundary(Index(first - 1)), None);
        }
        for batch in kept {
            let at = batch.header.first;
            assert_eq!(segment.chain_at(at), ChainAt::Boundary(batch.header.chain));
            for inside in at.0 + 1..batch.header.end().0 {
                assert_eq!(segment.chain_at(Index(inside)), ChainAt::Inside);
                assert_eq!(segment.floor_boundary(Index(inside)), Some(at));
            }
        }
        assert_eq!(segment.chain_at(batches.next), ChainAt::Boundary(batches.before.chain));
        assert_eq!(segment.chain_at(batches.next.plus(1)), ChainAt::Beyond);
        assert_eq!(segment.floor_boundary(batches.next.plus(5)), Some(batches.next));
    }
}

proptest! {
    #[test]
    fn a_segment_behaves_like_a_list_of_batches(
        ops in prop::collection::vec((0..2_usize, op()), 1..80),
        chunk_bytes in prop::sample::select(vec![1_usize, 64, 100, 1024]),
    ) {
        let (_dir, arena) = arena(6000 / chunk_bytes as u64, chunk_bytes);
        let mut segments = [Modelled::new(&arena, 0), Modelled::new(&arena, 70)];
        let mut readers = Vec::new();
        for (which, op) in &ops {
            segments[*which].apply(op, &mut readers);
            segments.iter().for_each(Modelled::check);
            for (pieces, expected) in &readers {
                assert_eq!(&pieces.concat(), expected, "what a reader holds never changes");
            }
            let held = segments.iter().map(|s| s.segment.held_bytes()).sum::<u64>();
            assert!(arena.used_bytes() >= held);
        }
        readers.clear();
        let held = segments.iter().map(|s| s.segment.held_bytes()).sum::<u64>();
        prop_assert_eq!(arena.used_bytes(), held);
        segments.into_iter().for_each(|s| s.segment.remove());
        prop_assert_eq!(arena.used_bytes(), 0);
    }
}
