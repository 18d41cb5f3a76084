//! The Piculet node and the `piculet` command.
//!
//! | question | where |
//! |---|---|
//! | how does a node start, run and stop | [`node`], settings in [`config`] and [`settings`] |
//! | what do its parts share | [`core`], the table of logs in [`logs`] |
//! | how does it belong to a cluster | [`membership`] |
//! | what does it know of the metadata | [`view`] |
//! | how do entries get into object storage | [`archive`]; with what table of producers, `producers` |
//! | who seals a log whose writer has gone | [`abandoned`], through [`peers`] |
//! | which members are lost | [`lives`] |
//! | who deletes what was trimmed or deleted | [`cleanup`] |
//! | who serves clients | [`server`] |
//! | what does the command line do | [`cli`], [`bench`], [`demo`] |
//! | who starts processes on one machine | [`local`] |
//! | who answers operators | [`admin`], [`status`], [`metrics`] |

pub mod abandoned;
pub mod admin;
pub mod archive;
pub mod bench;
pub mod certs;
pub mod cleanup;
pub mod cli;
pub mod config;
pub mod core;
pub mod demo;
pub mod health;
pub mod lives;
pub mod local;
pub mod logs;
pub mod membership;
pub mod metrics;
pub mod node;
mod open;
pub mod peers;
mod producers;
mod progress;
mod rank;
pub mod server;
pub mod settings;
pub mod status;
mod usage;
pub mod view;

#[cfg(test)]
mod fixture;
