//! `piculet log`.

use super::{ConnectArgs, Failure};
use clap::Subcommand;
use piculet_client::LogDescription;
use piculet_quorum::ids::LogName;
use piculet_quorum::meta::SegmentState;

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Create a log.
    Create {
        /// Its name: 1 to 200 characters from A-Z a-z 0-9 . _ / -
        #[arg(value_parser = |name: &str| LogName::new(name))]
        name: LogName,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// List all logs by name.
    List {
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Show a log's writer, end and segments.
    Describe {
        /// Its name.
        #[arg(value_parser = |name: &str| LogName::new(name))]
        name: LogName,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

pub(super) async fn run(command: LogCommand) -> Result<(), Failure> {
    match command {
        LogCommand::Create { name, connect } => {
            let client = connect.connect().await?;
            let log = client.create_log(&name).await?;
            println!("created {name} (id {:016x})", log.0);
            client.close().await;
        }
        LogCommand::List { connect } => {
            let client = connect.connect().await?;
            for (name, log) in client.list_logs().await? {
                println!("{:016x}  {name}", log.0);
            }
            client.close().await;
        }
        LogCommand::Describe { name, connect } => {
            let client = connect.connect().await?;
            describe(&client.describe_log(&name).await?);
            client.close().await;
        }
    }
    Ok(())
}

fn describe(log: &LogDescription) {
    let log = &log.view;
    let record = &log.record.value;
    println!("name        {}", record.name);
    println!("id          {:016x}", log.log.0);
    println!("durability  {}", log.durability);
    println!("epoch       {}", record.epoch);
    println!("next base   {} (where the next segment starts)", record.next_base);
    println!("trimmed to  {}", log.trim_offset());
    println!("segments    {}", log.segments.len());
    println!();
    println!(
        "{:>8} {:>6} {:>12} {:>10} {:>10}  {:<9} held by",
        "segment", "epoch", "base", "entries", "archived", "state"
    );
    for (number, segment) in &log.segments {
        let record = &segment.record.value;
        let state = match &record.state {
            SegmentState::Open => "open",
            SegmentState::Sealed(seal) if seal.settled => "sealed",
            SegmentState::Sealed(_) => "unsettled",
            SegmentState::Archived(_) => "archived",
        };
        let end = record.state.end().map_or_else(|| "-".to_owned(), |at| at.end.to_string());
        let members: Vec<String> =
            record.ensemble.iter().map(|member| format!("{}/{}", member.node, member.incarnation)).collect();
        println!(
            "{number:>8} {:>6} {:>12} {end:>10} {:>10}  {state:<9} {}",
            record.epoch,
            record.base,
            segment.archived.end,
            members.join(" ")
        );
    }
}
