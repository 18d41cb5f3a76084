//! The manuals in docs/: every command that they show is run, in order, against one cluster each.

use crate::blocks::{blocks, document};
use crate::shell::Shell;
use piculet_node::local::tools;
use piculet_tests::{Setup, with_stage};
use std::path::PathBuf;

/// A built example of the client library.
pub(crate) fn example(name: &str) -> PathBuf {
    let piculet = tools::piculet().expect("piculet is built: cargo build -p piculet-node");
    let path = piculet.with_file_name("examples").join(name);
    assert!(path.exists(), "{} is not built: cargo build -p piculet-client --examples", path.display());
    path
}

async fn commands_work(manual: &'static str) {
    let commands: Vec<String> = blocks(&document(manual))
        .iter()
        .filter(|block| block.language == "sh")
        .flat_map(super::blocks::Block::commands)
        .collect();
    assert!(!commands.is_empty(), "{manual} shows commands");
    with_stage(Setup::default(), async |stage| {
        let dir = stage.dir().join("operator");
        std::fs::create_dir(&dir).expect("a directory");
        let mut shell = Shell::new(&dir);
        shell.variables.insert("PICULET_NODES".to_owned(), stage.addresses().join(","));
        shell.variables.insert("PICULET_CERTS".to_owned(), stage.cluster.certs().display().to_string());
        for line in &commands {
            let ran = shell.run(line).await;
            assert_eq!(ran.code, Some(0), "{manual}: {line}\n{}", ran.err);
        }
    })
    .await;
}

#[tokio::test]
async fn the_commands_of_the_command_line_manual_work() {
    commands_work("docs/CLI.md").await;
}

#[tokio::test]
async fn the_examples_of_the_library_work() {
    with_stage(Setup::default(), async |stage| {
        let mut shell = Shell::new(stage.dir());
        shell.variables.insert("PICULET_NODES".to_owned(), stage.addresses().join(","));
        shell.variables.insert("PICULET_CERTS".to_owned(), stage.cluster.certs().display().to_string());
        shell.run(&example("tour").display().to_string()).await.ok();
    })
    .await;
}
