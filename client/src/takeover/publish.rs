//! R6: the transaction that publishes the end of the last segment and creates the next.

use super::{RETRY, Taken, Takeover};
use crate::error::Error;
use futures::future::join_all;
use piculet_quorum::ids::{Level, NodeId, Revision};
use piculet_quorum::limits::{ACK_QUORUM, MEMBERS_MAX};
use piculet_quorum::meta::seal::{CreateOne, SealOne, SealSegment};
use piculet_quorum::meta::{LogView, Member, TxnOutcome, Versioned};
use piculet_quorum::wire::message::{NodeView, Proposal, Request, Response};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// A node that does not answer within this time is no member of a new segment.
const PROBE: Duration = Duration::from_millis(1000);
/// How often the nodes are probed when too few answer.
const PROBES: u32 = 3;

impl Takeover<'_> {
    /// Proposes the seal, if there is one, and a new segment on the nodes that answer. Returns
    /// nothing when something that was read is no longer so.
    pub(super) async fn publish(
        &self,
        view: &LogView,
        seal: Option<SealOne>,
    ) -> Result<Option<Taken>, Error> {
        let ensemble = self.ensemble(view.durability()).await?;
        let holder = view.record.value.holder.clone();
        let create = CreateOne { level: view.durability(), ensemble, holder };
        let proposal = SealSegment { log: self.log, read: view.record.clone(), seal, create: Some(create) };
        match self.settle(Proposal::Seal(Box::new(proposal.clone()))).await? {
            TxnOutcome::Refused => Ok(None),
            TxnOutcome::Applied(revision) => {
                let (record, created) = proposal.records();
                let (number, segment) = created.expect("the proposal creates a segment");
                let record = Versioned { revision, value: record };
                let segment = Versioned { revision, value: segment };
                Ok(Some(Taken { log: self.log, name: self.name.clone(), record, number, segment }))
            }
        }
    }

    /// Proposes the seal alone: nobody writes the log then. Returns whether it was published; if
    /// not, something that was read is no longer so.
    pub(super) async fn publish_end(&self, view: &LogView, seal: SealOne) -> Result<bool, Error> {
        let (log, read) = (self.log, view.record.clone());
        let proposal = SealSegment { log, read, seal: Some(seal), create: None };
        let outcome = self.settle(Proposal::Seal(Box::new(proposal))).await?;
        Ok(matches!(outcome, TxnOutcome::Applied(_)))
    }

    /// The members of a new segment: usable nodes that answer now.
    async fn ensemble(&self, level: Level) -> Result<Vec<(Member, Revision)>, Error> {
        if level == Level::Object {
            return Ok(Vec::new());
        }
        let mut answered = Vec::new();
        for _ in 0..PROBES {
            let nodes = self.pool.nodes().await?;
            let mut usable: Vec<_> = nodes.iter().filter(|(_, view)| view.usable(level)).collect();
            // Logs begin at different nodes, or the first ones would hold everything.
            let first = self.log.0 % usable.len().max(1) as u64;
            usable.rotate_left(first as usize);
            answered = join_all(usable.into_iter().map(|(node, view)| self.probe(node, view, level))).await;
            answered.retain(Option::is_some);
            if answered.len() >= ACK_QUORUM {
                return Ok(answered.into_iter().flatten().take(MEMBERS_MAX).collect());
            }
            sleep(RETRY).await;
        }
        let names: Vec<_> = answered.iter().flatten().map(|(member, _)| member.node.as_str()).collect();
        let there = if names.is_empty() {
            "none is there".to_owned()
        } else {
            format!("only {} is there", names.join(", "))
        };
        let or = match level {
            Level::Memory | Level::Object => "",
            Level::Disk => ", or set buffer.disk.dir where it is missing",
        };
        Err(Error::TakeOver(format!(
            "a new segment needs {ACK_QUORUM} usable nodes with a {level} buffer and {there}; start another{or}"
        )))
    }

    /// Whether a node answers, in the life that the metadata have: then it may be a member.
    async fn probe(&self, node: &NodeId, view: &NodeView, level: Level) -> Option<(Member, Revision)> {
        let (incarnation, revision) = view.incarnation(level);
        let status = timeout(PROBE, self.pool.call_node(node, &Request::Status)).await.ok()?.ok()?;
        let same = matches!(status, Response::Status(status) if status.incarnations.get(&level) == Some(&incarnation));
        same.then(|| (Member { node: node.clone(), incarnation }, revision))
    }
}
