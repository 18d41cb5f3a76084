//! The nodes of the cluster as this one speaks to them: with a client of its own, under its own
//! certificate, which is made when it is needed first.

use crate::core::Core;
use piculet_client::transport::Identity;
use piculet_client::{Client, ClientOptions, Error};
use piculet_meta::MetaError;
use piculet_quorum::meta::{Range, Record};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The way to the other nodes.
pub struct Peers {
    core: Arc<Core>,
    identity: Identity,
    client: OnceCell<Client>,
}

/// Why other nodes cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// Where they are is not known.
    #[error("the addresses of the nodes cannot be read: {0}")]
    Addresses(#[from] MetaError),
    /// They cannot be reached, or do not do what they are asked.
    #[error(transparent)]
    Client(#[from] Error),
}

impl Peers {
    /// No connection is made yet.
    #[must_use]
    pub fn new(core: Arc<Core>, identity: Identity) -> Self {
        Self { core, identity, client: OnceCell::new() }
    }

    /// The client, connected to one node at least when it was made. It runs on the runtime on which
    /// it is asked for first: the background's. Cancel-safe.
    ///
    /// # Errors
    /// When no node can be reached; the next call tries again.
    pub async fn client(&self) -> Result<&Client, PeersError> {
        self.client.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<Client, PeersError> {
        let snapshot = self.core.meta.read(&[], &[Range::Nodes]).await?;
        let running = snapshot.records.into_values().filter_map(|record| match record.value {
            Record::Node(node) => Some(node.addresses),
            _ => None,
        });
        let mut addresses: Vec<String> = running.flatten().collect();
        // This node itself knows the others, even while its lease is lost.
        addresses.extend(self.core.config.advertise.iter().cloned());
        addresses.sort();
        addresses.dedup();
        let mut options = ClientOptions::new(addresses, self.identity.clone());
        options.name = format!("node {}", self.core.id);
        options.transport = self.core.config.transport();
        options.recovery = self.core.config.recovery();
        Ok(Client::connect(options).await?)
    }

    /// Closes the client's connections, if it was ever made.
    pub async fn close(&self) {
        if let Some(client) = self.client.get() {
            client.close().await;
        }
    }
}
