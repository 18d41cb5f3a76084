//! The harness of the integration tests: real node processes, a real etcd, a real S3 server.
//!
//! A test runs its body with [`with_stage`] on a cluster of its own. What every helper waits for
//! has a bound; what does not happen is a panic that says so, as tests want it.

mod appender;
mod command;
mod entries;
mod ledger;
mod relay;
mod services;
mod stage;
mod wait;

pub use appender::Appender;
pub use command::{Ran, command, run_piculet};
pub use entries::payload;
pub use ledger::Ledger;
pub use relay::Relay;
pub use services::Services;
pub use stage::{Setup, Stage, StoreKind, check_log, read_all, with_stage};
pub use wait::{PATIENCE, bounded, signal, until};
