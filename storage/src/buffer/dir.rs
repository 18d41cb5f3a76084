//! The directory of a buffer: locked for as long as the buffer lives, with few files in it.

use super::BufferError;
use super::identity::{Boot, Proof};
use crate::mapping::{FileSystem, allocate};
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

const LOCK_FILE: &str = "lock";
const ARENA_FILE: &str = "arena";
/// What the system counts the room of files in.
const BLOCK_BYTES: u64 = 512;

/// Whether a file must outlive the machine's next stop, or only this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    Yes,
    No,
}

/// A locked directory.
#[derive(Debug)]
pub(crate) struct BufferDir {
    path: PathBuf,
    /// The directory itself and a file in it, both locked: somebody may remove the file, and earlier
    /// versions lock only that. Held open: a lock goes with its descriptor, however the process ends.
    _locks: [File; 2],
}

impl BufferDir {
    /// Creates the directory if it is missing, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, BufferError> {
        let failed = |action| move |source| BufferError::Io { path: path.to_owned(), action, source };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed("create the directory"))?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(failed("open the lock file"))?;
        let locks = [File::open(path).map_err(failed("open the directory"))?, lock];
        for lock in &locks {
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(BufferError::Busy { path: path.to_owned() }),
                Err(TryLockError::Error(source)) => return Err(failed("lock the directory")(source)),
            }
        }
        Ok(Self { path: path.to_owned(), _locks: locks })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file in the directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The file that holds the entries.
    pub(crate) fn arena_file(&self) -> PathBuf {
        self.file(ARENA_FILE)
    }

    pub(crate) fn arena_failed(&self, action: &'static str) -> impl Fn(io::Error) -> BufferError {
        let path = self.arena_file();
        move |source| BufferError::Io { path: path.clone(), action, source }
    }

    /// What tells the directory from a copy of it, in this boot of the machine or in any.
    pub(crate) fn proof(&self, boot: Boot) -> Result<Proof, BufferError> {
        let failed =
            |source| BufferError::Io { path: self.path.clone(), action: "look at the directory", source };
        let dir = File::open(&self.path).map_err(failed)?;
        let metadata = dir.metadata().map_err(failed)?;
        let origin =
            if boot == Boot::ANY { made_at(&metadata) } else { FileSystem::of(&dir).map_err(failed)?.id };
        Ok(Proof { origin, inode: metadata.ino(), boot })
    }

    /// The bytes of a small file; `None` when there is none.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, BufferError> {
        let path = self.file(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(BufferError::Io { path, action: "read the file", source }),
        }
    }

    /// Puts a whole file in the place of the one before: whatever happens, one of the two is there.
    /// Returns it, open for writing. With [`Sync::No`] an error means that the one before is there.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8], sync: Sync) -> Result<File, BufferError> {
        let (path, fresh) = (self.file(name), self.file(&format!("{name}.new")));
        let replace = || {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(bytes)?;
            if sync == Sync::No {
                std::fs::rename(&fresh, &path)?;
                return Ok(file);
            }
            file.sync_all()?;
            std::fs::rename(&fresh, &path)?;
            File::open(&self.path)?.sync_all()?;
            Ok(file)
        };
        replace().map_err(|source| {
            // On a full file system it would take the room that the one before needs to grow.
            match std::fs::remove_file(&fresh) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!("cannot remove {}, which was not finished: {error}", fresh.display());
                }
                _ => {}
            }
            BufferError::Io { path: path.clone(), action: "write the file", source }
        })
    }

    /// The file that holds the entries, if there is one.
    pub(crate) fn open_arena(&self) -> Result<Option<File>, BufferError> {
        match OpenOptions::new().read(true).write(true).open(self.arena_file()) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.arena_failed("open the file")(source)),
        }
    }

    /// Checks that a fresh file of `bytes` bytes would fit once the one that is there has been removed.
    pub(crate) fn check_room(&self, bytes: u64) -> Result<(), BufferError> {
        let failed = |action| move |source| BufferError::Io { path: self.path.clone(), action, source };
        let dir = File::open(&self.path).map_err(failed("look at the directory"))?;
        let system = FileSystem::of(&dir).map_err(failed("ask for the file system"))?;
        let held = match std::fs::metadata(self.arena_file()) {
            Ok(old) => old.blocks() * BLOCK_BYTES,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => return Err(self.arena_failed("look at the file")(source)),
        };
        match system.free_bytes.map(|free| free.saturating_add(held)) {
            Some(free) if free < bytes => {
                Err(BufferError::NoSpace { path: self.path.clone(), wanted: bytes, free })
            }
            _ => Ok(()),
        }
    }

    /// A fresh file of `bytes` bytes, all of them allocated. One that an earlier start left behind
    /// is removed first.
    pub(crate) fn create_arena(&self, bytes: u64) -> Result<File, BufferError> {
        let path = self.arena_file();
        let failed = |action| {
            let path = path.clone();
            move |source| BufferError::Io { path, action, source }
        };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove the old file")(error));
            }
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("create the file"))?;
        let allocated = self.allocate(&file, bytes);
        if allocated.is_err()
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!("cannot remove {}, which was not filled: {error}", path.display());
        }
        allocated.map(|()| file)
    }

    fn allocate(&self, file: &File, bytes: u64) -> Result<(), BufferError> {
        let failed = |action| move |source| BufferError::Io { path: self.path.clone(), action, source };
        let system = FileSystem::of(file).map_err(failed("ask for the file system"))?;
        let no_space = |free| BufferError::NoSpace { path: self.path.clone(), wanted: bytes, free };
        if let Some(free) = system.free_bytes
            && free < bytes
        {
            return Err(no_space(free));
        }
        if !system.tmpfs {
            tracing::warn!(
                "the memory buffer {} is not on a tmpfs: it works, but its pages are written to disk in the \
                 background; use a directory on a tmpfs, such as /dev/shm",
                self.path.display()
            );
        }
        allocate(file, bytes).map_err(|error| match error.raw_os_error() {
            // Somebody else took the space since it was counted.
            Some(libc::ENOSPC) => no_space(FileSystem::of(file).ok().and_then(|s| s.free_bytes).unwrap_or(0)),
            _ => failed("allocate the file")(error),
        })
    }
}

/// When a file was made, in nanoseconds since 1970; 0 when its file system does not know.
fn made_at(metadata: &Metadata) -> u64 {
    let made = metadata.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
    made.and_then(|made| u64::try_from(made.as_nanos()).ok()).unwrap_or(0)
}
