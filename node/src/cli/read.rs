//! `piculet read`.

use super::{ConnectArgs, Failure};
use clap::Args;
use futures::FutureExt;
use piculet_client::{ReadOptions, Start};
use piculet_quorum::ids::{LogName, Offset};
use std::io::Write;

#[derive(Debug, Args)]
#[command(after_help = "\
Entries are written as they were appended, with nothing between them: what `append` read comes out
again, byte for byte.

Examples:
  piculet read orders                            everything, then end
  piculet read orders --from latest --follow     what is appended from now on
  piculet read orders --from 1000 --newline      from offset 1000 on, a newline after each entry")]
pub(super) struct ReadArgs {
    /// The log's name.
    #[arg(value_parser = |name: &str| LogName::new(name))]
    log: LogName,
    /// Where to start: earliest, latest, or an offset.
    #[arg(long, default_value = "earliest", value_parser = parse_start)]
    from: Start,
    /// Wait for more at the end, instead of ending there.
    #[arg(long)]
    follow: bool,
    /// Write a newline after each entry.
    #[arg(long)]
    newline: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

fn parse_start(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        offset => {
            let offset = offset.parse().map(Offset);
            offset
                .map(Start::Offset)
                .map_err(|_| "expected earliest, latest, or an offset such as 1000".to_owned())
        }
    }
}

pub(super) async fn run(args: ReadArgs) -> Result<(), Failure> {
    let client = args.connect.connect().await?;
    let mut reader = client.read(&args.log, args.from, ReadOptions { follow: args.follow }).await?;
    let mut out = std::io::BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
    loop {
        let next = match reader.next().now_or_never() {
            Some(next) => next,
            None => {
                // Nothing is here at the moment: whoever follows sees what there is.
                out.flush()?;
                reader.next().await
            }
        };
        let Some(entry) = next else { break };
        out.write_all(&entry?.payload)?;
        if args.newline {
            out.write_all(b"\n")?;
        }
    }
    out.flush()?;
    client.close().await;
    Ok(())
}
