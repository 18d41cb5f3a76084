//! A node's settings, and those of commands that talk to nodes.
//!
//! [`node`] and [`client`] hold the tables of what can be set; how files, variables and flags
//! come together is in [`settings`](crate::settings).

pub mod client;
mod form;
pub mod node;
#[cfg(test)]
mod tests;

pub use client::ClientConfig;
pub(crate) use form::is_filter;
pub use node::{DiskConfig, NodeConfig, PasswordError};

use crate::settings::{Settings, doc};
use piculet_client::transport::TransportOptions;
use piculet_quorum::recovery::RecoveryOptions;

/// What comes before the tables in docs/CONFIGURATION.md.
const INTRODUCTION: &str = "\
# Configuration
This page is what `piculet config doc` prints; a test compares the two.

Settings come from a TOML file, from the environment and from flags. A flag overrides a variable, a variable the file, and
the file the default. `piculet config show` prints every setting, its value and where it came from.

| | nodes | commands that talk to nodes |
|---|---|---|
| file | `piculet node --config FILE` | `--client-config FILE`, or `PICULET_CLIENT_CONFIG` |
| variable of `flush.max_interval`, `read_timeout` | `PICULET_NODE_FLUSH_MAX_INTERVAL` | `PICULET_READ_TIMEOUT` |
| flag | `--set KEY=VALUE`; `--name`, `--listen`, `--admin` | `--set KEY=VALUE`; `--nodes`, `--certs`, `--identity`, `--max-datagram`, and `--store` of `append` |
| show | `piculet config show --config FILE` | `piculet config show --client --config FILE` |

* The file is optional when everything that is required is given elsewhere.
* A dot in a setting's name leads into a table of the file: `flush.max_interval` is `max_interval` under `[flush]`.
* A size is an integer of bytes, or a text with a unit: `\"1GiB\"`, `\"256KiB\"`; B, KiB, MiB, GiB and TiB are known.
* A time is an integer of milliseconds, or a text with a unit: `\"500ms\"`, `\"10min\"`; ms, s, min and h are known.
* A list is a list in the file, and separated by commas in a variable or flag.
* A relative path in the file is relative to the file, any other to the working directory.
* Unknown settings and bad values are refused, all of them at once, and the command ends with code 2. Unknown variables that
  begin with `PICULET_NODE_` are refused as well; others are not, but a command that talks to nodes warns about one that is
  almost a setting's.
";

/// The transport, from the settings of these keys.
fn transport(settings: &Settings, max_datagram: &str, keep_alive: &str) -> TransportOptions {
    let max_datagram =
        u16::try_from(settings.bytes(max_datagram)).expect("its bounds are those of the transport");
    TransportOptions { max_datagram, keep_alive: settings.time(keep_alive), ..TransportOptions::default() }
}

fn recovery(settings: &Settings) -> RecoveryOptions {
    RecoveryOptions {
        grace: settings.time("recovery.grace").into(),
        silence: settings.time("recovery.silence").into(),
    }
}

/// What docs/CONFIGURATION.md says.
#[must_use]
pub fn document() -> String {
    let node = doc::section("Nodes", node::INTRODUCTION, &node::SCHEMA);
    let client = doc::section("Commands that talk to nodes", client::INTRODUCTION, &client::SCHEMA);
    format!("{INTRODUCTION}\n{node}\n{client}")
}
