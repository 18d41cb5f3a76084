//! A memory buffer for simulations: the shipped arena, table and fences over memory without a name,
//! in a process that can be killed before any store.
//!
//! There is no directory, so nothing here locks one, says whose it is or proves that it was not
//! copied; [`Found`](crate::Found) does. The fences are bytes in the form of their file.

use crate::arena::{Arena, ArenaOptions};
use crate::buffer::{BufferError, Contents, Damage, KeptSegment, fences};
use crate::mapping::{Pool, anonymous, hook};
use crate::reopen::Reopened;
use crate::segment_buffer::SegmentBuffer;
use crate::slots::{HEADER_BYTES, Layout};
use parking_lot::Mutex;
use piculet_quorum::batch::{BatchEnd, Place};
use piculet_quorum::ids::{Epoch, Index, LogId};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// What errors and damage name in the place of a file.
const NAME: &str = "simulated";

/// The bytes that a process leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    arena: Vec<u8>,
    fences: Vec<u8>,
}

/// A memory buffer in a process.
#[derive(Debug)]
pub struct SimulatedBuffer {
    file: File,
    arena: Arc<Arena>,
    fences: Arc<Mutex<Vec<u8>>>,
}

/// How far something came.
#[derive(Debug, PartialEq, Eq)]
pub struct Stores {
    /// How many stores there were.
    pub made: u64,
    /// What a kill before the chosen one leaves, if there were so many.
    pub killed: Option<Image>,
}

impl Image {
    /// Bits in it.
    #[must_use]
    pub fn bits(&self) -> usize {
        (self.arena.len() + self.fences.len()) * 8
    }

    /// Turns a bit over. Those of the fences come last.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn flip(&mut self, bit: usize) {
        let (byte, mask) = (bit / 8, 1 << (bit % 8));
        match byte.checked_sub(self.arena.len()) {
            None => self.arena[byte] ^= mask,
            Some(byte) => self.fences[byte] ^= mask,
        }
    }

    fn of(file: &File, fences: &Mutex<Vec<u8>>) -> io::Result<Self> {
        let mut arena = vec![0; file.metadata()?.len() as usize];
        file.read_exact_at(&mut arena, 0)?;
        Ok(Self { arena, fences: fences.lock().clone() })
    }
}

impl SimulatedBuffer {
    /// An empty buffer.
    ///
    /// # Errors
    /// When the size makes no sense, or the system refuses the memory.
    pub fn create(options: &ArenaOptions) -> Result<Self, BufferError> {
        let layout = Layout::new(options)?;
        let mut arena = vec![0; layout.file_bytes() as usize];
        arena[..HEADER_BYTES].copy_from_slice(&layout.encode());
        let image = Image { arena, fences: fences::encode_all(&HashMap::new()) };
        let (buffer, contents) = Self::reopen(&image)?.expect("an empty buffer is sound");
        assert!(contents.segments.is_empty(), "nothing is in an empty buffer");
        Ok(buffer)
    }

    /// Takes up what a process left. The other result is what is wrong with it.
    ///
    /// # Errors
    /// When the system refuses the memory.
    pub fn reopen(image: &Image) -> Result<Result<(Self, Contents), Damage>, BufferError> {
        let path = Path::new(NAME);
        let damaged = |offset, what| Damage::File { path: path.to_owned(), offset, what };
        let failed = |source| BufferError::Io { path: path.to_owned(), action: "map the memory", source };
        let epochs = match fences::decode(&image.fences) {
            Ok((epochs, _)) => epochs,
            Err((offset, what)) => return Ok(Err(damaged(offset, what))),
        };
        let bytes = image.arena.len() as u64;
        let Some(header) = image.arena.first_chunk::<HEADER_BYTES>() else {
            return Ok(Err(damaged(0, format!("{bytes} bytes are too few for a buffer"))));
        };
        let layout = match Layout::decode(header, bytes) {
            Ok(layout) => layout,
            Err(what) => return Ok(Err(damaged(0, what))),
        };
        let file = anonymous(bytes).map_err(failed)?;
        file.write_all_at(&image.arena, 0).map_err(failed)?;
        let pool = Pool::new(&file, layout.chunks_at(), layout.chunk_bytes, layout.chunks, None);
        let found = Reopened::check(Arc::new(pool.map_err(failed)?), layout, path.to_owned());
        if let Some(damage) = found.damage {
            return Ok(Err(damage));
        }
        let (arena, segments) = found.adopt();
        let kept = |buffer: SegmentBuffer| KeptSegment { kept: buffer.kept(), buffer };
        let contents = Contents {
            segments: segments.into_iter().map(kept).collect(),
            fences: epochs.into_iter().collect(),
        };
        Ok(Ok((Self { file, arena, fences: Arc::new(Mutex::new(image.fences.clone())) }, contents)))
    }

    /// The memory that entries lie in.
    #[must_use]
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// An empty segment whose first entry will have index `start`; `before` is what lies before it.
    #[must_use]
    pub fn segment(&self, place: Place, start: Index, before: BatchEnd) -> SegmentBuffer {
        SegmentBuffer::new(Arc::clone(&self.arena), place, start, before)
    }

    /// Puts at rest that `epoch` has fenced the log, with one store.
    pub fn put_fence(&self, log: LogId, epoch: Epoch) {
        hook::call();
        self.fences.lock().extend_from_slice(&fences::encode(log, epoch));
    }

    /// What a kill leaves now.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn image(&self) -> io::Result<Image> {
        Image::of(&self.file, &self.fences)
    }

    /// Does something, and says what a kill just before its store number `at`, from 0, leaves. All of
    /// it is done in any case.
    ///
    /// # Panics
    /// If the system refuses to let the memory be read.
    pub fn killed_before<T>(&self, at: u64, during: impl FnOnce() -> T) -> (T, Stores) {
        let (made, killed) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(None)));
        let (count, kept) = (Rc::clone(&made), Rc::clone(&killed));
        let (file, fences) = (self.file.try_clone().expect("a second descriptor"), Arc::clone(&self.fences));
        let look = move || {
            if count.replace(count.get() + 1) == at {
                kept.replace(Some(Image::of(&file, &fences).expect("memory can be read")));
            }
        };
        let result = hook::with(look, during);
        (result, Stores { made: made.get(), killed: killed.take() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Batches, PLACE};

    const SMALL: ArenaOptions = ArenaOptions { bytes: 16 << 10, chunk_bytes: 256 };

    #[test]
    fn what_is_killed_before_a_store_has_all_stores_before_it_and_none_behind() {
        let first = Batches::new(0);
        let start = |buffer: &SimulatedBuffer| buffer.segment(PLACE, Index(0), first.before);
        let append = |at| {
            let buffer = SimulatedBuffer::create(&SMALL).unwrap();
            let (mut segment, batch) = (start(&buffer), first.clone().next(&[300, 10]));
            let ((), stores) = buffer.killed_before(at, || {
                segment.begin(&batch.header).unwrap();
                segment.fill(&batch.body);
                segment.publish(batch.end, false);
                buffer.put_fence(PLACE.log, PLACE.epoch);
            });
            (stores, buffer.image().unwrap())
        };
        let (Stores { made, killed }, whole) = append(u64::MAX);
        assert!(made > 10 && killed.is_none());
        let found = |image: &Image| {
            let (_, contents) = SimulatedBuffer::reopen(image).unwrap().unwrap();
            let tail = contents.segments.first().map_or(Index(0), |segment| segment.kept.tail);
            (tail, contents.fences.len())
        };
        assert_eq!(found(&whole), (Index(2), 1));
        for at in 0..made {
            let image = append(at).0.killed.unwrap();
            // The fence is the last store, and what publishes the batch the one before.
            let expected = if at + 1 < made { Index(0) } else { Index(2) };
            assert_eq!(found(&image), (expected, 0), "killed before store {at} of {made}");
        }
    }

    #[test]
    fn a_turned_bit_is_damage_or_changes_nothing() {
        let buffer = SimulatedBuffer::create(&SMALL).unwrap();
        let batch = Batches::new(0).next(&[300, 10]);
        let mut segment = buffer.segment(PLACE, Index(0), Batches::new(0).before);
        segment.begin(&batch.header).unwrap();
        segment.fill(&batch.body);
        segment.publish(batch.end, false);
        buffer.put_fence(PLACE.log, PLACE.epoch);
        let image = buffer.image().unwrap();
        let read = |image: &Image| {
            let (_, contents) = SimulatedBuffer::reopen(image).unwrap()?;
            let segments = contents.segments.iter();
            let bytes =
                segments.map(|s| s.buffer.read(s.kept.freed, s.kept.tail, usize::MAX).unwrap().pieces);
            Ok((bytes.map(|pieces| pieces.concat()).collect::<Vec<_>>(), contents.fences))
        };
        let sound: Result<_, Damage> = read(&image);
        let mut damaged = 0;
        for bit in (0..image.bits()).step_by(37) {
            let mut turned = image.clone();
            turned.flip(bit);
            match read(&turned) {
                Err(_) => damaged += 1,
                found => assert_eq!(found, sound, "bit {bit}"),
            }
        }
        assert!(damaged > 50, "{damaged} are found");
    }
}
