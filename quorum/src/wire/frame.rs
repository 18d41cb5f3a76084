//! Frames: a prefix, then a body whose form the prefix's kind gives. Numbers are little-endian.
//!
//! Prefix, 8 bytes:
//!
//! | bytes | field |
//! |---|---|
//! | 0 | kind, see [`Kind`] |
//! | 1..4 | 0 in this version |
//! | 4..8 | length of the body |
//!
//! Bodies of a fixed form begin with `log, segment, epoch` (8 bytes each), and go on with:
//!
//! | kind | 24.. |
//! |---|---|
//! | `Append` | commit (8), then one batch as [`batch`](crate::batch) describes |
//! | `Commit` | commit (8) |
//! | `Ack` | incarnation, tail, held (8 each) |
//! | `Archived` | incarnation, index (8 each) |
//! | `Data` | incarnation (8), then batches |
//! | `Mark` | incarnation, commit, writer tail, archived, end or `u64::MAX` while unknown (8 each), settled (8: 0 or 1), where a loss begins or `u64::MAX` (8) |
//!
//! `Request`, `Response`, `Open`, `Opened` and `Refused` are bincode.

use crate::batch::Place;
use crate::entry::u64_at;
use crate::ids::{Epoch, Incarnation, Index, LogId, SegmentNumber};
use crate::limits::{BATCH_BYTES_MAX, DATA_BYTES_TARGET, MESSAGE_BYTES_MAX};

/// Length of the prefix.
pub const PREFIX_BYTES: usize = 8;
/// Length of what precedes the batch in an `Append` frame, the prefix included.
pub const APPEND_HEAD_BYTES: usize = PREFIX_BYTES + 32;

/// What a frame is. The numbers are part of the wire format and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// First frame of a stream: what the client wants.
    Request = 1,
    /// Answer to a request.
    Response = 2,
    /// A writer names the segment that its next appends belong to.
    Open = 16,
    /// Answer to `Open`.
    Opened = 17,
    /// One batch to append.
    Append = 18,
    /// A commit mark that no append carried.
    Commit = 19,
    /// What a member holds.
    Ack = 20,
    /// A member refuses the appends of the segment from here on.
    Refused = 21,
    /// What is in object storage and recorded.
    Archived = 22,
    /// Batches for a reader.
    Data = 32,
    /// Watermarks for a reader.
    Mark = 33,
}

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No such kind in this version, or reserved bytes are used.
    #[error(
        "not a frame of piculet/1: its prefix is {0:02x?}, expected the number of a kind of frame and three zeros; the other side is of another version, or no piculet"
    )]
    Unknown([u8; PREFIX_BYTES]),
    /// The body is longer or shorter than its kind may be.
    #[error("a {kind:?} frame of {len} bytes, expected {} to {} bytes", .kind.lengths().start(), .kind.lengths().end())]
    Length {
        /// The kind.
        kind: Kind,
        /// The length.
        len: usize,
    },
    /// A frame of this kind has no place in this stream.
    #[error("a {kind:?} frame where none may come")]
    Misplaced {
        /// The kind.
        kind: Kind,
    },
    /// A field has a value that it cannot have.
    #[error("a {kind:?} frame has {value} where only 0 or 1 may be")]
    Value {
        /// The kind.
        kind: Kind,
        /// The value.
        value: u64,
    },
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        use Kind::*;
        [Request, Response, Open, Opened, Append, Commit, Ack, Refused, Archived, Data, Mark]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }

    fn lengths(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Request | Self::Response | Self::Open | Self::Opened | Self::Refused => {
                0..=MESSAGE_BYTES_MAX
            }
            Self::Append => 32..=32 + BATCH_BYTES_MAX,
            Self::Commit => 32..=32,
            Self::Ack => 48..=48,
            Self::Archived => 40..=40,
            Self::Data => 32..=32 + BATCH_BYTES_MAX + DATA_BYTES_TARGET,
            Self::Mark => 80..=80,
        }
    }
}

/// Encodes a prefix.
#[must_use]
pub fn prefix(kind: Kind, body_len: usize) -> [u8; PREFIX_BYTES] {
    debug_assert!(kind.lengths().contains(&body_len), "a {kind:?} frame of {body_len} bytes");
    let mut out = [0; PREFIX_BYTES];
    out[0] = kind as u8;
    out[4..8].copy_from_slice(&(body_len as u32).to_le_bytes());
    out
}

/// Decodes a prefix into the frame's kind and the length of its body.
///
/// # Errors
/// When this version has no such frame.
pub fn parse_prefix(bytes: &[u8; PREFIX_BYTES]) -> Result<(Kind, usize), FrameError> {
    let kind = Kind::from_number(bytes[0]).filter(|_| bytes[1..4] == [0; 3]);
    let kind = kind.ok_or(FrameError::Unknown(*bytes))?;
    let len = crate::entry::u32_at(bytes, 4) as usize;
    if !kind.lengths().contains(&len) {
        return Err(FrameError::Length { kind, len });
    }
    Ok((kind, len))
}

/// A frame with a bincode body, prefix included.
///
/// # Errors
/// When the message is too long.
pub fn message<T: serde::Serialize>(kind: Kind, body: &T) -> Result<Vec<u8>, super::codec::CodecError> {
    let body = super::codec::encode(body)?;
    let mut out = Vec::with_capacity(PREFIX_BYTES + body.len());
    out.extend_from_slice(&prefix(kind, body.len()));
    out.extend_from_slice(&body);
    Ok(out)
}

fn fixed<const N: usize>(kind: Kind, place: &Place, fields: &[u64]) -> [u8; N] {
    let mut out = [0; N];
    out[..PREFIX_BYTES].copy_from_slice(&prefix(kind, N - PREFIX_BYTES));
    put_fields(&mut out[PREFIX_BYTES..], place, fields);
    out
}

fn put_fields(out: &mut [u8], place: &Place, fields: &[u64]) {
    let head = [place.log.0, place.segment.0, place.epoch.0];
    for (slot, field) in out.chunks_exact_mut(8).zip(head.iter().chain(fields)) {
        slot.copy_from_slice(&field.to_le_bytes());
    }
}

/// The place that a body of a fixed form begins with.
#[must_use]
pub fn place(body: &[u8]) -> Place {
    Place {
        log: LogId(u64_at(body, 0)),
        segment: SegmentNumber(u64_at(body, 8)),
        epoch: Epoch(u64_at(body, 16)),
    }
}

/// All of an `Append` frame before the batch. `batch_len` is the batch's length with its header.
#[must_use]
pub fn append_head(place: &Place, commit: Index, batch_len: usize) -> [u8; APPEND_HEAD_BYTES] {
    let mut out = [0; APPEND_HEAD_BYTES];
    out[..PREFIX_BYTES].copy_from_slice(&prefix(Kind::Append, 32 + batch_len));
    put_fields(&mut out[PREFIX_BYTES..], place, &[commit.0]);
    out
}

/// A `Commit` frame.
#[must_use]
pub fn commit(place: &Place, commit: Index) -> [u8; PREFIX_BYTES + 32] {
    fixed(Kind::Commit, place, &[commit.0])
}

/// The commit mark in the first 32 bytes of the body of an `Append` or `Commit` frame.
#[must_use]
pub fn parse_commit(body: &[u8]) -> Index {
    Index(u64_at(body, 24))
}

/// What a member holds of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ack {
    /// The segment.
    pub place: Place,
    /// The life of the buffer that speaks.
    pub incarnation: Incarnation,
    /// The next index that it would store.
    pub tail: Index,
    /// The watermark that counts at the segment's level.
    pub held: Index,
}

impl Ack {
    /// The frame.
    #[must_use]
    pub fn encode(&self) -> [u8; PREFIX_BYTES + 48] {
        fixed(Kind::Ack, &self.place, &[self.incarnation.0, self.tail.0, self.held.0])
    }

    /// Reads the body of the frame, whose length the prefix has established.
    #[must_use]
    pub fn decode(body: &[u8]) -> Self {
        Self {
            place: place(body),
            incarnation: Incarnation(u64_at(body, 24)),
            tail: Index(u64_at(body, 32)),
            held: Index(u64_at(body, 40)),
        }
    }
}

/// An `Archived` frame: `index` and everything before it may be dropped by the writer.
#[must_use]
pub fn archived(place: &Place, incarnation: Incarnation, index: Index) -> [u8; PREFIX_BYTES + 40] {
    fixed(Kind::Archived, place, &[incarnation.0, index.0])
}

/// The index in the body of an `Archived` frame.
#[must_use]
pub fn parse_archived(body: &[u8]) -> Index {
    Index(u64_at(body, 32))
}

/// All of a `Data` frame before the batches, which have `len` bytes together.
#[must_use]
pub fn data_head(place: &Place, incarnation: Incarnation, len: usize) -> [u8; PREFIX_BYTES + 32] {
    let mut out = [0; PREFIX_BYTES + 32];
    out[..PREFIX_BYTES].copy_from_slice(&prefix(Kind::Data, 32 + len));
    put_fields(&mut out[PREFIX_BYTES..], place, &[incarnation.0]);
    out
}

/// Watermarks of a segment, for a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The segment.
    pub place: Place,
    /// The life of the buffer that speaks; 0 when the node is no member and only knows metadata.
    pub incarnation: Incarnation,
    /// Below it everything is committed.
    pub commit: Index,
    /// What it holds of the writer's own appends.
    pub writer_tail: Index,
    /// Below it everything is in object storage.
    pub archived: Index,
    /// Where the segment ends, if it is sealed.
    pub end: Option<Index>,
    /// Whether that end is safe, and so visible.
    pub settled: bool,
    /// From where to the end everything is lost, and never shown, if anything is.
    pub loss: Option<Index>,
}

impl Mark {
    /// The frame.
    #[must_use]
    pub fn encode(&self) -> [u8; PREFIX_BYTES + 80] {
        let end = self.end.map_or(u64::MAX, |end| end.0);
        let fields = [self.incarnation.0, self.commit.0, self.writer_tail.0, self.archived.0, end];
        let mut out: [u8; PREFIX_BYTES + 80] = fixed(Kind::Mark, &self.place, &fields);
        out[PREFIX_BYTES + 64] = u8::from(self.settled);
        let loss = self.loss.map_or(u64::MAX, |from| from.0);
        out[PREFIX_BYTES + 72..].copy_from_slice(&loss.to_le_bytes());
        out
    }

    /// Reads the body of the frame, whose length the prefix has established.
    ///
    /// # Errors
    /// When a field has a value that it cannot have.
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let settled = u64_at(body, 64);
        if settled > 1 {
            return Err(FrameError::Value { kind: Kind::Mark, value: settled });
        }
        let known = |index: u64| (index != u64::MAX).then_some(Index(index));
        Ok(Self {
            place: place(body),
            incarnation: Incarnation(u64_at(body, 24)),
            commit: Index(u64_at(body, 32)),
            writer_tail: Index(u64_at(body, 40)),
            archived: Index(u64_at(body, 48)),
            end: known(u64_at(body, 56)),
            settled: settled == 1,
            loss: known(u64_at(body, 72)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACE: Place = Place { log: LogId(1), segment: SegmentNumber(2), epoch: Epoch(3) };

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn the_bytes_of_frames_are_fixed() {
        let place = "010000000000000002000000000000000300000000000000";
        assert_eq!(hex(&commit(&PLACE, Index(4))), format!("1300000020000000{place}0400000000000000"));
        assert_eq!(
            hex(&append_head(&PLACE, Index(4), 100)),
            format!("1200000084000000{place}0400000000000000")
        );
        let ack = Ack { place: PLACE, incarnation: Incarnation(5), tail: Index(7), held: Index(6) };
        let tail = "050000000000000007000000000000000600000000000000";
        assert_eq!(hex(&ack.encode()), format!("1400000030000000{place}{tail}"));
        let tail = "05000000000000000800000000000000";
        assert_eq!(
            hex(&archived(&PLACE, Incarnation(5), Index(8))),
            format!("1600000028000000{place}{tail}")
        );
        assert_eq!(
            hex(&data_head(&PLACE, Incarnation(5), 9)),
            format!("2000000029000000{place}0500000000000000")
        );
        let mark = Mark {
            place: PLACE,
            incarnation: Incarnation(5),
            commit: Index(1),
            writer_tail: Index(2),
            archived: Index(3),
            end: Some(Index(9)),
            settled: true,
            loss: Some(Index(4)),
        };
        let numbers = [5, 1, 2, 3, 9, 1, 4].map(|n| format!("{n:02x}00000000000000")).concat();
        assert_eq!(hex(&mark.encode()), format!("2100000050000000{place}{numbers}"));
    }

    #[test]
    fn marks_and_acks_come_back() {
        let ack = Ack { place: PLACE, incarnation: Incarnation(5), tail: Index(7), held: Index(6) };
        assert_eq!(Ack::decode(&ack.encode()[PREFIX_BYTES..]), ack);
        for (end, settled, loss) in
            [(None, false, None), (Some(Index(9)), true, None), (Some(Index(9)), false, Some(Index(3)))]
        {
            let (incarnation, commit, writer_tail, archived) = (Incarnation(5), Index(1), Index(2), Index(3));
            let mark = Mark { place: PLACE, incarnation, commit, writer_tail, archived, end, settled, loss };
            assert_eq!(Mark::decode(&mark.encode()[PREFIX_BYTES..]), Ok(mark));
        }
    }

    proptest! {
        #[test]
        fn any_prefix_is_refused_or_within_its_limits(bytes: [u8; PREFIX_BYTES]) {
            if let Ok((kind, len)) = parse_prefix(&bytes) {
                prop_assert_eq!(prefix(kind, len), bytes);
            }
        }
    }
}
