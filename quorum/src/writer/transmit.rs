//! What is sent to which node next.

use super::members::{MemberState, Segment, Stream};
use super::{Writer, WriterOptions};
use crate::batch::Place;
use crate::ids::{Incarnation, Index, NodeId};
use crate::time::Time;

/// Something to send on the stream to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transmit {
    /// Open the segment at this life of the node's buffer.
    Open(Place, Incarnation),
    /// The batches of the segment from one index to another.
    Batches(Place, Index, Index),
    /// A commit mark on its own.
    Commit(Place, Index),
}

impl Writer {
    /// The next thing to send to `node`, whose stream is up.
    pub fn poll_transmit(&mut self, now: Time, node: &NodeId) -> Option<Transmit> {
        if self.stopped {
            return None;
        }
        let (log, epoch, options) = (self.log, self.record.value.epoch, self.options);
        for segment in self.segments.iter_mut().filter(|segment| segment.record.is_some()) {
            let place = Place { log, segment: segment.number, epoch };
            let Some(at) = segment.members.iter().position(|member| member.node == *node) else { continue };
            if let Some(transmit) = segment.next_for(at, now, place, &options) {
                return Some(transmit);
            }
        }
        None
    }
}

impl Segment {
    fn next_for(&mut self, at: usize, now: Time, place: Place, options: &WriterOptions) -> Option<Transmit> {
        let (released, announce) = (self.released, self.announce);
        let to_end = self.assigned;
        if !self.helps(&self.members[at]) {
            return None;
        }
        let member = &mut self.members[at];
        match member.stream {
            Stream::Unopened(not_before) => {
                // Until the end is published, a node without a stream takes the writer for gone.
                let nothing_to_do = member.known && member.held >= to_end && self.sealed.is_some();
                if now < not_before || nothing_to_do {
                    return None;
                }
                return Some(member.start_opening(now, place));
            }
            Stream::Opening => return None,
            Stream::Open => {}
        }
        if member.told < announce {
            // Before batches: a member whose memory is full refuses those, and frees memory only as
            // far as it knows of commits.
            member.told = announce;
            return Some(Transmit::Commit(place, announce));
        }
        let from = member.sent.max(released);
        if from < to_end && member.sent >= released {
            let to = self.batch_limit(from, options.transmit_bytes);
            let member = &mut self.members[at];
            member.sent = to;
            member.owes.get_or_insert(now);
            // Batches carry the mark that was known when they were encoded, not this one.
            return Some(Transmit::Batches(place, from, to));
        }
        None
    }

    fn batch_limit(&self, from: Index, bytes: u64) -> Index {
        let first = self.batches.partition_point(|batch| batch.end <= from);
        let mut sum = 0;
        let mut to = from;
        for batch in self.batches.range(first..) {
            sum += batch.bytes;
            to = batch.end;
            if sum >= bytes {
                break;
            }
        }
        to
    }
}

impl MemberState {
    /// The first opening of a fresh segment costs no round trip: its tail is 0, so appends follow
    /// at once. Later ones ask for the tail first.
    fn start_opening(&mut self, now: Time, place: Place) -> Transmit {
        self.stream = if self.known { Stream::Opening } else { Stream::Open };
        self.known = true;
        self.sent = self.held;
        // The marks that an earlier stream carried may never have arrived.
        self.told = Index(0);
        self.owes.get_or_insert(now);
        Transmit::Open(place, self.incarnation)
    }
}
