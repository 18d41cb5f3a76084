//! The protocol of the Piculet log, without a socket, a file, a clock or a random source.
//!
//! Every decision that safety rests on is made here, by state machines that are driven from
//! outside: the writer of a log ([`writer`]), a node's side of it ([`replica`]), a takeover
//! ([`recovery`]), what became of a replaced writer's entries ([`outcome`]), a reader's place
//! ([`cursor`]), which append is a repetition ([`producers`]) and the upload of parts ([`archiver`]). The same machines run in production and under
//! test. [`liveness`] judges whether a writer has gone, and [`glossary`] defines the watermarks that
//! all of them share.

pub mod archiver;
pub mod batch;
pub mod cursor;
pub mod entry;
pub mod glossary;
pub mod headers;
pub mod ids;
pub mod limits;
pub mod liveness;
pub mod meta;
pub mod outcome;
pub mod producers;
pub mod quorums;
pub mod recovery;
pub mod replica;
pub mod time;
pub mod wire;
pub mod writer;
