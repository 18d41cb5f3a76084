//! `piculet log`.

mod describe;

use super::output::Show;
use super::{ConnectArgs, Failure, Output};
use clap::{Args, Subcommand, ValueEnum};
use describe::Described;
use piculet_client::{Client, LogOptions, Offset};
use piculet_quorum::ids::{Level, LogId, LogName};
use serde::Serialize;
use std::io::{self, BufWriter, IsTerminal, Write};

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

An append to a log of durability `memory` is acknowledged when two nodes hold it in memory that
outlives their processes: it survives the loss of any one machine, and a crash of all three nodes.
With `disk` two nodes have it on disk: it survives a power cut of everything as well, and takes as
long as a disk does. With `object` it is in the object store, where it survives the loss of every
node: the writer puts it there itself, so it needs the store's settings (`piculet append --store`),
and an append takes tens of milliseconds. The durability of a log cannot be changed later.

Examples:
  piculet log create orders
  piculet log create shop/eu/orders
  piculet log create payments --durability disk
  piculet log create audit --durability object
  piculet log create metrics --allow-loss")]
    Create(CreateArgs),
    /// List all logs by name.
    #[command(after_help = "\
Examples:
  piculet log list
  piculet log list --output json | jq -r .name")]
    List(ListArgs),
    /// Show a log's writer, settings, end and segments.
    #[command(after_help = "\
`next base` is where the next segment will start: the log's tail, unless the last segment is open.
Entries are safe in object storage below `archived`; the others are with the members. A member in
(brackets) has forgotten what it held; one with a * held everything below the end when it was sealed.

Examples:
  piculet log describe orders
  piculet log describe orders --output json | jq .segments")]
    Describe(Named),
    /// Change a log's settings.
    #[command(after_help = "\
A log whose writer is gone waits when so many nodes have lost their buffers that entries which were
acknowledged may be lost. With --allow-loss true it goes on with what is left: its last segment ends
there, and readers are told from which offset on entries may be missing. The nodes see to it within
seconds, or whoever opens the log next. Nothing that is left is given up, and what was given up does not
come back with --allow-loss false.

Examples:
  piculet log set orders --allow-loss true
  piculet log set orders --allow-loss false --output json")]
    Set(SetArgs),
    /// Print a log's tail: the offset that the next entry gets, when nobody appends.
    #[command(after_help = "\
Every entry acknowledged before the call is before the tail, and can be read.

Examples:
  piculet log tail orders
  piculet log tail orders --output json")]
    Tail(Named),
    /// Give up a log's entries before an offset.
    #[command(after_help = "\
They cannot be read any more at once, and are deleted segment by segment in the background. There is
no way back. The offset may not be beyond the tail.

Examples:
  piculet log truncate orders --before 5000
  piculet log truncate orders --before 5000 --output json")]
    Truncate(TruncateArgs),
    /// Delete a log with all of its entries.
    #[command(after_help = "\
There is no way back. Its writer is fenced, its readers fail, and the name is free at once; the
entries are deleted in the background.

Examples:
  piculet log delete orders          asks first
  piculet log delete orders --yes    does not ask: for scripts")]
    Delete(DeleteArgs),
}

/// A log to be created.
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    named: Named,
    /// What an append is acknowledged for.
    #[arg(long, value_enum, default_value_t = Durability::Memory)]
    durability: Durability,
    /// Go on with what is left when so many nodes have lost their buffers that acknowledged entries
    /// may be lost, instead of waiting for an operator; see `piculet log set --help`.
    #[arg(long)]
    allow_loss: bool,
}

/// A log's durability, as it is said on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Durability {
    /// In the memory of two nodes.
    Memory,
    /// On the disks of two nodes.
    Disk,
    /// In the object store.
    Object,
}

impl From<Durability> for Level {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Memory => Self::Memory,
            Durability::Disk => Self::Disk,
            Durability::Object => Self::Object,
        }
    }
}

/// Settings to be changed.
#[derive(Debug, Args)]
pub(super) struct SetArgs {
    #[command(flatten)]
    named: Named,
    /// Whether to go on with what is left when acknowledged entries may be lost.
    #[arg(long, value_name = "true|false", action = clap::ArgAction::Set)]
    allow_loss: bool,
}

/// Which entries are given up.
#[derive(Debug, Args)]
pub(super) struct TruncateArgs {
    #[command(flatten)]
    named: Named,
    /// The first offset that is kept.
    #[arg(long, value_name = "OFFSET")]
    before: u64,
}

/// Which log is deleted.
#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    named: Named,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
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

/// The settings of a log.
#[derive(Serialize)]
struct Settings {
    name: String,
    allow_loss: bool,
}

/// Where a log ends.
#[derive(Serialize)]
struct Tail {
    name: String,
    tail: u64,
}

/// Where a log begins now.
#[derive(Serialize)]
struct Truncated {
    name: String,
    trim_offset: u64,
}

/// A log that was deleted.
#[derive(Serialize)]
struct Deleted {
    name: String,
    deleted: bool,
}

/// A log in the list.
#[derive(Serialize)]
struct Listed {
    name: String,
    id: String,
}

pub(super) async fn run(command: LogCommand, output: Output) -> Result<(), Failure> {
    match command {
        LogCommand::Create(CreateArgs { named: Named { log, connect }, durability, allow_loss }) => {
            let client = connect.connect().await?;
            let options = LogOptions { durability: durability.into(), allow_loss };
            let created = client.create_log_with(&log, options).await?;
            client.close().await;
            output.show(&Created { name: log.to_string(), id: id(created) })?;
        }
        LogCommand::List(ListArgs { connect }) => list(&connect.connect().await?, output).await?,
        LogCommand::Describe(Named { log, connect }) => {
            let client = connect.connect().await?;
            let (description, nodes) = (client.describe_log(&log).await?, client.nodes().await?);
            client.close().await;
            output.show(&Described::new(&description, &nodes))?;
        }
        LogCommand::Set(SetArgs { named: Named { log, connect }, allow_loss }) => {
            let client = connect.connect().await?;
            client.set_allow_loss(&log, allow_loss).await?;
            client.close().await;
            output.show(&Settings { name: log.to_string(), allow_loss })?;
        }
        LogCommand::Tail(Named { log, connect }) => {
            let client = connect.connect().await?;
            let tail = client.check_tail(&log).await?.0;
            client.close().await;
            output.show(&Tail { name: log.to_string(), tail })?;
        }
        LogCommand::Truncate(TruncateArgs { named: Named { log, connect }, before }) => {
            let client = connect.connect().await?;
            let trim_offset = client.truncate_log(&log, Offset(before)).await?.0;
            client.close().await;
            output.show(&Truncated { name: log.to_string(), trim_offset })?;
        }
        LogCommand::Delete(args) => delete(args, output).await?,
    }
    Ok(())
}

async fn delete(args: DeleteArgs, output: Output) -> Result<(), Failure> {
    let DeleteArgs { named: Named { log, connect }, yes } = args;
    let nobody_to_ask = !io::stdin().is_terminal() || !io::stderr().is_terminal();
    if !yes && nobody_to_ask {
        let why = format!("there is no terminal to ask whether {log} is to be deleted: say --yes");
        return Err(Failure::usage(why));
    }
    let client = connect.connect().await?;
    if !yes {
        // Not to be asked in vain.
        client.describe_log(&log).await?;
        if !agreed(&log)? {
            return Err(Failure::new("refused", format!("log {log} is not deleted")));
        }
    }
    client.delete_log(&log).await?;
    client.close().await;
    Ok(output.show(&Deleted { name: log.to_string(), deleted: true })?)
}

/// Asks whether a log is to be deleted.
fn agreed(log: &LogName) -> io::Result<bool> {
    let mut err = io::stderr();
    write!(err, "Delete {log} with all of its entries, for ever? Type its name to go on: ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == log.as_str())
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

impl Show for Settings {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}: allow loss {}", self.name, self.allow_loss)
    }
}

impl Show for Tail {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.tail)
    }
}

impl Show for Truncated {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "truncated {}: entries before offset {} are gone", self.name, self.trim_offset)
    }
}

impl Show for Deleted {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "deleted {}", self.name)
    }
}

impl Show for Listed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}  {}", self.id, self.name)
    }
}
