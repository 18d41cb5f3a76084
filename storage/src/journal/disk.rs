//! The few things that a journal asks of a disk: a directory of files.

use crate::buffer::BufferDir;
use crate::mapping::{FileSystem, allocate, release};
use bytes::Bytes;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One directory of files. Everything blocks.
///
/// What is written is at rest when [`sync`](Self::sync) returns: until then a power cut may keep any
/// part of it, in units of whole sectors of 512 bytes. The same holds for the entries of the
/// directory and [`sync_dir`](Self::sync_dir).
pub trait Disk {
    /// An open file.
    type File: std::fmt::Debug + Send;

    /// The name in full, for messages.
    fn path(&self, name: &str) -> PathBuf;

    /// The names of all files, in no order.
    ///
    /// # Errors
    /// When the system refuses.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Creates a file of `bytes` zeros, for which the room is taken at once.
    ///
    /// # Errors
    /// When there is such a file, too little room ([`io::ErrorKind::StorageFull`]), or the system refuses.
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<Self::File>;

    /// Opens a file that is there.
    ///
    /// # Errors
    /// When there is none, or the system refuses.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// The length of a file, in bytes.
    ///
    /// # Errors
    /// When the system refuses.
    fn length(&self, file: &Self::File) -> io::Result<u64>;

    /// Fills `into` with the bytes from `at` on.
    ///
    /// # Errors
    /// When the file ends before ([`io::ErrorKind::UnexpectedEof`]), or the system refuses.
    fn read(&self, file: &Self::File, at: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes `pieces`, one behind the other, from `at` on.
    ///
    /// # Errors
    /// When the system refuses. Any part of the bytes may have been written then.
    fn write(&mut self, file: &mut Self::File, at: u64, pieces: &[Bytes]) -> io::Result<()>;

    /// Puts at rest what has been written to the file.
    ///
    /// # Errors
    /// When the system refuses. What is at rest is not known then, and trying again does not tell.
    fn sync(&mut self, file: &mut Self::File) -> io::Result<()>;

    /// Gives back the room of everything from `from` on, which nobody needs: zeros are read there. The
    /// length stays. False when the file system cannot do that.
    ///
    /// # Errors
    /// When the system refuses. Any part of it may be zeros then.
    fn release(&mut self, file: &mut Self::File, from: u64) -> io::Result<bool>;

    /// Removes a file.
    ///
    /// # Errors
    /// When there is none, or the system refuses.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Puts at rest which files there are.
    ///
    /// # Errors
    /// When the system refuses.
    fn sync_dir(&mut self) -> io::Result<()>;

    /// Bytes that are free; `None` when there is no limit.
    ///
    /// # Errors
    /// When the system refuses.
    fn free_bytes(&self) -> io::Result<Option<u64>>;

    /// A random number.
    ///
    /// # Errors
    /// When the system has none.
    fn random(&mut self) -> io::Result<u64>;
}

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    dir: File,
    /// Stays locked while something may be written.
    _lock: Option<Arc<BufferDir>>,
}

impl RealDisk {
    /// The directory at `path`, which must be there, and the lock on it, if there is one.
    ///
    /// # Errors
    /// When it is not there, or the system refuses.
    pub(crate) fn open(path: &Path, lock: Option<Arc<BufferDir>>) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), dir: File::open(path)?, _lock: lock })
    }
}

impl Disk for RealDisk {
    type File = File;

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        // A name that is no text is none of ours.
        names.filter_map(Result::transpose).collect()
    }

    fn create(&mut self, name: &str, bytes: u64) -> io::Result<File> {
        let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).clone();
        let file = options.open(self.path(name))?;
        if let Err(error) = allocate(&file, bytes) {
            // It may have taken the last room there is.
            if let Err(error) = std::fs::remove_file(self.path(name)) {
                tracing::warn!("cannot remove {}, which was not filled: {error}", self.path(name).display());
            }
            return Err(error);
        }
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path(name))
    }

    fn length(&self, file: &File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn read(&self, file: &File, at: u64, into: &mut [u8]) -> io::Result<()> {
        file.read_exact_at(into, at)
    }

    fn write(&mut self, file: &mut File, at: u64, pieces: &[Bytes]) -> io::Result<()> {
        file.seek(SeekFrom::Start(at))?;
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut left = &mut slices[..];
        while !left.is_empty() {
            match file.write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn sync(&mut self, file: &mut File) -> io::Result<()> {
        file.sync_data()
    }

    fn release(&mut self, file: &mut File, from: u64) -> io::Result<bool> {
        release(file, from, file.metadata()?.len())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        FileSystem::of(&self.dir).map(|system| system.free_bytes)
    }

    fn random(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(u64::from_le_bytes(bytes))
    }
}
