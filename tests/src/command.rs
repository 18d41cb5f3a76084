//! The `piculet` command, as a user runs it.

use crate::bounded;
use piculet_node::local::tools;
use std::ffi::OsStr;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How a command has ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: Vec<u8>,
    /// Its standard error.
    pub err: String,
}

impl Ran {
    /// Its standard output as text, when it has succeeded.
    ///
    /// # Panics
    /// When it has failed.
    pub fn ok(&self) -> String {
        assert_eq!(self.code, Some(0), "it failed: {}", self.err);
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Expects that it has failed with this code, and a message that has all these parts.
    ///
    /// # Panics
    /// When it has not.
    pub fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.err);
        for part in parts {
            assert!(self.err.contains(part), "the message lacks {part:?}: {}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }
}

/// `piculet` with these arguments and no settings from the environment, killed when it is dropped.
///
/// # Panics
/// When there is no such program.
#[must_use]
pub fn command(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(tools::piculet().expect("piculet is built: cargo build -p piculet-node"));
    // But for those that say where the tools are.
    let tools = ["PICULET_BIN", "PICULET_ETCD", "PICULET_WEED"];
    for variable in std::env::vars_os().map(|(name, _)| name) {
        let name = variable.to_string_lossy();
        if name.starts_with("PICULET_") && !tools.contains(&&*name) {
            command.env_remove(&variable);
        }
    }
    command.args(args).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command to its end with this input.
///
/// # Panics
/// When it cannot be run, or does not end in time.
pub async fn run_piculet(mut command: Command, input: &[u8]) -> Ran {
    let mut child = command.spawn().expect("piculet runs");
    let mut stdin = child.stdin.take().expect("its input is a pipe");
    let feed = async {
        // A command that fails early takes no input.
        let _ = stdin.write_all(input).await;
        drop(stdin);
    };
    let ((), output) =
        bounded("the command ends", async { tokio::join!(feed, child.wait_with_output()) }).await;
    let output = output.expect("its output is read");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    Ran { code: output.status.code(), out: output.stdout, err }
}
