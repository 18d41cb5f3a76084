//! Chaos on live processes: faults at random moments while clients write and read, a history of
//! what they saw, and a check of the whole history afterwards. And in [`sim`] the same state
//! machines in simulated clusters, thousands of them.
//!
//! | question | where |
//! |---|---|
//! | what happened, as a file of JSON lines | [`history`] |
//! | was it as it must be | [`check`] |
//! | nodes are killed, one at a time | [`kill`] |
//! | the processes and what is asked of them | `site` |
//! | who writes, and who reads | `clients` |

pub mod check;
mod clients;
pub mod history;
pub mod kill;
mod random;
pub mod sim;
mod site;

use std::fmt::Display;

/// Why a scenario has failed, for whoever runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}
