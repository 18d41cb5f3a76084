//! `piculet certs`.

use super::Failure;
use crate::certs::{self, CA_DAYS, LEAF_DAYS};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum CertsCommand {
    /// Make a certificate authority: ca.pem and ca.key. Whoever has ca.key can make nodes and
    /// clients; keep it away from both.
    Ca {
        #[command(flatten)]
        place: Place,
        /// Days until it expires.
        #[arg(long, default_value_t = CA_DAYS)]
        days: u32,
    },
    /// Make a node's certificate: NAME.pem and NAME.key.
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

pub(super) fn run(command: &CertsCommand) -> Result<(), Failure> {
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
    println!("wrote {0}/{name}.pem and {0}/{name}.key", place.certs.display());
    Ok(())
}
