//! What applications import to use a Piculet log, and the QUIC glue that nodes share with them.
//!
//! [`Client`] is where everything starts: it creates and lists logs, makes the one [`LogWriter`]
//! of a log and any number of [`LogReader`]s. A client speaks to nodes alone: it needs neither the
//! metadata store nor object storage.

mod client;
mod entry;
mod error;
mod options;
mod pool;
mod reader;
mod record;
mod takeover;
#[cfg(test)]
mod testing;
pub mod transport;
mod writer;

pub use client::{Client, LogDescription, NodeStatus};
pub use entry::Entry;
pub use error::Error;
pub use options::ClientOptions;
pub use piculet_quorum::headers::{Headers, HeadersError};
pub use piculet_quorum::ids::{Epoch, LogId, LogName, NodeId, Offset, Timestamp};
pub use piculet_quorum::recovery::RecoveryOptions;
pub use piculet_quorum::wire::message::{Nodes, Status};
pub use piculet_quorum::writer::WriterOptions;
pub use reader::{LogReader, ReadOptions, Start};
pub use record::Record;
pub use writer::{Append, LogWriter, WriterStatus};

/// The client that the README shows.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
