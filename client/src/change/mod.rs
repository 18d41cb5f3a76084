//! Changes of a log as a whole: each is one guarded transaction.
//!
//! A transaction of unknown outcome is repeated as it is until one outcome or the other is known. A
//! refused one means that something was read that is no longer so: it is read again.

mod configure;
mod create;
mod declare;
mod delete;
#[cfg(test)]
mod tests;
mod truncate;

pub(crate) use configure::set_allow_loss;
pub use create::LogOptions;
pub(crate) use create::create_log;
pub(crate) use declare::declare_lost;
pub(crate) use delete::delete_log;
pub(crate) use truncate::truncate_log;
