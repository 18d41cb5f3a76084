//! `piculet certs`.

use super::output::Show;
use super::{Failure, Output};
use crate::certs::{self, CA_DAYS, LEAF_DAYS};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  piculet certs ca                             once for a cluster
  piculet certs node node-1 --host 10.0.0.1    for each node
  piculet certs client                         for the applications")]
pub(super) enum CertsCommand {
    /// Make a certificate authority: ca.pem and ca.key. Whoever has ca.key can make nodes and
    /// clients; keep it away from both.
    #[command(after_help = "\
Examples:
  piculet certs ca
  piculet certs ca --certs ~/piculet-ca --days 730")]
    Ca {
        #[command(flatten)]
        place: Place,
        /// Days until it expires.
        #[arg(long, default_value_t = CA_DAYS)]
        days: u32,
    },
    /// Make a node's certificate: NAME.pem and NAME.key.
    #[command(after_help = "\
Clients and other nodes check that the host they connect to is named in the certificate.

Examples:
  piculet certs node node-1 --host 10.0.0.1 --host node-1.internal")]
    Node {
        /// The node's name.
        name: String,
        /// An address or host name under which clients and other nodes reach it; repeat for more.
        #[arg(long = "host", required = true, value_name = "HOST")]
        hosts: Vec<String>,
        #[command(flatten)]
        place: Place,
        /// Days until it expires.
        #[arg(long, default_value_t = LEAF_DAYS)]
        days: u32,
    },
    /// Make a client's certificate: NAME.pem and NAME.key.
    #[command(after_help = "\
Examples:
  piculet certs client
  piculet certs client billing --days 90       then: piculet read orders --identity billing")]
    Client {
        /// The client's name.
        #[arg(default_value = "client")]
        name: String,
        #[command(flatten)]
        place: Place,
        /// Days until it expires.
        #[arg(long, default_value_t = LEAF_DAYS)]
        days: u32,
    },
}

#[derive(Debug, Args)]
pub(super) struct Place {
    /// Directory of the certificates; ca.pem and ca.key are there.
    #[arg(long, env = "PICULET_CERTS", default_value = "certs", value_name = "DIR")]
    certs: PathBuf,
}

/// Files that were made.
#[derive(Serialize)]
struct Made {
    name: String,
    cert: PathBuf,
    key: PathBuf,
}

pub(super) fn run(command: &CertsCommand, output: Output) -> Result<(), Failure> {
    let (place, name) = match command {
        CertsCommand::Ca { place, days } => {
            certs::create_ca(&place.certs, *days)?;
            (place, "ca")
        }
        CertsCommand::Node { name, hosts, place, days } => {
            certs::issue_node(&place.certs, name, hosts, *days)?;
            (place, name.as_str())
        }
        CertsCommand::Client { name, place, days } => {
            certs::issue_client(&place.certs, name, *days)?;
            (place, name.as_str())
        }
    };
    let file = |extension: &str| place.certs.join(format!("{name}.{extension}"));
    output.show(&Made { name: name.to_owned(), cert: file("pem"), key: file("key") })?;
    Ok(())
}

impl Show for Made {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "wrote {} and {}", self.cert.display(), self.key.display())
    }
}
