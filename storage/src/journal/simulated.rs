//! A disk in memory that forgets what was not synced, and breaks when told to.
//!
//! Everything is deterministic: whoever drives it decides what a power cut leaves. A clone is the
//! same disk.

use super::disk::Disk;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

const SECTOR_BYTES: usize = 512;

/// A simulated disk with one directory.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Syncs are held back no longer.
    released: Condvar,
}

#[derive(Clone, Debug, Default)]
struct State {
    files: Vec<SimulatedFile>,
    names: BTreeMap<String, usize>,
    /// The entries of the directory that are at rest.
    names_at_rest: BTreeMap<String, usize>,
    /// What has changed in it since, in order: a name, and its file or none.
    entries: Vec<(String, Option<usize>)>,
    /// Bytes for all files; no limit when none.
    capacity: Option<u64>,
    /// So many more operations change something; with the last one the power goes.
    operations_left: Option<u64>,
    /// So many more syncs succeed.
    syncs_left: Option<u64>,
    syncs: u64,
    writes: u64,
    hold_syncs: bool,
    random: u64,
}

#[derive(Clone, Debug, Default)]
struct SimulatedFile {
    /// As processes see it.
    bytes: Vec<u8>,
    at_rest: Vec<u8>,
    /// Bytes at its end whose room was given back.
    released: usize,
    /// Every form that a sector has had since it was synced.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
}

impl SimulatedDisk {
    /// An empty disk whose random numbers follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let disk = Self::default();
        disk.shared.state.lock().random = seed;
        disk
    }

    /// What a power cut leaves, as another disk. `choose(n)` gives a number below `n`: for every
    /// sector that was not synced, which of its forms since then is there; for every change of the
    /// directory whether it is.
    #[must_use]
    pub fn power_cut(&self, mut choose: impl FnMut(usize) -> usize) -> Self {
        let mut state = self.shared.state.lock().clone();
        let mut names = std::mem::take(&mut state.names_at_rest);
        for (name, file) in std::mem::take(&mut state.entries) {
            if choose(2) == 0 {
                continue;
            }
            match file {
                Some(file) => drop(names.insert(name, file)),
                None => drop(names.remove(&name)),
            }
        }
        for file in &mut state.files {
            file.cut(&mut choose);
        }
        let State { files, capacity, syncs, writes, random, .. } = state;
        let (names_at_rest, entries) = (names.clone(), Vec::new());
        let state = State {
            files,
            names,
            names_at_rest,
            entries,
            capacity,
            syncs,
            writes,
            random,
            operations_left: None,
            syncs_left: None,
            hold_syncs: false,
        };
        let shared = Shared { state: Mutex::new(state), released: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }

    /// What the end of the process alone leaves, as another disk: everything, though not at rest.
    #[must_use]
    pub fn process_end(&self) -> Self {
        let mut state = self.shared.state.lock().clone();
        (state.operations_left, state.syncs_left, state.hold_syncs) = (None, None, false);
        Self { shared: Arc::new(Shared { state: Mutex::new(state), released: Condvar::new() }) }
    }

    /// With the `operations`th change from now on the power goes: it is done, not synced, and fails;
    /// and so does everything after it. Syncs count, too.
    pub fn power_off_after(&self, operations: u64) {
        self.shared.state.lock().operations_left = Some(operations);
    }

    /// After `syncs` more syncs all fail, and what they should have put at rest never is.
    pub fn fail_syncs_after(&self, syncs: u64) {
        self.shared.state.lock().syncs_left = Some(syncs);
    }

    /// Limits the bytes of all files together.
    pub fn set_capacity(&self, bytes: u64) {
        self.shared.state.lock().capacity = Some(bytes);
    }

    /// Holds back every sync from now on, or lets them go: a slow disk. Only for disks that are used
    /// by a thread of their own.
    pub fn hold_syncs(&self, hold: bool) {
        self.shared.state.lock().hold_syncs = hold;
        self.shared.released.notify_all();
    }

    /// How often a file was synced.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.shared.state.lock().syncs
    }

    /// How often a file was written to.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.shared.state.lock().writes
    }

    /// The bytes of a file, if it is there.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.shared.state.lock();
        state.names.get(name).map(|file| state.files[*file].bytes.clone())
    }

    /// Bit rot: turns one bit of a file over, at rest too.
    pub fn flip(&self, name: &str, bit: usize) {
        self.edit(name, |bytes| {
            if let Some(byte) = bytes.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        });
    }

    /// Makes a file shorter, at rest too.
    pub fn shorten(&self, name: &str, bytes: usize) {
        self.edit(name, |all| all.truncate(bytes));
    }

    /// Makes a file vanish, at rest too.
    pub fn lose(&self, name: &str) {
        let mut state = self.shared.state.lock();
        state.names.remove(name);
        state.names_at_rest.remove(name);
        state.entries.retain(|(entry, _)| entry != name);
    }

    fn edit(&self, name: &str, change: impl Fn(&mut Vec<u8>)) {
        let mut state = self.shared.state.lock();
        if let Some(file) = state.names.get(name).copied() {
            let SimulatedFile { bytes, at_rest, unsynced, .. } = &mut state.files[file];
            change(bytes);
            change(at_rest);
            unsynced.clear();
        }
    }
}

impl SimulatedFile {
    /// Bytes that it takes.
    fn held(&self) -> usize {
        self.bytes.len().saturating_sub(self.released)
    }

    fn write(&mut self, at: usize, piece: &[u8]) -> io::Result<()> {
        let end = at + piece.len();
        if end > self.bytes.len() {
            return Err(io::Error::other("a write beyond the file"));
        }
        self.bytes[at..end].copy_from_slice(piece);
        for sector in at / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let to = self.bytes.len().min((sector + 1) * SECTOR_BYTES);
            let form = self.bytes[sector * SECTOR_BYTES..to].to_vec();
            self.unsynced.entry(sector).or_default().push(form);
        }
        Ok(())
    }

    fn sync(&mut self) {
        self.at_rest.resize(self.bytes.len(), 0);
        for sector in std::mem::take(&mut self.unsynced).into_keys() {
            let from = sector * SECTOR_BYTES;
            let to = self.bytes.len().min(from + SECTOR_BYTES);
            self.at_rest[from..to].copy_from_slice(&self.bytes[from..to]);
        }
    }

    fn cut(&mut self, choose: &mut impl FnMut(usize) -> usize) {
        if self.at_rest.len() < self.bytes.len() && choose(2) == 1 {
            self.at_rest.resize(self.bytes.len(), 0);
        }
        for (sector, forms) in std::mem::take(&mut self.unsynced) {
            let (from, form) = (sector * SECTOR_BYTES, choose(forms.len() + 1));
            let form = form.checked_sub(1).map(|form| &forms[form]);
            if let Some(form) = form.filter(|form| from + form.len() <= self.at_rest.len()) {
                self.at_rest[from..from + form.len()].copy_from_slice(form);
            }
        }
        self.bytes = self.at_rest.clone();
    }
}

impl State {
    /// Whether the change that has just been made, or is about to be, still counts.
    fn count(&mut self) -> io::Result<()> {
        match &mut self.operations_left {
            None => Ok(()),
            Some(left) => {
                *left = left.saturating_sub(1);
                if *left == 0 { Err(io::Error::other("the power is off")) } else { Ok(()) }
            }
        }
    }

    fn powered(&self) -> io::Result<()> {
        if self.operations_left == Some(0) { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.powered()?;
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn free_bytes(&self) -> Option<u64> {
        let used: usize = self.names.values().map(|file| self.files[*file].held()).sum();
        self.capacity.map(|capacity| capacity.saturating_sub(used as u64))
    }
}

impl Disk for SimulatedDisk {
    type File = usize;

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/simulated").join(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.shared.state.lock();
        state.powered().map(|()| state.names.keys().cloned().collect())
    }

    fn create(&mut self, name: &str, bytes: u64) -> io::Result<usize> {
        let mut state = self.shared.state.lock();
        state.powered()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.free_bytes().is_some_and(|free| free < bytes) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let number = state.files.len();
        state.files.push(SimulatedFile { bytes: vec![0; bytes as usize], ..SimulatedFile::default() });
        state.names.insert(name.to_owned(), number);
        state.entries.push((name.to_owned(), Some(number)));
        state.count().map(|()| number)
    }

    fn open(&self, name: &str) -> io::Result<usize> {
        self.shared.state.lock().find(name)
    }

    fn length(&self, file: &usize) -> io::Result<u64> {
        Ok(self.shared.state.lock().files[*file].bytes.len() as u64)
    }

    fn read(&self, file: &usize, at: u64, into: &mut [u8]) -> io::Result<()> {
        let state = self.shared.state.lock();
        state.powered()?;
        let bytes = state.files[*file].bytes.get(at as usize..at as usize + into.len());
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&mut self, file: &mut usize, at: u64, pieces: &[Bytes]) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.powered()?;
        state.files[*file].write(at as usize, &pieces.concat())?;
        state.writes += 1;
        state.count()
    }

    fn sync(&mut self, file: &mut usize) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        while state.hold_syncs {
            self.shared.released.wait(&mut state);
        }
        state.powered()?;
        state.count()?;
        if let Some(left) = &mut state.syncs_left {
            if *left == 0 {
                // The pages are clean for the system, and will never be written.
                state.files[*file].unsynced.clear();
                return Err(io::Error::other("the disk does not sync"));
            }
            *left -= 1;
        }
        state.files[*file].sync();
        state.syncs += 1;
        Ok(())
    }

    fn release(&mut self, file: &mut usize, from: u64) -> io::Result<bool> {
        let mut state = self.shared.state.lock();
        state.powered()?;
        let file = &mut state.files[*file];
        let rest = file.bytes.len().saturating_sub(from as usize);
        file.write(from as usize, &vec![0; rest])?;
        file.released = rest;
        state.count().map(|()| true)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.find(name)?;
        state.names.remove(name);
        state.entries.push((name.to_owned(), None));
        state.count()
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.powered()?;
        state.count()?;
        state.entries.clear();
        state.names_at_rest = state.names.clone();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(self.shared.state.lock().free_bytes())
    }

    fn random(&mut self) -> io::Result<u64> {
        let mut state = self.shared.state.lock();
        // A step of SplitMix64.
        state.random = state.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state.random ^ state.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(mixed ^ mixed >> 31)
    }
}
