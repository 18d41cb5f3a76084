//! How a command reaches a cluster.

use super::Failure;
use clap::Args;
use piculet_client::transport::{Identity, TransportOptions};
use piculet_client::{Client, ClientOptions};
use std::path::PathBuf;

/// Where a cluster is, and who asks.
#[derive(Clone, Debug, Args)]
pub struct ConnectArgs {
    /// Addresses of any of the nodes, separated by commas.
    #[arg(long, env = "PICULET_NODES", value_delimiter = ',', required = true, value_name = "HOST:PORT,…")]
    pub nodes: Vec<String>,
    /// Directory with ca.pem and the client's certificate and key.
    #[arg(long, env = "PICULET_CERTS", default_value = "certs", value_name = "DIR")]
    pub certs: PathBuf,
    /// Name of the client: its files are NAME.pem and NAME.key.
    #[arg(long, env = "PICULET_IDENTITY", default_value = "client", value_name = "NAME")]
    pub identity: String,
    /// Largest UDP payload, in bytes; what the path carries is found out.
    #[arg(long, env = "PICULET_MAX_DATAGRAM", value_name = "BYTES")]
    pub max_datagram: Option<u16>,
}

impl ConnectArgs {
    /// Connects.
    ///
    /// # Errors
    /// When certificates are of no use, or no node answers.
    pub async fn connect(&self) -> Result<Client, Failure> {
        let file = |extension: &str| self.certs.join(format!("{}.{extension}", self.identity));
        let identity = Identity::load(&self.certs.join("ca.pem"), &file("pem"), &file("key"))?;
        let mut options = ClientOptions::new(self.nodes.clone(), identity);
        let usual = TransportOptions::default();
        let max_datagram = self.max_datagram.unwrap_or(usual.max_datagram);
        options.transport = TransportOptions { max_datagram, ..usual };
        Ok(Client::connect(options).await?)
    }
}
