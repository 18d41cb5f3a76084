//! Settings from a TOML file, the environment and the command line, in rising priority.
//!
//! A [`Schema`] is the only source of what there is to set: it drives parsing, the names of the
//! environment variables, `piculet config show`, docs/CONFIGURATION.md and every refusal.
//!
//! | question | where |
//! |---|---|
//! | what forms may a value have | [`value`] |
//! | how is a file taken apart | [`file`] |
//! | which source wins | [`load`] |
//! | why was something refused | [`error`] |
//! | what does the document say | [`doc`] |

pub mod doc;
pub mod error;
mod file;
mod load;
mod suggest;
#[cfg(test)]
mod tests;
pub mod value;

pub use error::{Refusal, SettingsError};
pub use load::{Flag, Origin, Settings, Sources};
pub use value::{Form, Kind, Value};

use serde::Serialize;
use std::time::Duration;

/// Everything that can be set for one kind of process.
#[derive(Debug)]
pub struct Schema {
    /// What is set: `node` or `client`.
    pub subject: &'static str,
    /// What the names of its environment variables begin with.
    pub prefix: &'static str,
    /// Whether nothing else has variables with that prefix, so that an unknown one is an error.
    pub owns_prefix: bool,
    /// Variables with that prefix that have another purpose.
    pub foreign: &'static [&'static str],
    /// The settings, in the order in which they are shown.
    pub settings: &'static [Setting],
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its name in the file and after `--set`; a dot leads into a table of the file.
    pub key: &'static str,
    /// What values it has.
    pub kind: Kind,
    /// What holds when nothing is said.
    pub default: Fallback,
    /// What it is for, in one line.
    pub about: &'static str,
}

/// What holds when no source says anything.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// Some source must.
    Required,
    /// There is no value; the text says what that means.
    Unset(&'static str),
    /// A text, in the form that a file would have.
    Text(&'static str),
    /// A number of bytes.
    Bytes(u64),
    /// A length of time.
    Time(Duration),
    /// Yes or no.
    Switch(bool),
}

/// One line of `piculet config show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SettingRow {
    /// The setting.
    pub key: &'static str,
    /// Its value, in a form that a file may have, passwords in URLs masked; none when it is unset.
    pub value: Option<String>,
    /// Where it came from: `default`, `FILE:LINE`, a variable or a flag.
    pub source: String,
}

impl Setting {
    /// The name of its environment variable: `flush.max_interval` is `…FLUSH_MAX_INTERVAL`.
    #[must_use]
    pub fn variable(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.key.replace('.', "_").to_uppercase())
    }
}

impl Schema {
    fn position(&self, key: &str) -> Option<usize> {
        self.settings.iter().position(|setting| setting.key == key)
    }

    /// Whether the key is that of a table with settings in it.
    fn is_table(&self, key: &str) -> bool {
        self.in_table(key).next().is_some()
    }

    /// The keys of all settings in a table.
    fn in_table(&self, key: &str) -> impl Iterator<Item = &'static str> {
        let within = move |full: &&str| full.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
        self.settings.iter().map(|setting| setting.key).filter(within)
    }
}
