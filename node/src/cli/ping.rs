//! `piculet ping`.

use super::entry::rfc3339;
use super::output::Show;
use super::{ConnectArgs, Failure, Output};
use clap::Args;
use piculet_client::{NodePing, Timestamp, ping_all};
use piculet_quorum::ids::{Incarnation, Level};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

#[derive(Debug, Args)]
#[command(after_help = "\
Tries every address that it is given, and those that the nodes behind them list, each over a
connection of its own. Shows round trips of a trivial question (least and median of ten, in
milliseconds), the largest datagram that gets through, in bytes, and whom the certificate names and
until when; or what is wrong with that address and what to do. Fails when one of them does.

Examples:
  piculet ping
  piculet ping --nodes 10.0.0.1:7781,10.0.0.2:7781 --output json")]
pub(super) struct PingArgs {
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Every address that was tried.
#[derive(Serialize)]
struct Pinged {
    addresses: Vec<Address>,
}

#[derive(Serialize)]
struct Address {
    address: String,
    /// The node that the metadata have there.
    #[serde(skip_serializing_if = "Option::is_none")]
    listed: Option<String>,
    #[serde(flatten)]
    found: Found,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Found {
    Node {
        node: String,
        version: String,
        cluster: String,
        incarnations: BTreeMap<Level, Incarnation>,
        subject: Option<String>,
        expires: Option<String>,
        round_trip_min_ms: f64,
        round_trip_median_ms: f64,
        datagram: u16,
    },
    Nothing {
        error: Failure,
    },
}

pub(super) async fn run(args: PingArgs, output: Output) -> Result<(), Failure> {
    let pings = ping_all(&args.connect.config()?.options()?).await?;
    let pinged = Pinged { addresses: pings.into_iter().map(Address::new).collect() };
    output.show(&pinged)?;
    pinged.failure().map_or(Ok(()), Err)
}

impl Address {
    fn new(ping: NodePing) -> Self {
        let found = match ping.found {
            Ok(found) => Found::Node {
                node: found.node.to_string(),
                version: found.version,
                cluster: found.cluster.to_string(),
                incarnations: found.incarnations,
                subject: found.identity.subject(),
                expires: found.identity.expires().map(moment),
                round_trip_min_ms: millis(found.round_trip_min),
                round_trip_median_ms: millis(found.round_trip_median),
                datagram: found.datagram,
            },
            Err(error) => Found::Nothing { error: error.into() },
        };
        Self { address: ping.address, listed: ping.listed.map(|node| node.to_string()), found }
    }
}

impl Pinged {
    /// What all of it comes to for a script: the code is that of the first address that failed.
    fn failure(&self) -> Option<Failure> {
        let mut failed = self.addresses.iter().filter_map(|address| match &address.found {
            Found::Nothing { error } => Some(error.code()),
            Found::Node { .. } => None,
        });
        let code = failed.next()?;
        let (count, all) = (1 + failed.count(), self.addresses.len());
        Some(Failure::new(code, format!("{count} of {all} addresses failed, as shown for each")))
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn moment(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    rfc3339(Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

impl Show for Pinged {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{:<21} {:<12} {:>8} {:>8} {:>8} {:>9}  certificate",
            "address", "node", "version", "least", "median", "datagram"
        )?;
        for Address { address, listed, found } in &self.addresses {
            match found {
                Found::Node {
                    node,
                    version,
                    subject,
                    expires,
                    round_trip_min_ms: least,
                    round_trip_median_ms: median,
                    datagram,
                    ..
                } => writeln!(
                    out,
                    "{address:<21} {node:<12} {version:>8} {least:>8.3} {median:>8.3} {datagram:>9}  \
                     {} until {}",
                    subject.as_deref().unwrap_or("unreadable"),
                    expires.as_deref().unwrap_or("an unknown time"),
                )?,
                Found::Nothing { error } => {
                    writeln!(
                        out,
                        "{address:<21} {:<12} {}",
                        listed.as_deref().unwrap_or("-"),
                        error.message()
                    )?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use piculet_client::{Error, NodeId};

    #[test]
    fn one_address_that_fails_is_a_failure_of_its_kind() {
        let node = Found::Node {
            node: "a".to_owned(),
            version: "0.1.0".to_owned(),
            cluster: "c".to_owned(),
            incarnations: [(Level::Memory, Incarnation(2))].into(),
            subject: Some("CN=a".to_owned()),
            expires: Some(moment(SystemTime::UNIX_EPOCH)),
            round_trip_min_ms: millis(Duration::from_micros(150)),
            round_trip_median_ms: 0.2,
            datagram: 1452,
        };
        let well = Address { address: "10.0.0.1:7781".to_owned(), listed: None, found: node };
        let silent = NodePing {
            address: "10.0.0.2:7781".to_owned(),
            listed: Some(NodeId::new("b").expect("a name")),
            found: Err(Error::NoNode("silence".to_owned())),
        };
        let mut pinged = Pinged { addresses: vec![well] };
        assert!(pinged.failure().is_none());
        pinged.addresses.push(Address::new(silent));
        assert_eq!(pinged.failure().map(|failure| failure.exit_code()), Some(7));
        let mut text = Vec::new();
        Output::Text.write(&pinged, &mut text).expect("it is written");
        let text = String::from_utf8(text).expect("it is text");
        let rows: Vec<&str> = text.lines().collect();
        assert!(
            rows[1].contains("0.150") && rows[1].ends_with("CN=a until 1970-01-01T00:00:00.000Z"),
            "{text}"
        );
        assert!(rows[2].starts_with("10.0.0.2:7781") && rows[2].contains("silence"), "{text}");
        let json = serde_json::to_value(&pinged).expect("it is plain data");
        assert_eq!(json["addresses"][0]["datagram"], 1452);
        assert_eq!(json["addresses"][1]["error"]["code"], "no-node");
        assert_eq!(json["addresses"][1]["listed"], "b");
    }
}
