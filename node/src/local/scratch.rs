//! Directories that go with their owner.

use super::LocalError;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "piculet-scratch-";

/// A fresh directory of its own, removed with all that is in it when this value is dropped; or,
/// when the process dies before that, by the next one that makes a directory in the same place.
#[derive(Debug)]
pub struct ScratchDir {
    path: PathBuf,
    // Locked for as long as the directory has an owner; the lock goes with the process.
    _lock: File,
}

impl ScratchDir {
    /// Makes one under `parent`, and removes what dead processes have left there.
    ///
    /// # Errors
    /// When nothing can be created there.
    pub fn create(parent: &Path) -> Result<Self, LocalError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep(parent);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                created => created.map_err(LocalError::io("create", path.display()))?,
            }
            // Somebody who sweeps may have come in between: then it is theirs to remove.
            if let Some(lock) = lock(&path) {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(dir = %self.path.display(), %error, "cannot remove a scratch directory");
        }
    }
}

fn lock(dir: &Path) -> Option<File> {
    let file = File::open(dir).ok()?;
    file.try_lock().is_ok().then_some(file)
}

/// Removes the directories whose owners are dead. Another process may do the same at this moment,
/// and some may be another user's, so failures are nothing to speak of.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Some(_lock) = lock(&entry.path())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_its_owner_and_never_before() {
        let parent = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        let first = ScratchDir::create(parent.path()).expect("a directory");
        fs::write(first.path().join("file"), "x").expect("it can be written to");
        let second = ScratchDir::create(parent.path()).expect("a directory");
        assert_ne!(first.path(), second.path());
        assert!(first.path().join("file").exists(), "the sweep leaves what has an owner");
        let gone = first.path().to_path_buf();
        drop(first);
        assert!(!gone.exists());
    }

    #[test]
    fn what_a_dead_process_left_is_removed() {
        let parent = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        let left = parent.path().join(format!("{PREFIX}1-1"));
        let other = parent.path().join("other");
        for dir in [&left, &other] {
            fs::create_dir(dir).expect("it is new");
        }
        let _fresh = ScratchDir::create(parent.path()).expect("a directory");
        assert!(!left.exists() && other.exists());
    }
}
