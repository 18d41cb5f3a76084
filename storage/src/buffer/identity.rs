//! Who a buffer directory belongs to, and which life its contents are of: one small file, put at
//! rest as a whole.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | `PICULETI` |
//! | 8..12 | version, 1 |
//! | 12..16 | bit 0: a life was adopted; bit 1: a swap is unfinished |
//! | 16..32 | cluster |
//! | 32..40, 40..56 | incarnation and nonce of the life that was adopted last |
//! | 56..64, 64..80 | incarnation and nonce of the unfinished swap |
//! | 80..88 | where the directory was adopted: at level `memory` the id of its file system, at `disk` when it was made, in nanoseconds since 1970, 0 when nobody knows |
//! | 88..96 | its inode there |
//! | 96..112 | boot of the machine in which it was adopted; at level `disk` zeros |
//! | 112..116 | CRC32C of bytes 0..112 |
//!
//! All numbers are little-endian; what is absent is zeros.

use super::dir::{BufferDir, Sync};
use super::{BufferError, Damage};
use piculet_quorum::ids::{Incarnation, Nonce};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Its name in the directory.
const FILE: &str = "identity";
const MAGIC: &[u8; 8] = b"PICULETI";
const VERSION: u32 = 1;
const BYTES: usize = 116;

/// A life of a buffer: its incarnation, and the value of the start that began it.
pub(crate) type Life = (Incarnation, Nonce);

/// What proves that a directory is where it was, at level `memory` on a machine that was not started
/// again.
///
/// The id of a file system may follow from the number of its device, which is another after a start
/// of the machine: only within one boot does it say anything. So at level `disk`, where boots do not
/// count, the time at which the directory was made takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) origin: u64,
    pub(crate) inode: u64,
    pub(crate) boot: Boot,
}

impl Proof {
    /// What is wrong when this was recorded for a directory that is at `path`, as `now` says.
    pub(crate) fn damage(&self, now: &Self, path: &Path) -> Option<Damage> {
        let path = path.to_owned();
        if !self.same_place(now) {
            return Some(Damage::OtherDirectory { path, found: self.place(), now: now.place() });
        }
        (self.boot != now.boot).then(|| Damage::OtherBoot {
            path,
            found: self.boot.to_string().into(),
            expected: now.boot.to_string().into(),
        })
    }

    fn same_place(&self, now: &Self) -> bool {
        // Not every file system knows when a directory was made.
        let unknown = now.boot == Boot::ANY && (self.origin == 0 || now.origin == 0);
        self.inode == now.inode && (unknown || self.origin == now.origin)
    }

    fn place(&self) -> Arc<str> {
        let Self { origin, inode, boot } = self;
        if *boot == Boot::ANY {
            format!("inode {inode}, made {origin} ns after 1970").into()
        } else {
            format!("inode {inode} of file system {origin:#018x}").into()
        }
    }
}

/// One boot of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boot(pub(crate) u128);

impl Boot {
    /// Stands for all of them at level `disk`, for a disk outlives them.
    pub(crate) const ANY: Self = Self(0);

    /// The boot that the machine is in.
    pub(crate) fn now() -> Result<Self, BufferError> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let failed = |source| BufferError::Io {
            path: path.to_owned(),
            action: "read the boot id for the life",
            source,
        };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        let id = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32);
        id.map(Self)
            .ok_or_else(|| failed(io::Error::new(io::ErrorKind::InvalidData, format!("found {text:?}"))))
    }
}

impl std::fmt::Display for Boot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: Nonce,
    /// The life that the contents are of.
    pub(crate) adopted: Option<Life>,
    /// A swap that was begun.
    pub(crate) unfinished: Option<Life>,
    /// As it was when the life was adopted.
    pub(crate) proof: Proof,
}

impl Identity {
    /// Reads the file; `None` when there is none, and the damage when it is not whole.
    pub(crate) fn read(dir: &BufferDir) -> Result<Result<Option<Self>, Damage>, BufferError> {
        let Some(bytes) = dir.read(FILE)? else { return Ok(Ok(None)) };
        let damaged = |what: String| Damage::File { path: dir.file(FILE), offset: 0, what };
        let Some(bytes) = bytes.first_chunk::<BYTES>().filter(|_| bytes.len() == BYTES) else {
            return Ok(Err(damaged(format!("it has {} bytes, expected {BYTES}", bytes.len()))));
        };
        if &bytes[0..8] == MAGIC
            && let found = u32_at(bytes, 8)
            && found > VERSION
        {
            return Err(BufferError::Version { path: dir.file(FILE), found, expected: VERSION });
        }
        Ok(Self::decode(bytes).map(Some).map_err(damaged))
    }

    /// Puts it at rest.
    pub(crate) fn write(&self, dir: &BufferDir) -> Result<(), BufferError> {
        dir.replace(FILE, &self.encode(), Sync::Yes).map(drop)
    }

    fn encode(&self) -> [u8; BYTES] {
        let mut out = [0; BYTES];
        let flags = u32::from(self.adopted.is_some()) | u32::from(self.unfinished.is_some()) << 1;
        out[0..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&flags.to_le_bytes());
        out[16..32].copy_from_slice(&self.cluster.0.to_le_bytes());
        for (at, life) in [(32, self.adopted), (56, self.unfinished)] {
            let (incarnation, nonce) = life.unwrap_or((Incarnation(0), Nonce(0)));
            out[at..at + 8].copy_from_slice(&incarnation.0.to_le_bytes());
            out[at + 8..at + 24].copy_from_slice(&nonce.0.to_le_bytes());
        }
        out[80..88].copy_from_slice(&self.proof.origin.to_le_bytes());
        out[88..96].copy_from_slice(&self.proof.inode.to_le_bytes());
        out[96..112].copy_from_slice(&self.proof.boot.0.to_le_bytes());
        let crc = crc32c::crc32c(&out[..112]);
        out[112..116].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; BYTES]) -> Result<Self, String> {
        let (found, expected) = (u32_at(bytes, 112), crc32c::crc32c(&bytes[..112]));
        if found != expected {
            return Err(format!("its checksum is {found:#010x}, expected {expected:#010x}"));
        }
        if &bytes[0..8] != MAGIC || u32_at(bytes, 8) != VERSION {
            return Err("it does not begin as the identity of a buffer does".to_owned());
        }
        let flags = u32_at(bytes, 12);
        let life = |bit: u32, at: usize| {
            (flags & bit != 0).then(|| (Incarnation(u64_at(bytes, at)), Nonce(u128_at(bytes, at + 8))))
        };
        let proof =
            Proof { origin: u64_at(bytes, 80), inode: u64_at(bytes, 88), boot: Boot(u128_at(bytes, 96)) };
        Ok(Self { cluster: Nonce(u128_at(bytes, 16)), adopted: life(1, 32), unfinished: life(2, 56), proof })
    }
}

fn u32_at(bytes: &[u8; BYTES], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("four bytes within the file"))
}

fn u64_at(bytes: &[u8; BYTES], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("eight bytes within the file"))
}

fn u128_at(bytes: &[u8; BYTES], at: usize) -> u128 {
    u128::from_le_bytes(*bytes[at..].first_chunk().expect("sixteen bytes within the file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        cluster: Nonce(0xc),
        adopted: Some((Incarnation(7), Nonce(0xa))),
        unfinished: Some((Incarnation(8), Nonce(0xb))),
        proof: Proof { origin: 0xf5, inode: 0x10de, boot: Boot(0xb007) },
    };

    const GOLDEN: &str = concat!(
        "504943554c45544901000000030000000c000000000000000000000000000000",
        "07000000000000000a000000000000000000000000000000",
        "08000000000000000b000000000000000000000000000000",
        "f500000000000000de1000000000000007b00000000000000000000000000000b25c5968",
    );

    #[test]
    fn the_bytes_of_an_identity_are_fixed_and_come_back() {
        let bytes = IDENTITY.encode();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN);
        assert_eq!(Identity::decode(&bytes), Ok(IDENTITY));
        let bare = Identity { adopted: None, unfinished: None, ..IDENTITY };
        assert_eq!(Identity::decode(&bare.encode()), Ok(bare));
    }

    #[test]
    fn a_directory_is_known_by_what_outlives_its_level() {
        let path = Path::new("dir");
        let other = |proof: Proof, now: Proof| match proof.damage(&now, path) {
            None => false,
            Some(Damage::OtherDirectory { .. }) => true,
            Some(damage) => panic!("{damage}"),
        };
        for boot in [Boot(7), Boot::ANY] {
            let proof = Proof { origin: 5, inode: 6, boot };
            assert!(!other(proof, proof));
            assert!(other(proof, Proof { origin: 4, ..proof }));
            assert!(other(proof, Proof { inode: 4, ..proof }));
            let unknown = Proof { origin: 0, ..proof };
            assert_eq!(other(proof, unknown), boot != Boot::ANY);
            assert_eq!(other(unknown, proof), boot != Boot::ANY);
            assert!(other(unknown, Proof { inode: 4, ..proof }));
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        for bit in 0..BYTES * 8 {
            let mut bytes = IDENTITY.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_file_of_a_later_version_is_refused_and_a_short_one_is_damage() {
        let place = tempfile::tempdir().unwrap();
        let dir = BufferDir::open(place.path()).unwrap();
        assert_eq!(Identity::read(&dir).unwrap(), Ok(None));
        let mut later = IDENTITY.encode();
        later[8] = 2;
        std::fs::write(place.path().join(FILE), later).unwrap();
        let error = Identity::read(&dir).unwrap_err();
        assert!(matches!(error, BufferError::Version { found: 2, expected: 1, .. }), "{error}");
        std::fs::write(place.path().join(FILE), &IDENTITY.encode()[1..]).unwrap();
        assert!(matches!(Identity::read(&dir).unwrap(), Err(Damage::File { .. })));
        IDENTITY.write(&dir).unwrap();
        assert_eq!(Identity::read(&dir).unwrap(), Ok(Some(IDENTITY)));
    }

    #[test]
    fn the_machine_says_which_boot_it_is() {
        assert_eq!(Boot::now().unwrap(), Boot::now().unwrap());
        assert_ne!(Boot::now().unwrap(), Boot(0));
    }
}
