//! Settings of a client.

use crate::error::Error;
use crate::transport::{Identity, TransportOptions};
use piculet_quorum::ids::Nonce;
use piculet_quorum::limits::WRITER_TIMEOUT;
use piculet_quorum::recovery::RecoveryOptions;
use piculet_quorum::writer::WriterOptions;
use std::time::Duration;

/// Settings of a [`Client`](crate::Client).
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Addresses of nodes, each `host:port` or `[ipv6]:port`: any of them, the others are found
    /// through these. At least one.
    pub nodes: Vec<String>,
    /// Who writes, for people to read: what others are told who find a log taken by a writer of this
    /// client. At most 128 bytes are kept. Default: host name and process id.
    pub name: String,
    /// Who we are and whom we trust.
    pub identity: Identity,
    /// The cluster that the nodes must be of; `None` takes that of the first that answers. A node
    /// of another one is refused with [`Error::WrongCluster`]. Default `None`.
    pub cluster: Option<Nonce>,
    /// The object store. None, which is the default: this client opens no logs of durability
    /// [`Level::Object`](crate::Level::Object).
    #[cfg(feature = "object")]
    pub store: Option<crate::store::StoreOptions>,
    /// Settings of the connections.
    pub transport: TransportOptions,
    /// Settings of writers.
    pub writer: WriterOptions,
    /// Settings of the recovery of a segment in a takeover.
    pub recovery: RecoveryOptions,
    /// How long one call waits for an answer, whichever node it comes from. Default 5 s.
    pub call_timeout: Duration,
    /// How long a takeover waits for members of the last segment that it cannot do without, and an
    /// exclusive open for them to say whether the writer before is gone. Default 30 s.
    pub takeover_timeout: Duration,
    /// A writer is taken to be gone, and the log free to be opened, when enough members of its
    /// segment have been without its stream for this long; at [`Level::Object`](crate::Level::Object), when
    /// nothing of its open segment was recorded for this long. Default 5 s.
    pub writer_timeout: Duration,
    /// How long a reader that is owed entries goes on without any progress before it reports an
    /// error. Default 30 s.
    pub read_timeout: Duration,
    /// Bytes of entries that a reader keeps until they are known to be committed; beyond it stops
    /// reading from the node. One frame may exceed it. Default 64 MiB.
    pub read_ahead: usize,
}

impl ClientOptions {
    /// The default settings for these nodes and this identity.
    #[must_use]
    pub fn new(nodes: Vec<String>, identity: Identity) -> Self {
        Self {
            nodes,
            name: default_name(),
            identity,
            cluster: None,
            #[cfg(feature = "object")]
            store: None,
            transport: TransportOptions::default(),
            writer: WriterOptions::default(),
            recovery: RecoveryOptions::default(),
            call_timeout: Duration::from_secs(5),
            takeover_timeout: Duration::from_secs(30),
            writer_timeout: WRITER_TIMEOUT.into(),
            read_timeout: Duration::from_secs(30),
            read_ahead: 64 << 20,
        }
    }
}

impl ClientOptions {
    /// Checks what no other part does.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |setting, problem: String| Err(Error::Setting { setting, problem });
        if self.nodes.is_empty() {
            return refuse("nodes", "it is empty; name at least one node as host:port".to_owned());
        }
        for (setting, value) in [
            ("call_timeout", self.call_timeout),
            ("takeover_timeout", self.takeover_timeout),
            ("writer_timeout", self.writer_timeout),
            ("read_timeout", self.read_timeout),
        ] {
            if value.is_zero() {
                return refuse(setting, "it is zero; expected more".to_owned());
            }
        }
        #[cfg(feature = "object")]
        if let Some(store) = &self.store {
            store.check()?;
        }
        Ok(())
    }
}

/// Host name and process id.
fn default_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let host = if host.is_empty() { "an unknown host" } else { host };
    format!("process {} on {host}", std::process::id())
}
