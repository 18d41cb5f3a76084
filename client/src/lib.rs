//! What applications import to use a Piculet log, and the QUIC glue that nodes share with them.
//!
//! [`Client`] is where everything starts: it creates and lists logs, makes the one [`LogWriter`]
//! of a log and any number of [`LogReader`]s. A client speaks to nodes alone: it needs neither the
//! metadata store nor object storage, but for writers of logs of durability [`Level::Object`], which
//! take the feature `object`. docs/CLIENT.md is the manual.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use piculet_client::transport::Identity;
//! use piculet_client::{Client, ClientOptions, LogName, ReadOptions, Start};
//!
//! let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(|file| std::path::Path::new("certs").join(file));
//! let options = ClientOptions::new(vec!["10.0.0.1:7781".to_owned()], Identity::load(&ca, &cert, &key)?);
//! let client = Client::connect(options).await?;
//! let log = LogName::new("orders")?;
//! client.create_log(&log).await?;
//!
//! let writer = client.open(&log).await?;
//! println!("safe at offset {}", writer.append("hello").await?);
//! writer.close().await?;
//!
//! let mut reader = client.read(&log, Start::Earliest, ReadOptions::default()).await?;
//! while let Some(entry) = reader.next().await {
//!     println!("{:?}", entry?.payload);
//! }
//! # Ok(())
//! # }
//! ```

mod change;
mod client;
mod entry;
mod error;
mod options;
mod ping;
mod pool;
mod reader;
mod record;
mod store;
mod takeover;
#[cfg(test)]
mod testing;
pub mod transport;
mod writer;

pub use change::LogOptions;
pub use client::{Client, LogDescription, NodeStatus};
pub use entry::{Entry, Item};
pub use error::Error;
pub use options::ClientOptions;
pub use piculet_quorum::headers::{Headers, HeadersError};
pub use piculet_quorum::ids::{
    Epoch, Incarnation, Index, Level, LogId, LogName, NodeId, Nonce, Offset, SegmentNumber, Timestamp,
};
pub use piculet_quorum::meta::{LogRecord, Versioned};
pub use piculet_quorum::producers::{LastAppend, Producer, ProducerId};
pub use piculet_quorum::recovery::RecoveryOptions;
pub use piculet_quorum::wire::message::{Nodes, Status};
pub use piculet_quorum::writer::WriterOptions;
pub use ping::{NodePing, Ping, ping_all};
pub use reader::{LogReader, ReadOptions, Start};
pub use record::{AppendOptions, Record};
pub use writer::{Append, LogWriter, WriterStatus};
#[cfg(feature = "object")]
pub use {piculet_storage::S3Options, store::StoreOptions};

/// The examples name the crate as applications do, and are tests of it too.
#[cfg(test)]
extern crate self as piculet_client;
#[cfg(test)]
mod examples;

/// The client that the README shows.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
