//! `piculet status`.

use super::output::Show;
use super::{ConnectArgs, Failure, Output};
use crate::progress::size;
use clap::Args;
use piculet_client::{Error, NodeId};
use piculet_quorum::ids::{Incarnation, Level};
use piculet_quorum::meta::NodeState;
use piculet_quorum::wire::message::{NodeView, Status};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

#[derive(Debug, Args)]
#[command(after_help = "\
A node that does not answer is shown with the reason, and the command succeeds all the same: `ping`
fails then.

Examples:
  piculet status
  piculet status --output json")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Every node that the cluster knows.
#[derive(Serialize)]
struct Cluster {
    nodes: Vec<Node>,
}

#[derive(Serialize)]
struct Node {
    node: NodeId,
    incarnations: BTreeMap<Level, Incarnation>,
    running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<NodeState>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<String>,
    #[serde(flatten)]
    answer: Option<Answer>,
}

/// What a running node says of itself.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Well { buffer_bytes: u64, buffer_used: u64, uploading: usize, conditional_put: bool },
    None { error: Failure },
}

pub(super) async fn run(args: StatusArgs, output: Output) -> Result<(), Failure> {
    let client = args.connect.connect().await?;
    let answers = client.status().await?;
    let mut answers: BTreeMap<_, _> = answers.into_iter().map(|node| (node.node, node.status)).collect();
    let nodes = client.nodes().await?;
    client.close().await;
    let nodes = nodes.into_iter().map(|(node, view)| {
        let answer = answers.remove(&node);
        shown(node, view, answer)
    });
    output.show(&Cluster { nodes: nodes.collect() })?;
    Ok(())
}

fn shown(node: NodeId, view: NodeView, answer: Option<Result<Status, Error>>) -> Node {
    let incarnations = match &answer {
        Some(Ok(status)) => status.incarnations.clone(),
        _ => view.lives.iter().map(|(level, (incarnation, _))| (*level, *incarnation)).collect(),
    };
    let answer = answer.map(|answer| match answer {
        Ok(status) => Answer::Well {
            buffer_bytes: status.buffer_bytes,
            buffer_used: status.buffer_used,
            uploading: status.uploading.len(),
            conditional_put: status.conditional_put,
        },
        Err(error) => Answer::None { error: error.into() },
    });
    let running = view.running.is_some();
    let (version, state, addresses) = match view.running {
        Some(record) => (Some(record.version), Some(record.state), record.addresses),
        None => (None, None, Vec::new()),
    };
    Node { node, incarnations, running, version, state, addresses, answer }
}

impl Show for Cluster {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{:<16} {:<19} {:>20} {:>10}  {:<15}  address",
            "node", "incarnations", "buffer used", "uploading", "conditional put"
        )?;
        for node in &self.nodes {
            let lives: Vec<_> =
                node.incarnations.iter().map(|(level, life)| format!("{level} {life}")).collect();
            write!(out, "{:<16} {:<19} ", node.node, lives.join(", "))?;
            match &node.answer {
                Some(Answer::Well { buffer_bytes, buffer_used, uploading, conditional_put }) => writeln!(
                    out,
                    "{:>20} {uploading:>10}  {:<15}  {}{}",
                    format!("{} of {}", size(*buffer_used), size(*buffer_bytes)),
                    if *conditional_put { "yes" } else { "no: plain puts" },
                    node.addresses.join(" "),
                    if node.state == Some(NodeState::Draining) { " (draining)" } else { "" },
                )?,
                Some(Answer::None { error }) => writeln!(out, "{}", error.message())?,
                None if node.running => writeln!(out, "has just started")?,
                None => writeln!(out, "not running")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use piculet_quorum::ids::Revision;

    #[test]
    fn nodes_that_are_silent_or_gone_are_shown_too() {
        let view =
            || NodeView { lives: [(Level::Memory, (Incarnation(3), Revision(1)))].into(), running: None };
        let node = |name: &str| NodeId::new(name).expect("a name");
        let well = Status {
            node: node("a"),
            incarnations: [(Level::Memory, Incarnation(4))].into(),
            buffer_bytes: 1024,
            buffer_used: 0,
            cpu_nanos: 0,
            uploading: Vec::new(),
            conditional_put: true,
        };
        let silent = Error::NoNode("nobody".to_owned());
        let cluster = Cluster {
            nodes: vec![
                shown(node("a"), view(), Some(Ok(well))),
                shown(node("b"), view(), Some(Err(silent))),
                shown(node("c"), view(), None),
            ],
        };
        let mut text = Vec::new();
        Output::Text.write(&cluster, &mut text).expect("it is written");
        let text = String::from_utf8(text).expect("it is text");
        let rows: Vec<&str> = text.lines().collect();
        assert!(rows[1].starts_with("a ") && rows[1].contains("0 B of 1.0 KiB"), "{text}");
        assert!(rows[2].contains("nobody") && rows[3].ends_with("not running"), "{text}");
        let json = serde_json::to_value(&cluster).expect("it is plain data");
        assert_eq!(json["nodes"][0]["incarnations"]["memory"], 4);
        assert_eq!(json["nodes"][1]["error"]["code"], "no-node");
        assert_eq!(json["nodes"][2]["running"], false);
    }
}
