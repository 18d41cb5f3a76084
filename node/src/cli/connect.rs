//! How a command reaches a cluster.

use super::Failure;
use super::node::parse_set;
use super::output::say;
use crate::config::client::{ClientConfig, FILE_VARIABLE};
use crate::settings::{Settings, Sources};
use clap::Args;
use piculet_client::Client;
use std::path::PathBuf;

/// Where a cluster is, and who asks. `piculet config doc` describes all settings.
#[derive(Clone, Debug, Args)]
pub struct ConnectArgs {
    /// Addresses of any of the nodes, separated by commas [env: PICULET_NODES].
    #[arg(long, value_name = "HOST:PORT,…")]
    pub nodes: Option<String>,
    /// Directory with ca.pem and the client's certificate and key [env: PICULET_CERTS]
    /// [default: certs].
    #[arg(long, value_name = "DIR")]
    pub certs: Option<String>,
    /// Name of the client: its files are NAME.pem and NAME.key [env: PICULET_IDENTITY]
    /// [default: client].
    #[arg(long, value_name = "NAME")]
    pub identity: Option<String>,
    /// Largest UDP payload, in bytes; what the path carries is found out
    /// [env: PICULET_MAX_DATAGRAM].
    #[arg(long, value_name = "BYTES")]
    pub max_datagram: Option<String>,
    /// A TOML file with these and more settings.
    #[arg(long, env = FILE_VARIABLE, value_name = "FILE")]
    pub client_config: Option<PathBuf>,
    /// Override a setting; repeat for more.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, String)>,
}

impl ConnectArgs {
    /// Reads the settings.
    ///
    /// # Errors
    /// With everything that is refused.
    pub fn config(&self) -> Result<ClientConfig, Failure> {
        self.load(self.sources())
    }

    fn sources(&self) -> Sources {
        let mut sources = Sources::environment()
            .with_flag("--nodes", "nodes", self.nodes.as_ref())
            .with_flag("--certs", "certs", self.certs.as_ref())
            .with_flag("--identity", "identity", self.identity.as_ref())
            .with_flag("--max-datagram", "max_datagram", self.max_datagram.as_ref())
            .with_set(&self.set);
        sources.file.clone_from(&self.client_config);
        sources
    }

    fn load(&self, sources: Sources) -> Result<ClientConfig, Failure> {
        let config = ClientConfig::load(&sources)?;
        warn(config.settings());
        Ok(config)
    }

    /// Connects.
    ///
    /// # Errors
    /// When settings are refused, certificates are of no use, or no node answers.
    pub async fn connect(&self) -> Result<Client, Failure> {
        self.connect_with(None).await
    }

    /// The same, with the URL of an object store from a flag.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_with(&self, store: Option<&String>) -> Result<Client, Failure> {
        let config = self.load(self.sources().with_flag("--store", "store", store))?;
        Ok(Client::connect(config.options()?).await?)
    }
}

/// Says what is probably a slip.
pub(super) fn warn(settings: &Settings) {
    for warning in settings.warnings() {
        say(&format!("piculet: {warning}"));
    }
}
