//! A simulated cluster: the shipped state machines (writers, replicas, takeovers, archivers,
//! cursors) over a network, a metadata store, an object store and disks that misbehave, in one
//! thread, without sockets and clocks. One seed gives one run. The invariants of the protocol are
//! checked after every event; at the end the faults stop, and everything must catch up.
//!
//! | question | where |
//! |---|---|
//! | what goes wrong, and when | `schedule`; carried out in `faults` |
//! | what must hold | `checks`, `outcomes` |
//! | the faults stop, and who is left then | `healing` |
//! | a node's process; what it has at rest | `node`, `life`; `rest`, and behind it the shipped buffer of level `memory` in `memory`, the shipped journal of level `disk` in `journal` |
//! | writers and takeovers; a log without a writer | `client`, `appender`, `takeover`; `abandoned` |
//! | readers, and where the tail is; uploads; trims | `reader`, `tail`; `upload`; `trims` |
//! | losses, and what may then be missing | `loss` |
//! | the metadata store and its watches | `store` |
//! | a failing schedule is made shorter | `shorten` |

mod abandoned;
mod appender;
mod checks;
mod client;
mod events;
mod faults;
mod healing;
mod journal;
mod life;
mod loss;
mod memory;
mod node;
mod outcomes;
mod reader;
mod rest;
mod rng;
mod run;
mod schedule;
mod shorten;
mod store;
mod tail;
mod takeover;
mod tally;
mod trims;
mod upload;
mod world;

pub use run::{KEPT_SEEDS, SimOptions, first_that_fails, run, trace};
