//! The directory of a memory buffer: locked for as long as the buffer lives, holding one file.

use super::BufferError;
use crate::mapping::{FileSystem, allocate};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const LOCK_FILE: &str = "lock";
const ARENA_FILE: &str = "arena";

/// A locked directory.
#[derive(Debug)]
pub(crate) struct BufferDir {
    path: PathBuf,
    /// Held open: the lock goes with the descriptor, however the process ends.
    _lock: File,
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
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(BufferError::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed("lock the lock file")(source)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A fresh file of `bytes` bytes, all of them allocated. One that an earlier start left behind
    /// is removed first: its entries belong to an earlier incarnation, which nobody counts on.
    pub(crate) fn create_arena(&self, bytes: u64) -> Result<File, BufferError> {
        let path = self.path.join(ARENA_FILE);
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
