//! How a command fails: a message for people, a code for scripts, and an exit code for shells.

use super::Output;
use super::output::say;
use crate::local::LocalError;
use crate::node::NodeError;
use crate::settings::SettingsError;
use piculet_client::Error;
use piculet_client::transport::TlsError;
use serde::Serialize;
use std::any::Any;
use std::fmt::Display;

/// A command's failure, as its user reads it.
#[derive(Debug, Serialize)]
pub struct Failure {
    code: &'static str,
    message: String,
}

/// What an error code means to a shell: the exit code, what it stands for, and the error codes that
/// lead to it. Every other error code leads to [`FAILED`].
pub(super) const EXITS: [(u8, &str, &[&str]); 12] = [
    (2, "wrong use of the command line or a wrong setting", &["usage", "settings", "setting", "bad-address"]),
    (3, "there is no such log, or it has been deleted", &["not-found", "deleted"]),
    (4, "there is a log of that name already", &["already-exists"]),
    (5, "a live writer holds the log, or another took it over", &["held", "fenced"]),
    (6, "the offset is trimmed, or beyond the tail", &["trimmed", "beyond-tail"]),
    (7, "no node answers, or too few", &["no-node", "unresolved-host", "takeover-failed"]),
    (
        8,
        "refused for good: certificate, version, cluster",
        &["certificate", "protocol-version", "wrong-cluster"],
    ),
    (9, "the outcome is not known: look before trying again", &["unknown-outcome"]),
    (10, "data is damaged or lost, or copies differ", &["damaged", "lost", "alarm"]),
    (11, "the nodes are overloaded: try again later", &["overloaded"]),
    (12, "the node's disk failed: replace it before the node is started again", &["buffer-failed"]),
    (13, "the log does not end at the offset that was expected", &["offset-mismatch"]),
];

/// The exit code of every failure that has none of its own.
pub(super) const FAILED: u8 = 1;

/// The form of a failure under `--output json`.
#[derive(Serialize)]
struct Document<'a> {
    error: &'a Failure,
}

impl Failure {
    /// A failure with a code of its own.
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The command line asks for something that makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new("usage", message)
    }

    /// The same failure, with more to its message.
    #[must_use]
    pub(crate) fn with(mut self, more: &str) -> Self {
        self.message.push_str("; ");
        self.message.push_str(more);
        self
    }

    /// What shells get.
    pub(super) fn exit_code(&self) -> u8 {
        let exit = EXITS.iter().find(|(_, _, codes)| codes.contains(&self.code));
        exit.map_or(FAILED, |(exit, ..)| *exit)
    }

    /// What people read.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// What programs tell it by.
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    /// Says it on the standard error.
    pub(super) fn report(&self, output: Output) {
        let line = match output {
            Output::Text => format!("piculet: {}", self.message),
            Output::Json => serde_json::to_string(&Document { error: self }).expect("it is plain text"),
        };
        say(&line);
    }
}

impl<E: Display + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: code(&error), message: error.to_string() }
    }
}

/// Commands meet errors of many kinds; those that scripts must tell apart have codes.
fn code(error: &dyn Any) -> &'static str {
    if let Some(error) = error.downcast_ref::<Error>() {
        return error.code();
    }
    if let Some(NodeError::BufferFailed { .. }) = error.downcast_ref() {
        return "buffer-failed";
    }
    if error.is::<TlsError>() {
        return "certificate";
    }
    if error.is::<SettingsError>() {
        return "settings";
    }
    if error.is::<LocalError>() {
        return "local";
    }
    if error.is::<std::io::Error>() {
        return "io";
    }
    "failed"
}

#[cfg(test)]
mod tests {
    use super::*;
    use piculet_quorum::ids::Offset;
    use std::collections::BTreeSet;

    #[test]
    fn exit_codes_are_distinct_and_each_error_code_has_one() {
        let exits: BTreeSet<u8> = EXITS.iter().map(|(exit, ..)| *exit).chain([0, FAILED]).collect();
        assert_eq!(exits.len(), EXITS.len() + 2);
        let codes: Vec<&str> = EXITS.iter().flat_map(|(_, _, codes)| codes.iter().copied()).collect();
        assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), codes.len());
    }

    #[test]
    fn errors_keep_their_code_and_message() {
        let gone = Failure::from(Error::Trimmed { trim_offset: Offset(7) });
        assert_eq!((gone.code, gone.exit_code()), ("trimmed", 6));
        let plain = Failure::from("it rains");
        assert_eq!((plain.code, plain.exit_code(), &*plain.message), ("failed", FAILED, "it rains"));
        let more = Failure::usage("no").with("twice no");
        assert_eq!((more.exit_code(), &*more.message), (2, "no; twice no"));
        let document = serde_json::to_string(&Document { error: &more }).expect("it is text");
        assert_eq!(document, r#"{"error":{"code":"usage","message":"no; twice no"}}"#);
    }
}
