//! Why there are no settings.

use std::fmt;
use std::path::PathBuf;

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read settings from {}: {source}; check the path and its permissions", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is longer than any that holds settings.
    #[error("cannot read settings from {}: it is longer than {limit} bytes, expected a TOML file", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The longest that is read, in bytes.
        limit: u64,
    },
    /// The file is not TOML.
    #[error("settings in {} are not TOML: {source}", .path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// Settings that do not exist, are not set or have bad values: all of them.
    #[error("{}", Refusal::lines(.0))]
    Refused(Vec<Refusal>),
}

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where it stands: `node.toml:12`, a variable or a flag.
    pub place: String,
    /// The setting, or what was taken for one.
    pub key: String,
    /// What is wrong and what was expected.
    pub problem: String,
}

impl Refusal {
    fn lines(all: &[Self]) -> String {
        all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, key, problem } = self;
        write!(f, "{place}: {key} {problem}")
    }
}
