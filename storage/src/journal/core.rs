//! The journal as it is written: records gathered, files changed, what nobody needs deleted.

use super::disk::Disk;
use super::live::{Live, Manifest};
use super::record::{
    CHECKPOINT_BYTES, Change, FILE_HEADER_BYTES, FileHeader, Gather, MARKS_BYTES, Record, Stamp,
};
use super::{
    CREATE, GENERATION_MAX, HEALTH_BYTES, HEALTH_FILE, JournalError, JournalOptions, Location, file_name,
};
use bytes::Bytes;
use piculet_quorum::batch::Place;
use piculet_quorum::ids::Nonce;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// File systems give room back in whole blocks of at most this size.
const BLOCK_BYTES: u64 = 4096;

/// A journal that is written: single threaded, everything blocks.
///
/// [`append`](Self::append) only takes changes; [`flush`](Self::flush) puts at rest all that were
/// taken. After an error nothing more is written, for good.
#[derive(Debug)]
pub struct JournalCore<D: Disk> {
    disk: D,
    options: JournalOptions,
    cluster: Nonce,
    /// As of the records that have been encoded.
    live: Live,
    staged: VecDeque<Change>,
    open: OpenFile<D::File>,
    /// Bytes that each file takes, the oldest first; the last is the open one.
    files: VecDeque<u64>,
    synced: Location,
    failed: Option<Arc<str>>,
}

/// The newest file.
#[derive(Debug)]
struct OpenFile<F> {
    file: F,
    header: FileHeader,
    /// Where the next record begins.
    end: u64,
}

/// A file that a replay has read.
#[derive(Debug)]
pub(super) struct ReadFile<F> {
    pub(super) file: F,
    pub(super) header: FileHeader,
    /// Where its last record ends.
    pub(super) end: u64,
}

impl<D: Disk> JournalCore<D> {
    /// An empty journal. Whatever files an earlier one has left are removed.
    ///
    /// # Errors
    /// When the sizes make no sense, there is too little room, or the system refuses.
    pub fn create(mut disk: D, options: JournalOptions, cluster: Nonce) -> Result<Self, JournalError> {
        options.check()?;
        let dir = disk.path("");
        let names = disk.list().map_err(|error| failed(&disk, "", "list", error))?;
        let mut found: Vec<u64> = names.iter().filter_map(|name| super::generation_of(name)).collect();
        found.sort_unstable();
        for generation in &found {
            remove(&mut disk, &file_name(*generation))?;
        }
        // The reason of a failure goes last: until then it says that nothing here counts.
        disk.sync_dir().map_err(|error| failed(&disk, "", "sync", error))?;
        if names.iter().any(|name| name == HEALTH_FILE) {
            remove(&mut disk, HEALTH_FILE)?;
        }
        let mut health = create(&mut disk, HEALTH_FILE, HEALTH_BYTES)?;
        disk.sync(&mut health).map_err(|error| failed(&disk, HEALTH_FILE, "sync", error))?;
        // A stray file may have a number that leaves too few for those to come.
        let generation =
            found.last().map(|last| last + 1).filter(|next| *next < GENERATION_MAX / 2).unwrap_or(1);
        tracing::debug!(dir = %dir.display(), generation, "a new journal begins");
        let open = create_file(&mut disk, cluster, generation, options.file_bytes)?;
        let files = VecDeque::from([open.header.bytes]);
        let (live, synced) = (Live::default(), Location { generation, offset: open.end });
        let staged = VecDeque::new();
        let mut core = Self { disk, options, cluster, live, staged, open, files, synced, failed: None };
        core.checkpoint_alone()?;
        Ok(core)
    }

    /// Goes on behind what a replay has found: everything is synced, `last` sealed, and a new file begun.
    /// `sealed` are the files before it. However often that is done, it takes the room of one file: no file
    /// that was not filled keeps more than what is in it.
    ///
    /// # Errors
    /// When there is too little room, or the system refuses. After a failed write or sync nobody knows
    /// what is at rest of that which was found: then it is [`JournalError::Failed`], as the next start
    /// will be told.
    pub(super) fn resume(
        disk: D,
        options: JournalOptions,
        live: Live,
        last: ReadFile<D::File>,
        sealed: Vec<ReadFile<D::File>>,
    ) -> Result<Self, JournalError> {
        options.check()?;
        let names = disk.list().map_err(|error| failed(&disk, "", "list", error))?;
        let ReadFile { file, header, end } = last;
        let FileHeader { cluster, generation, .. } = header;
        let (open, synced) = (OpenFile { file, header, end }, Location { generation, offset: end });
        let (staged, files) = (VecDeque::new(), VecDeque::with_capacity(sealed.len() + 2));
        let mut core = Self { disk, options, cluster, live, staged, open, files, synced, failed: None };
        if let Err(error) = core.go_on(sealed, &names) {
            core.stop(&error);
            let reason = core.failed.filter(|_| !error.left_the_disk_alone());
            return Err(reason.map_or(error, JournalError::Failed));
        }
        Ok(core)
    }

    fn go_on(&mut self, sealed: Vec<ReadFile<D::File>>, names: &[String]) -> Result<(), JournalError> {
        let Self { disk, open, files, .. } = self;
        let generation = open.header.generation;
        // What was read may be in the page cache alone; in the file before the last, too, when the
        // process ended between writing its seal and syncing it.
        for ReadFile { mut file, header, end } in sealed {
            let name = file_name(header.generation);
            disk.sync(&mut file).map_err(|error| failed(disk, &name, "sync", error))?;
            files.push_back(shrink(disk, &mut OpenFile { file, header, end }));
        }
        disk.sync(&mut open.file).map_err(|error| failed(disk, &file_name(generation), "sync", error))?;
        let next = file_name(generation + 1);
        if names.contains(&next) {
            // It was made, and never promised by a seal.
            remove(disk, &next)?;
        }
        let wanted = file_bytes_for(&self.options, &self.live, 0);
        let new = create_file(&mut self.disk, self.cluster, generation + 1, wanted)?;
        let mut seal = self.gather_seal(Gather::default());
        self.write_and_sync(&mut seal)?;
        let mut last = std::mem::replace(&mut self.open, new);
        self.files.push_back(shrink(&mut self.disk, &mut last));
        self.files.push_back(self.open.header.bytes);
        self.checkpoint_alone()?;
        self.collect()
    }

    /// Takes a change, which is at rest after the next [`flush`](Self::flush).
    pub fn append(&mut self, change: Change) {
        self.staged.push_back(change);
    }

    /// Puts at rest all that was taken: one write and one sync, unless a file is full. Then deletes
    /// the files that are needed no more.
    ///
    /// # Errors
    /// When the disk fails, or has failed before. It is not known then which of the changes are at
    /// rest, and the journal has stopped for good. It has stopped, too, when a file cannot be created,
    /// but all that was flushed before is at rest then, and the next start goes on with it.
    pub fn flush(&mut self) -> Result<(), JournalError> {
        if let Some(reason) = &self.failed {
            return Err(JournalError::Failed(reason.clone()));
        }
        let flushed = self.write_staged().and_then(|()| self.collect());
        flushed.inspect_err(|error| self.stop(error))
    }

    /// A clean stop: flushes, and leaves an end mark.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn close(mut self) -> Result<(), JournalError> {
        self.flush()?;
        let mut gather = Gather::default();
        gather.put(Record::End, &self.stamp());
        let closed = self.write_and_sync(&mut gather);
        closed.inspect_err(|error| self.stop(error))
    }

    /// Bytes of batch records that can be taken until files may take no more room: because of the
    /// options, or because the file system would have less than a reserve of two files left.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub fn room_bytes(&self) -> Result<u64, JournalError> {
        let free =
            self.disk.free_bytes().map_err(|error| failed(&self.disk, "", "ask for the room in", error))?;
        let file_bytes = self.options.file_bytes;
        let next = file_bytes_for(&self.options, &self.live, 0);
        let allowed = self.options.bytes.saturating_sub(self.file_bytes());
        let allowed = free.map_or(allowed, |free| allowed.min(free.saturating_sub(2 * file_bytes)));
        let here = self.open.header.bytes.saturating_sub(self.open.end + MARKS_BYTES);
        // The part of a file that a checkpoint takes is not room.
        Ok(here + allowed / next * (next - list_bytes(&self.live)))
    }

    /// Bytes that all files take.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().sum()
    }

    /// How large it is.
    #[must_use]
    pub fn options(&self) -> &JournalOptions {
        &self.options
    }

    /// Why the journal has stopped for good, if it has.
    #[must_use]
    pub fn failed(&self) -> Option<&Arc<str>> {
        self.failed.as_ref()
    }

    /// What is known of a segment, as of the last flush.
    #[must_use]
    pub fn manifest(&self, place: &Place) -> Option<&Manifest> {
        self.live.manifest(place)
    }

    /// Takes the changes that wait, up to the end or to where a file is full, and so on.
    fn write_staged(&mut self) -> Result<(), JournalError> {
        let mut gather = Gather::default();
        while let Some(change) = self.staged.pop_front() {
            let bytes = change.record_bytes();
            if self.open.end + gather.len() + bytes + MARKS_BYTES > self.open.header.bytes {
                gather = self.rotate(gather, bytes)?;
            }
            gather.put(Record::Change(&change), &self.stamp());
            if let Err(what) = self.live.apply(&change, self.open.header.generation) {
                panic!("a change contradicts the journal: {what}: {change:?}");
            }
        }
        if gather.len() > 0 { self.write_and_sync(&mut gather) } else { Ok(()) }
    }

    /// Goes on in a new file with room for a record of `bytes`. Returns its checkpoint, to be written
    /// with what comes next.
    fn rotate(&mut self, gather: Gather, bytes: u64) -> Result<Gather, JournalError> {
        let generation = self.open.header.generation + 1;
        let wanted = file_bytes_for(&self.options, &self.live, bytes);
        // First of all, while nothing is written: when there is no room for it, all is as it was.
        let next = create_file(&mut self.disk, self.cluster, generation, wanted)?;
        let mut sealed = self.gather_seal(gather);
        self.write_and_sync(&mut sealed)?;
        self.files.push_back(next.header.bytes);
        self.open = next;
        Ok(self.gather_checkpoint())
    }

    fn gather_seal(&self, mut gather: Gather) -> Gather {
        gather.put(Record::Seal, &self.stamp());
        gather
    }

    fn gather_checkpoint(&self) -> Gather {
        let (mut gather, stamp) = (Gather::default(), self.stamp());
        let (segments, fences) = (self.live.manifests(), self.live.fences());
        let complete = Record::Checkpoint { segments: segments.len() as u64, fences: fences.len() as u64 };
        for manifest in segments {
            gather.put(Record::Change(&Change::Segment(*manifest)), &stamp);
        }
        for (log, epoch) in fences {
            gather.put(Record::Change(&Change::Fence { log, epoch }), &stamp);
        }
        gather.put(complete, &stamp);
        gather
    }

    fn checkpoint_alone(&mut self) -> Result<(), JournalError> {
        let mut checkpoint = self.gather_checkpoint();
        self.write_and_sync(&mut checkpoint)
    }

    fn write_and_sync(&mut self, gather: &mut Gather) -> Result<(), JournalError> {
        let Self { disk, open, .. } = self;
        let (name, bytes) = (file_name(open.header.generation), gather.len());
        assert!(open.end + bytes <= open.header.bytes, "a record lies within its file");
        disk.write(&mut open.file, open.end, &gather.take())
            .map_err(|error| failed(disk, &name, "write to", error))?;
        disk.sync(&mut open.file).map_err(|error| failed(disk, &name, "sync", error))?;
        open.end += bytes;
        self.synced = Location { generation: open.header.generation, offset: open.end };
        Ok(())
    }

    /// Deletes the oldest files as long as no batch in them is needed. All that was taken is at rest,
    /// and with it the checkpoint of the newest file.
    fn collect(&mut self) -> Result<(), JournalError> {
        while self.files.len() > 1 {
            let oldest = self.open.header.generation + 1 - self.files.len() as u64;
            if self.live.needs_up_to(oldest) {
                break;
            }
            remove(&mut self.disk, &file_name(oldest))?;
            // One at a time: the row never has a gap.
            self.disk.sync_dir().map_err(|error| failed(&self.disk, "", "sync", error))?;
            self.files.pop_front();
        }
        Ok(())
    }

    fn stamp(&self) -> Stamp {
        let FileHeader { generation, salt, .. } = self.open.header;
        Stamp { generation, salt, synced: self.synced }
    }

    /// Keeps the first reason, here and, unless the next start may go on all the same, on the disk.
    fn stop(&mut self, error: &JournalError) {
        let reason: Arc<str> = error.to_string().into();
        self.failed = Some(reason.clone());
        self.staged.clear();
        if error.left_the_disk_alone() {
            return;
        }
        if let Err(error) = self.keep_reason(&reason) {
            tracing::error!(%error, "the reason why the journal has stopped cannot be kept");
        }
    }

    fn keep_reason(&mut self, reason: &str) -> io::Result<()> {
        let length = reason.len().min(HEALTH_BYTES as usize);
        let mut file = self.disk.open(HEALTH_FILE)?;
        self.disk.write(&mut file, 0, &[Bytes::copy_from_slice(&reason.as_bytes()[..length])])?;
        self.disk.sync(&mut file)
    }
}

/// Gives back what a sealed file has behind its seal, where nothing counts. Returns the bytes that it
/// takes from then on.
fn shrink<D: Disk>(disk: &mut D, sealed: &mut OpenFile<D::File>) -> u64 {
    let (bytes, end) = (sealed.header.bytes, sealed.end.next_multiple_of(BLOCK_BYTES));
    if end >= bytes {
        return bytes;
    }
    match disk.release(&mut sealed.file, end) {
        Ok(true) => end,
        Ok(false) => bytes,
        // It is as good as before, only larger.
        Err(error) => {
            let path = disk.path(&file_name(sealed.header.generation));
            tracing::warn!(path = %path.display(), %error, "the unused end of a journal file cannot be given back");
            bytes
        }
    }
}

/// Bytes of the next file: as the options say, unless a record of `record` bytes does not fit behind
/// the checkpoint, or that would take more than half of it.
fn file_bytes_for(options: &JournalOptions, live: &Live, record: u64) -> u64 {
    options.file_bytes.max(2 * list_bytes(live) + record)
}

/// Bytes that every file takes besides its changes: its header, checkpoint and marks.
fn list_bytes(live: &Live) -> u64 {
    let segments = live.manifests().len() as u64 * 128;
    let fences = live.fences().len() as u64 * 48;
    FILE_HEADER_BYTES as u64 + segments + fences + CHECKPOINT_BYTES + MARKS_BYTES
}

/// A new file with a header, at rest with its entry in the directory.
fn create_file<D: Disk>(
    disk: &mut D,
    cluster: Nonce,
    generation: u64,
    bytes: u64,
) -> Result<OpenFile<D::File>, JournalError> {
    let name = file_name(generation);
    assert!(bytes <= u64::from(u32::MAX), "a journal file of {bytes} bytes");
    let salt = disk.random().map_err(|error| failed(disk, &name, "find a random number for", error))?;
    let mut file = create(disk, &name, bytes)?;
    let header = FileHeader { cluster, generation, bytes, salt };
    disk.write(&mut file, 0, &[Bytes::copy_from_slice(&header.encode())])
        .map_err(|error| failed(disk, &name, "write to", error))?;
    disk.sync(&mut file).map_err(|error| failed(disk, &name, "sync", error))?;
    disk.sync_dir().map_err(|error| failed(disk, "", "sync", error))?;
    Ok(OpenFile { file, header, end: FILE_HEADER_BYTES as u64 })
}

fn create<D: Disk>(disk: &mut D, name: &str, bytes: u64) -> Result<D::File, JournalError> {
    disk.create(name, bytes).map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => JournalError::NoSpace {
            path: disk.path(name),
            wanted: bytes,
            free: disk.free_bytes().ok().flatten().unwrap_or(0),
        },
        _ => failed(disk, name, CREATE, error),
    })
}

fn remove<D: Disk>(disk: &mut D, name: &str) -> Result<(), JournalError> {
    disk.remove(name).map_err(|error| failed(disk, name, "remove", error))
}

pub(super) fn failed<D: Disk>(disk: &D, name: &str, action: &'static str, error: io::Error) -> JournalError {
    JournalError::Io { path: disk.path(name), action, source: Arc::new(error) }
}
