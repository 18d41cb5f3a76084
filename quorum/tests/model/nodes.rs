//! What nodes do: store, answer, learn, fall and start again.

use crate::state::{Invariant, LOG, Node, State, node};
use piculet_quorum::batch::{BatchEnd, BatchHeader};
use piculet_quorum::ids::{Chain, Epoch, Index, Level, SegmentNumber, Timestamp};
use piculet_quorum::mutation::{Mutation, on};
use piculet_quorum::replica::{Admission, Kept, Learned, Replica, Session, Unanswered};
use piculet_quorum::wire::message::{Address, Open, Refusal};

/// An entry of the model, after which the chain is `chain`.
pub(crate) fn batch_end(chain: u128) -> BatchEnd {
    BatchEnd { chain: Chain(chain), last_timestamp: Timestamp(0) }
}

fn header(first: u64, chain: u128) -> BatchHeader {
    BatchHeader { body_len: 1, count: 1, first: Index(first), chain: Chain(chain) }
}

impl State {
    /// Asks a replica, which reads the metadata when it must.
    pub(crate) fn ask<R>(
        &mut self,
        at: usize,
        segment: usize,
        ask: impl Fn(&mut Replica) -> Result<R, Unanswered>,
    ) -> Result<R, Refusal> {
        match self.nodes[at].change(|node| ask(&mut node.replica)) {
            Ok(answer) => Ok(answer),
            Err(Unanswered::Refused(refusal)) => Err(refusal),
            Err(Unanswered::NeedMetadata) => {
                self.learn(at, segment);
                match self.nodes[at].change(|node| ask(&mut node.replica)) {
                    Ok(answer) => Ok(answer),
                    Err(Unanswered::Refused(refusal)) => Err(refusal),
                    Err(Unanswered::NeedMetadata) => Err(Refusal::NotHere),
                }
            }
        }
    }

    /// A node reads the log's epoch, and the record of a segment.
    pub(crate) fn learn(&mut self, at: usize, segment: usize) {
        let epoch = self.store.log().value.epoch;
        let record = self.store.segment(segment).cloned();
        let archived = record.as_ref().map(|record| self.store.row(segment).end(record));
        self.nodes[at].change(|node| {
            node.replica.learn_log(epoch);
            let (Some(record), Some(archived)) = (record, archived) else { return };
            let number = SegmentNumber(segment as u64);
            if node.replica.learn_segment(number, &record, archived) == Learned::Drop {
                node.buffers[segment].clear();
            }
        });
    }

    /// Whether a node may tell what rests on its fence. As in the product, whoever may not be answered
    /// yet is answered when it asks again.
    pub(crate) fn fence_rests(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let rests = node.fence_at_rest(self.store.level()) >= node.replica.fence_epoch();
        rests || on(Mutation::FenceUnsynced)
    }

    /// The next entry that a process has given out in a segment reaches a node, which stores it.
    pub(crate) fn deliver(&mut self, sent: usize, at: usize) -> bool {
        let (by, segment, chains) = {
            let sent = &self.wire.sent[sent];
            if !sent.exists || sent.chains.len() == 1 {
                return false;
            }
            (sent.by, sent.segment, sent.chains.clone())
        };
        let Some(session) = self.stream(by, segment, at) else { return false };
        let number = SegmentNumber(segment as u64);
        let tail = self.nodes[at].replica.marks(number).map_or(0, |marks| marks.tail.0);
        let Some([before, after]) = chains.get(tail as usize..tail as usize + 2) else { return false };
        let (header, end) = (header(tail, *before), batch_end(*after));
        if !self.store_batch(session, segment, at, &header, end) {
            return false;
        }
        self.acknowledge(by, segment, at);
        true
    }

    /// A batch is admitted and stored, or not.
    pub(crate) fn store_batch(
        &mut self,
        session: Session,
        segment: usize,
        at: usize,
        header: &BatchHeader,
        end: BatchEnd,
    ) -> bool {
        let number = SegmentNumber(segment as u64);
        match self.nodes[at].replica.admit(session, number, header) {
            Admission::Store => self.nodes[at].change(|node| {
                node.buffers[segment].truncate(usize::try_from(header.first.0).expect("a few"));
                node.buffers[segment].push(end.chain.0);
                node.replica.stored(session, number, header, end).is_ok()
            }),
            Admission::Refuse(Refusal::Conflict { .. }) => {
                self.broken(Invariant::I6, "an append continues another content than what is held");
                true
            }
            Admission::Repeat | Admission::Refuse(_) => false,
        }
    }

    /// A member tells a writer what it holds.
    pub(crate) fn acknowledge(&mut self, by: usize, segment: usize, at: usize) {
        let Some(session) = self.open_stream(by, segment, at).filter(|_| self.fence_rests(at)) else {
            return;
        };
        let ack = self.nodes[at].replica.ack(session, SegmentNumber(segment as u64));
        if let Some(ack) = ack
            && ack.held.0 > self.wire.acks[segment][at]
        {
            let counted = self.store.segment(segment).and_then(|record| record.member(&node(at)));
            if counted != Some(ack.incarnation) {
                self.broken(Invariant::I9, "an acknowledgement of another life is taken");
            }
            self.wire.change(|wire| wire.acks[segment][at] = ack.held.0);
        }
    }

    fn open_stream(&self, by: usize, segment: usize, at: usize) -> Option<Session> {
        let streams = self.nodes[at].streams.iter();
        streams.filter(|(whose, _)| *whose == (by, segment)).map(|(_, session)| *session).next()
    }

    /// A writer's stream to a node, opened if it was not.
    fn stream(&mut self, by: usize, segment: usize, at: usize) -> Option<Session> {
        if !self.nodes[at].alive {
            return None;
        }
        let session = self.open_stream(by, segment, at);
        if session.is_some() {
            return session;
        }
        let epoch = Epoch(by as u64 + 1);
        let incarnation = self.store.segment(segment)?.member(&node(at))?;
        let address = Address { log: LOG, segment: SegmentNumber(segment as u64), epoch, incarnation };
        let open = Open { at: address, repair: false };
        let (session, _) = self.ask(at, segment, |replica| replica.open(&open)).ok()?;
        self.nodes[at].change(|node| {
            node.streams.push(((by, segment), session));
            node.streams.sort();
        });
        Some(session)
    }

    /// The largest commit mark that a writer has sent reaches a member.
    pub(crate) fn mark(&mut self, sent: usize, at: usize) -> bool {
        let (by, segment, commit) = {
            let sent = &self.wire.sent[sent];
            (sent.by, sent.segment, sent.commit)
        };
        let Some(session) = self.open_stream(by, segment, at).filter(|_| self.nodes[at].alive) else {
            return false;
        };
        let number = SegmentNumber(segment as u64);
        self.nodes[at].change(|node| node.replica.learn_commit(session, number, Index(commit)));
        true
    }

    /// A fence is synced before what was stored until then: no safety rests on their order. (Where nothing
    /// was stored, or its own writer raised the fence, it is synced with the rest.)
    pub(crate) fn sync_fence(&mut self, at: usize) -> bool {
        let node = &self.nodes[at];
        let fence = node.replica.fence_epoch();
        let waits = node.replica.segments().any(|number| {
            let marks = node.replica.marks(number);
            let fenced = node.replica.record(number).is_some_and(|record| record.epoch < fence);
            fenced && marks.is_some_and(|marks| marks.held < marks.tail)
        });
        if !node.alive || !waits || node.synced_fence >= fence {
            return false;
        }
        self.nodes[at].change(|node| node.synced_fence = fence);
        true
    }

    /// Everything that is stored of a segment is synced now, and the fence.
    pub(crate) fn sync(&mut self, segment: usize, at: usize) -> bool {
        let number = SegmentNumber(segment as u64);
        let Some(marks) = self.nodes[at].replica.marks(number) else { return false };
        let node = &self.nodes[at];
        let synced = node.synced[segment] >= marks.tail.0 && node.synced_fence >= node.replica.fence_epoch();
        if !node.alive || synced {
            return false;
        }
        self.nodes[at].change(|node| {
            node.synced[segment] = marks.tail.0;
            node.synced_fence = node.replica.fence_epoch();
            node.replica.persisted(number, marks.tail);
        });
        for by in 0..self.procs.len() {
            self.acknowledge(by, segment, at);
        }
        true
    }

    /// A node falls silent, for good as far as anybody can tell.
    pub(crate) fn dies(&mut self, at: usize) {
        self.spent.crashes += 1;
        self.nodes[at].change(|node| node.alive = false);
    }

    /// A node starts with an empty buffer, in its next life.
    pub(crate) fn reborn(&mut self, at: usize) {
        if self.nodes[at].alive {
            self.spent.crashes += 1;
        }
        let incarnation = self.store.change(|store| store.reborn(at));
        self.nodes[at] = crate::shared::Shared::new(Node::new(Replica::new(node(at), incarnation, LOG)));
    }

    /// A node starts with the buffer that it had: it lost nothing that was synced.
    pub(crate) fn restarts(&mut self, at: usize) {
        self.spent.restarts += 1;
        self.store.change(|store| store.kept(at));
        let old = self.nodes[at].clone();
        let replica = &old.replica;
        let fence = old.fence_at_rest(self.store.level());
        let mut node = Node::new(Replica::resumed(node(at), replica.incarnation(), LOG, fence));
        for number in replica.segments() {
            let segment = usize::try_from(number.0).expect("a few");
            let (Some(record), Some(marks)) = (self.store.segment(segment), replica.marks(number)) else {
                continue;
            };
            let held = match record.level {
                Level::Disk => Index(old.synced[segment]).max(marks.freed),
                _ => marks.held,
            };
            let mut buffer = old.buffers[segment].clone();
            buffer.truncate(usize::try_from(held.0).expect("a few"));
            node.synced[segment] = held.0;
            let chain = buffer.last().copied().unwrap_or(record.base_chain.0);
            let kept = Kept {
                tail: held,
                writer_tail: marks.writer_tail.min(held),
                freed: marks.freed.min(held),
                at_tail: batch_end(chain),
            };
            let archived = self.store.row(segment).end(record);
            if node.replica.restore(number, record, archived, &kept) != Learned::Drop {
                node.buffers[segment] = buffer;
            }
        }
        self.nodes[at] = crate::shared::Shared::new(node);
    }
}
