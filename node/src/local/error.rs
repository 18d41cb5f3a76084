//! Why a local process cannot be started, reached or stopped.

use crate::certs::CertError;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why a local process cannot be started, reached or stopped.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The operating system refuses something.
    #[error("cannot {action} {what}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        what: String,
        /// What the system says.
        source: io::Error,
    },
    /// A program that is needed is nowhere to be found.
    #[error(
        "no program {name:?} in {variable}, in .tools of this directory or one above, or on the PATH: \
         run `make setup` in Piculet's source directory, or install it and name it in {variable}"
    )]
    NoTool {
        /// The program.
        name: &'static str,
        /// The environment variable that may name it.
        variable: &'static str,
    },
    /// An environment variable names a program that is none.
    #[error("{variable} names {}, which is not an executable file: correct or unset it", path.display())]
    BadTool {
        /// The environment variable.
        variable: &'static str,
        /// What it names.
        path: PathBuf,
    },
    /// Every port that was tried is taken.
    #[error("no free port on 127.0.0.1 from {from} to {to}: stop something that listens there")]
    NoPort {
        /// The first port tried.
        from: u16,
        /// The last port tried.
        to: u16,
    },
    /// A process has ended that should be running.
    #[error("{process} has ended ({status}); its log {} ends with:\n{lines}", log.display())]
    Ended {
        /// Its name.
        process: String,
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        lines: String,
    },
    /// A process does not do what was awaited.
    #[error("{process} did not {awaited} within {} s; its log {} ends with:\n{lines}", limit.as_secs(), log.display())]
    TimedOut {
        /// Its name.
        process: String,
        /// What was awaited of it.
        awaited: &'static str,
        /// For how long.
        limit: Duration,
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        lines: String,
    },
    /// An HTTP server does not answer as one.
    #[error("http://{from} gave no proper answer: {why}")]
    Http {
        /// Address and path.
        from: String,
        /// What is wrong.
        why: String,
    },
    /// A node is asked for that the cluster does not have, or that is not as it must be.
    #[error("node {node} {state}")]
    Node {
        /// Its name or number.
        node: String,
        /// What stands in the way.
        state: &'static str,
    },
    /// Certificates cannot be made.
    #[error(transparent)]
    Certs(#[from] CertError),
}

impl LocalError {
    /// For `map_err`: what was tried, and on what.
    pub(super) fn io(action: &'static str, what: impl ToString) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Io { action, what, source }
    }
}
