//! A shell that runs the commands of a document one by one.

use piculet_node::local::tools;
use piculet_tests::{Ran, bounded};
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// Where commands run, with what they have exported so far.
pub(crate) struct Shell {
    pub(crate) dir: PathBuf,
    pub(crate) variables: BTreeMap<String, String>,
}

impl Shell {
    /// A shell in `dir` that finds `piculet` on its path and has no setting from outside.
    pub(crate) fn new(dir: &Path) -> Self {
        let bin = dir.join(".bin");
        std::fs::create_dir_all(&bin).expect("a directory");
        let program = tools::piculet().expect("piculet is built: cargo build -p piculet-node");
        symlink(program, bin.join("piculet")).expect("a link to piculet");
        let path = std::env::var("PATH").unwrap_or_default();
        let variables = BTreeMap::from([("PATH".to_owned(), format!("{}:{path}", bin.display()))]);
        Self { dir: dir.to_owned(), variables }
    }

    /// A command that runs `line` in bash.
    pub(crate) fn command(&self, line: &str) -> std::process::Command {
        let mut command = std::process::Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &format!("exec {line}")]);
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut std::process::Command) {
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PICULET_")) {
            command.env_remove(name);
        }
        command.current_dir(&self.dir).envs(&self.variables);
    }

    /// Runs a line to its end; what it exports is kept.
    pub(crate) async fn run(&mut self, line: &str) -> Ran {
        if let Some((name, value)) = line.strip_prefix("export ").and_then(|rest| rest.split_once('=')) {
            self.variables.insert(name.to_owned(), value.to_owned());
            return Ran { code: Some(0), out: Vec::new(), err: String::new() };
        }
        let mut command = std::process::Command::new("bash");
        command.args(["-euo", "pipefail", "-c", line]);
        self.prepare(&mut command);
        let mut command = Command::from(command);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = bounded(line, command.output()).await.expect("bash runs");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Ran { code: output.status.code(), out: output.stdout, err }
    }

    /// Runs a line that does not end by itself until it has printed `expected`, then kills it.
    pub(crate) async fn run_until(&self, line: &str, expected: &str) {
        let mut command = Command::from(self.command(line));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("bash runs");
        let mut out = child.stdout.take().expect("its output is a pipe");
        let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
        let printed = async {
            while seen.len() < expected.len() {
                let read = out.read(&mut piece).await.expect("its output can be read");
                assert!(read > 0, "{line} has ended after {}", String::from_utf8_lossy(&seen));
                seen.extend_from_slice(&piece[..read]);
            }
        };
        bounded(line, printed).await;
        assert_eq!(String::from_utf8_lossy(&seen), expected, "{line}");
    }
}
