//! Bytes at rest: a node's memory buffer, and objects.
//!
//! A node keeps the entries of a segment in a [`SegmentBuffer`], over chunks that a bounded
//! [`Arena`] lends it; at level `disk` in a [`journal`] as well. What is committed is written as a [`part`], an object that describes itself,
//! to one of the stores behind [`Objects`]; [`names`] says what its object is called.

#![deny(unsafe_code)]

mod arena;
mod batches;
mod buffer;
#[cfg(test)]
mod fixture;
mod frames;
pub mod journal;
#[expect(unsafe_code, reason = "the shared mapping, and system calls that have no safe form")]
mod mapping;
mod objects;
mod reopen;
mod segment_buffer;
mod slots;
mod stores;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod limits;
pub mod names;
pub mod part;
#[cfg(any(test, feature = "conformance"))]
pub mod simulated;

pub use arena::{Arena, ArenaOptions, Full};
pub use batches::RowError;
pub use buffer::{
    Buffer, BufferError, Contents, Damage, DiskOptions, Found, KeptSegment, Leftover, Position, Synced,
};
pub use frames::Run;
pub use names::PartName;
pub use objects::{ListedPart, ObjectError, Objects, Probe, Put};
pub use part::{EncodedPart, Part, PartError, PartHeader};
pub use segment_buffer::SegmentBuffer;
pub use stores::{S3Options, StoreError};
