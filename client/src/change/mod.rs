//! Changes of a log as a whole: each is one guarded transaction.
//!
//! A transaction of unknown outcome is repeated as it is until one outcome or the other is known. A
//! refused one means that something was read that is no longer so: it is read again.

mod create;
mod delete;
#[cfg(test)]
mod tests;
mod truncate;

pub use create::LogOptions;
pub(crate) use create::create_log;
pub(crate) use delete::delete_log;
pub(crate) use truncate::truncate_log;
