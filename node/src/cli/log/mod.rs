//! `piculet log`.

mod describe;

use super::output::Show;
use super::{ConnectArgs, Failure, Output};
use clap::{Args, Subcommand};
use describe::Described;
use piculet_client::Client;
use piculet_quorum::ids::{LogId, LogName};
use serde::Serialize;
use std::io::{self, BufWriter, Write};

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  piculet log create orders
  piculet log list
  piculet log describe orders")]
pub(super) enum LogCommand {
    /// Create a log.
    #[command(after_help = "\
A name has 1 to 200 characters from A-Z a-z 0-9 . _ / - and no empty or dot component.

Examples:
  piculet log create orders
  piculet log create shop/eu/orders")]
    Create(Named),
    /// List all logs by name.
    #[command(after_help = "\
Examples:
  piculet log list
  piculet log list --output json | jq -r .name")]
    List(ListArgs),
    /// Show a log's writer, end and segments.
    #[command(after_help = "\
`next base` is where the next segment will start: the log's tail, unless the last segment is open.
Entries are safe in object storage below `archived`; the others are in the memory of the members.

Examples:
  piculet log describe orders
  piculet log describe orders --output json | jq .segments")]
    Describe(Named),
}

/// A log of a cluster.
#[derive(Debug, Args)]
pub(super) struct Named {
    /// The log's name.
    #[arg(value_parser = |name: &str| LogName::new(name))]
    log: LogName,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// All logs of a cluster.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    connect: ConnectArgs,
}

/// A log that was created.
#[derive(Serialize)]
struct Created {
    name: String,
    id: String,
}

/// A log in the list.
#[derive(Serialize)]
struct Listed {
    name: String,
    id: String,
}

pub(super) async fn run(command: LogCommand, output: Output) -> Result<(), Failure> {
    match command {
        LogCommand::Create(Named { log, connect }) => {
            let client = connect.connect().await?;
            let created = client.create_log(&log).await?;
            client.close().await;
            output.show(&Created { name: log.to_string(), id: id(created) })?;
        }
        LogCommand::List(ListArgs { connect }) => list(&connect.connect().await?, output).await?,
        LogCommand::Describe(Named { log, connect }) => {
            let client = connect.connect().await?;
            let description = client.describe_log(&log).await?;
            client.close().await;
            output.show(&Described::new(&description))?;
        }
    }
    Ok(())
}

async fn list(client: &Client, output: Output) -> Result<(), Failure> {
    let logs = client.list_logs().await?;
    client.close().await;
    let mut out = BufWriter::new(io::stdout().lock());
    for (name, log) in logs {
        output.write(&Listed { name: name.to_string(), id: id(log) }, &mut out)?;
    }
    Ok(out.flush()?)
}

/// As the metadata keys and object names have it.
fn id(log: LogId) -> String {
    format!("{:016x}", log.0)
}

impl Show for Created {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "created {} (id {})", self.name, self.id)
    }
}

impl Show for Listed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}  {}", self.id, self.name)
    }
}
