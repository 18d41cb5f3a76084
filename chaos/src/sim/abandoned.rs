//! A log that has lost its writer: the members of its open segment are heard, and when these agree
//! that it has gone, a node seals the segment without a next one, in an epoch made from the record
//! that was judged.

use super::events::{Event, NodeIx};
use super::healing::Healing;
use super::loss::Losses;
use super::world::{MS, World};
use piculet_quorum::ids::{NodeId, SegmentNumber};
use piculet_quorum::liveness::{Liveness, beyond_recovery, judge, not_contradicted};
use piculet_quorum::meta::{LogView, SegmentRecord};
use piculet_quorum::time::Span;
use piculet_quorum::wire::message::WriterSeen;
use std::collections::{BTreeMap, BTreeSet};

impl World {
    /// A node looks whether the log has been abandoned.
    pub(crate) fn guard_tick(&mut self) {
        let period = self.rng.between(30 * MS, 150 * MS);
        // In the end of such a run there is one writer, which goes on to its own end.
        if self.healing && self.ends == Healing::Replaced {
            return;
        }
        self.schedule(period, Event::GuardTick);
        if self.store.away || self.clients.iter().any(super::client::Client::takes_over) {
            return;
        }
        let newest = self.store.now.log().value.next_segment.0;
        let view = self.store.now.view(SegmentNumber(newest.saturating_sub(1)));
        let Some((number, segment)) = view.open_segment() else { return };
        let (record, epoch) = (&segment.record.value, view.record.value.epoch);
        if self.epoch_since.0 != epoch {
            self.epoch_since = (epoch, self.now);
        }
        // A takeover may be at work in a later epoch than the segment's.
        if self.now - self.epoch_since.1 < self.writer_timeout * MS {
            return;
        }
        let (mut answers, mut silent) = (BTreeMap::new(), BTreeSet::new());
        for member in &record.ensemble {
            match self.writer_seen(self.node_ix(&member.node), number) {
                Some(seen) => {
                    answers.insert(member.node.clone(), seen);
                }
                None => {
                    silent.insert(member.node.clone());
                }
            }
        }
        let timeout = Span::millis(self.writer_timeout);
        let gone = match judge(&record.ensemble, epoch, &answers, &silent, timeout) {
            Liveness::Gone => true,
            Liveness::Alive { .. } => false,
            Liveness::Unsure => {
                self.is_beyond_recovery(&view, record)
                    && not_contradicted(&record.ensemble, epoch, &answers, timeout)
            }
        };
        if gone {
            self.run.abandoned += 1;
            self.start_guard(view.record);
        }
    }

    /// Whether too few members are left to tell where a segment ends, and the log may lose what they
    /// had; an operator is asked for leave.
    fn is_beyond_recovery(&mut self, view: &LogView, record: &SegmentRecord) -> bool {
        let nodes = self.listed_nodes();
        let current = |node: &NodeId| nodes.get(node).map(|view| view.incarnation(record.level).0);
        if beyond_recovery(&record.ensemble, current).is_empty() {
            return false;
        }
        assert_eq!(self.losses, Losses::Any, "I11: more is lost than the budget");
        if view.allows_loss().is_none() {
            self.ask_for_leave();
        }
        view.allows_loss().is_some()
    }

    /// What a node says of the writer of a segment; none when it does not answer.
    fn writer_seen(&self, at: NodeIx, number: SegmentNumber) -> Option<WriterSeen> {
        let node = &self.nodes[at];
        let since = node.writers.get(&number).filter(|_| node.reachable() && !node.paused)?;
        let gone = since.map(|since| (self.now - since) / MS);
        let epoch = node.replica.known_epoch();
        Some(WriterSeen { incarnation: node.incarnation, epoch, gone_ms: gone, peer: None })
    }

    /// A node notes of which segments the writer has a stream here.
    pub(crate) fn note_writers(&mut self, at: NodeIx) {
        let (now, node) = (self.now, &mut self.nodes[at]);
        let segments: Vec<SegmentNumber> = node.replica.segments().collect();
        node.writers.retain(|number, _| segments.contains(number));
        for number in segments {
            let there = node.replica.has_writer(number);
            let since = node.writers.entry(number).or_insert(Some(now));
            *since = if there { None } else { Some(since.unwrap_or(now)) };
        }
    }
}
