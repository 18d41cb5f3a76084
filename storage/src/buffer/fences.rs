//! The fences of a memory buffer: the highest epoch that fenced or wrote in each log, at rest in a
//! file of records. A record is added with one write, which outlives the process when it has
//! returned; the file is rewritten when most of it is out of date.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `PICULETF` |
//! | 8..12 | version, 1 |
//! | 12..32 | zeros; in later versions 28..32 are the CRC32C of bytes 0..28 |
//! | then 32 for each record | |
//!
//! | bytes of a record | field |
//! |---|---|
//! | 0..8 | log |
//! | 8..16 | epoch |
//! | 16..28 | zeros |
//! | 28..32 | CRC32C of bytes 0..28 |
//!
//! All numbers are little-endian. No record crosses a page, so one that is there whole was written
//! whole: a record that is cut off at the end of the file was never vouched for, any other that does
//! not agree is damage.

use super::dir::{BufferDir, Sync};
use super::{BufferError, Damage};
use crate::limits::{FENCES_MAX, FENCES_STALE_MAX};
use piculet_quorum::ids::{Epoch, LogId};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const FILE: &str = "fences";
const MAGIC: &[u8; 8] = b"PICULETF";
const VERSION: u32 = 1;
const RECORD_BYTES: usize = 32;

/// The fences, in memory and at rest.
#[derive(Debug)]
pub(crate) struct Fences {
    dir: Arc<BufferDir>,
    file: File,
    /// Records in the file that count, whatever lies behind them.
    records: u64,
    /// The file is rewritten when it has so many records.
    rewrite_at: u64,
    epochs: HashMap<LogId, Epoch>,
}

impl Fences {
    /// No fences, at rest in the place of those that are there.
    pub(crate) fn create(dir: &Arc<BufferDir>) -> Result<Self, BufferError> {
        let epochs = HashMap::new();
        let file = dir.replace(FILE, &encode_all(&epochs), Sync::No)?;
        Ok(Self { dir: Arc::clone(dir), file, records: 0, rewrite_at: rewrite_at(&epochs), epochs })
    }

    /// The fences that an earlier process left, and a damage when they are not whole.
    pub(crate) fn read(dir: &Arc<BufferDir>) -> Result<Result<Self, Damage>, BufferError> {
        let path = dir.file(FILE);
        let Some(bytes) = dir.read(FILE)? else { return Ok(Err(Damage::Missing { path })) };
        if let Some(found) = later_version(&bytes) {
            return Err(BufferError::Version { path, found, expected: VERSION });
        }
        let (epochs, records) = match decode(&bytes) {
            Ok(decoded) => decoded,
            Err((offset, what)) => return Ok(Err(Damage::File { path, offset, what })),
        };
        let opened = OpenOptions::new().write(true).open(&path);
        let file = opened.map_err(|source| BufferError::Io { path, action: "open the file", source })?;
        let rewrite_at = rewrite_at(&epochs);
        Ok(Ok(Self { dir: Arc::clone(dir), file, records, rewrite_at, epochs }))
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<(LogId, Epoch)> {
        self.epochs.iter().map(|(log, epoch)| (*log, *epoch)).collect()
    }

    /// Puts a fence at rest, unless one as high is.
    pub(crate) fn put(&mut self, log: LogId, epoch: Epoch) -> Result<(), BufferError> {
        let known = self.epochs.get(&log);
        if known.is_some_and(|known| *known >= epoch) {
            return Ok(());
        }
        if known.is_none() && self.epochs.len() >= FENCES_MAX {
            return Err(BufferError::TooManyFences { path: self.dir.path().to_owned() });
        }
        // At the place of whatever a failed attempt has left.
        let at = (self.records + 1) * RECORD_BYTES as u64;
        self.file.write_all_at(&encode(log, epoch), at).map_err(|source| BufferError::Io {
            path: self.dir.file(FILE),
            action: "write a fence to the file",
            source,
        })?;
        self.records += 1;
        self.epochs.insert(log, epoch);
        self.rewrite_if_stale();
        Ok(())
    }

    /// Lets go of a log's fence. It leaves the file when that is rewritten.
    pub(crate) fn forget(&mut self, log: LogId) {
        self.epochs.remove(&log);
    }

    fn rewrite_if_stale(&mut self) {
        if self.records < self.rewrite_at {
            return;
        }
        match self.dir.replace(FILE, &encode_all(&self.epochs), Sync::No) {
            Ok(file) => {
                self.file = file;
                self.records = self.epochs.len() as u64;
                self.rewrite_at = rewrite_at(&self.epochs);
            }
            Err(error) => {
                // The file that is there is as good, only longer.
                tracing::warn!(%error, "the fences of the buffer cannot be rewritten; they stay as they are");
                self.rewrite_at = self.records * 2;
            }
        }
    }
}

fn rewrite_at(epochs: &HashMap<LogId, Epoch>) -> u64 {
    epochs.len() as u64 * 2 + FENCES_STALE_MAX
}

pub(crate) fn encode_all(epochs: &HashMap<LogId, Epoch>) -> Vec<u8> {
    let mut out = Vec::with_capacity((epochs.len() + 1) * RECORD_BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.resize(RECORD_BYTES, 0);
    for (log, epoch) in epochs {
        out.extend_from_slice(&encode(*log, *epoch));
    }
    out
}

pub(crate) fn encode(log: LogId, epoch: Epoch) -> [u8; RECORD_BYTES] {
    let mut out = [0; RECORD_BYTES];
    out[0..8].copy_from_slice(&log.0.to_le_bytes());
    out[8..16].copy_from_slice(&epoch.0.to_le_bytes());
    let crc = crc32c::crc32c(&out[..28]);
    out[28..32].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The format of a file that is of a later version, and no damaged one of this.
fn later_version(bytes: &[u8]) -> Option<u32> {
    let header: &[u8; RECORD_BYTES] = bytes.first_chunk().filter(|header| header.starts_with(MAGIC))?;
    let u32_at = |at: usize| u32::from_le_bytes(*header[at..].first_chunk().expect("four bytes"));
    let sound = u32_at(28) == crc32c::crc32c(&header[..28]);
    Some(u32_at(8)).filter(|version| sound && *version > VERSION)
}

/// The fences in a file, and how many records it has; the error says what is wrong, and where.
pub(crate) fn decode(bytes: &[u8]) -> Result<(HashMap<LogId, Epoch>, u64), (u64, String)> {
    let (records, _cut_off) = bytes.as_chunks::<RECORD_BYTES>();
    let expected = encode_all(&HashMap::new());
    let Some((_, records)) = records.split_first().filter(|(header, _)| header[..] == expected) else {
        return Err((0, format!("it does not begin as the fences of version {VERSION} do")));
    };
    let mut epochs = HashMap::new();
    for (at, record) in (1..).zip(records) {
        let u64_at = |at: usize| u64::from_le_bytes(*record[at..].first_chunk().expect("eight bytes"));
        let (log, epoch) = (LogId(u64_at(0)), Epoch(u64_at(8)));
        if encode(log, epoch) != *record {
            return Err((
                at * RECORD_BYTES as u64,
                "the record of a fence does not agree with its checksum".to_owned(),
            ));
        }
        let known: &mut Epoch = epochs.entry(log).or_default();
        *known = epoch.max(*known);
    }
    Ok((epochs, records.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, Arc<BufferDir>) {
        let place = tempfile::tempdir().unwrap();
        let dir = Arc::new(BufferDir::open(place.path()).unwrap());
        (place, dir)
    }

    fn read(dir: &Arc<BufferDir>) -> Result<Vec<(u64, u64)>, Damage> {
        let mut all: Vec<_> =
            Fences::read(dir).unwrap()?.all().into_iter().map(|(log, epoch)| (log.0, epoch.0)).collect();
        all.sort_unstable();
        Ok(all)
    }

    #[test]
    fn the_bytes_of_a_fence_are_fixed() {
        let hex: String = encode(LogId(0xbeef), Epoch(3)).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "efbe00000000000003000000000000000000000000000000000000000ad9a047");
        assert_eq!(&encode_all(&HashMap::new())[..13], b"PICULETF\x01\0\0\0\0");
    }

    #[test]
    fn fences_are_kept_and_never_sink() {
        let (_place, dir) = dir();
        assert!(matches!(read(&dir), Err(Damage::Missing { .. })));
        let mut fences = Fences::create(&dir).unwrap();
        for (log, epoch) in [(1, 4), (2, 1), (1, 3), (1, 9), (1, 9)] {
            fences.put(LogId(log), Epoch(epoch)).unwrap();
        }
        assert_eq!((fences.records, read(&dir)), (3, Ok(vec![(1, 9), (2, 1)])));
        let mut again = Fences::read(&dir).unwrap().unwrap();
        again.put(LogId(2), Epoch(2)).unwrap();
        assert_eq!(read(&dir), Ok(vec![(1, 9), (2, 2)]));
    }

    #[test]
    fn what_is_out_of_date_leaves_the_file_in_time() {
        let (_place, dir) = dir();
        let mut fences = Fences::create(&dir).unwrap();
        fences.put(LogId(1), Epoch(1)).unwrap();
        fences.forget(LogId(1));
        for epoch in 1..5000 {
            fences.put(LogId(epoch % 3 + 10), Epoch(epoch)).unwrap();
            assert!(fences.records <= FENCES_STALE_MAX + 8, "{}", fences.records);
        }
        assert_eq!(read(&dir), Ok(vec![(10, 4998), (11, 4999), (12, 4997)]));
    }

    #[test]
    fn a_record_that_is_cut_off_never_counted_and_any_other_bad_one_is_damage() {
        let (place, dir) = dir();
        let mut fences = Fences::create(&dir).unwrap();
        (1..=3).for_each(|log| fences.put(LogId(log), Epoch(log)).unwrap());
        let path = place.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..RECORD_BYTES {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            assert_eq!(read(&dir), Ok(vec![(1, 1), (2, 2)]), "{cut} bytes cut off");
            Fences::read(&dir).unwrap().unwrap().put(LogId(9), Epoch(9)).unwrap();
            assert_eq!(read(&dir), Ok(vec![(1, 1), (2, 2), (9, 9)]), "what is cut off is written over");
        }
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).unwrap();
            let expected = (bit / 8 / RECORD_BYTES * RECORD_BYTES) as u64;
            let found = read(&dir);
            assert!(matches!(found, Err(Damage::File { offset, .. }) if offset == expected), "{found:?}");
        }
    }
}
