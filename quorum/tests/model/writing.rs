//! A process that writes: the shipped writer, and what drives it.

use crate::nodes::batch_end;
use crate::state::{Invariant, LOG, Proc, State, node, number};
use piculet_quorum::ids::{Index, Offset, SegmentNumber};
use piculet_quorum::meta::seal::SealSegment;
use piculet_quorum::meta::{LogRecord, SegmentRecord, TxnOutcome, Versioned};
use piculet_quorum::time::{Span, Time};
use piculet_quorum::wire::message::{Proposal, Refusal};
use piculet_quorum::writer::{MetaReply, MetaRequest, Writer, WriterEvent, WriterOptions};

/// When every writer starts, by its own clock. Nothing ever becomes due by itself: what time would
/// do to a writer is done to it by actions.
const START: Time = Time(1_000_000_000_000);
/// Longer than anything that a writer waits for before it repeats a request.
const PAUSE: Span = Span::secs(2);
const NEVER: Span = Span::secs(1_000_000);

/// A writer, and its driver.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct Writing {
    pub(crate) writer: Writer,
    /// What it asks of the metadata.
    pub(crate) request: Option<MetaRequest>,
    now: Time,
    /// What lies behind the entry that was given out last.
    chain: u128,
}

fn options() -> WriterOptions {
    WriterOptions {
        member_timeout: NEVER,
        segment_age: NEVER,
        idle_after: NEVER,
        commit_delay: NEVER,
        ..WriterOptions::default()
    }
}

/// The chain after an entry: what is in it depends on who gave it out, and where.
fn chain_after(chain: u128, by: usize, offset: Offset) -> u128 {
    let step = ((by as u128 + 1) << 8) + u128::from(offset.0) + 1;
    (chain.rotate_left(7) ^ step).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
}

impl State {
    /// A process starts to write in a segment that is its own.
    pub(crate) fn start_writing(
        &mut self,
        by: usize,
        log: Versioned<LogRecord>,
        segment: usize,
        record: Versioned<SegmentRecord>,
    ) {
        let chain = record.value.base_chain.0;
        let mut writer = Writer::new(START, options(), LOG, log, SegmentNumber(segment as u64), record);
        for (at, there) in self.nodes.iter().enumerate() {
            if there.alive {
                writer.handle_connected(START, &node(at), there.replica.incarnation());
            }
        }
        self.wire.change(|wire| wire.sent(by, segment, chain).exists = true);
        let writing = Writing { writer, request: None, now: START, chain };
        self.procs[by].change(|proc| *proc = Proc::Writing(Box::new(writing)));
        self.with_writer(by, |_, _| ());
    }

    /// Does something to a writer, and then what that makes it do.
    pub(crate) fn with_writer(&mut self, by: usize, act: impl FnOnce(&mut Writer, Time)) -> bool {
        let mut events = Vec::new();
        let level = self.procs[by].change(|proc| {
            let Proc::Writing(writing) = proc else { return None };
            act(&mut writing.writer, writing.now);
            events.extend(std::iter::from_fn(|| writing.writer.poll_event()));
            if let Some(request) = writing.writer.poll_meta() {
                writing.request = Some(request);
            }
            Some(())
        });
        for event in events {
            self.writer_says(by, event);
        }
        level.is_some()
    }

    fn writer_says(&mut self, by: usize, event: WriterEvent) {
        match event {
            WriterEvent::Committed(offset) => self.committed(by, offset),
            WriterEvent::Opened(number, _) => {
                let Proc::Writing(writing) = &*self.procs[by] else { return };
                let (chain, segment) = (writing.chain, usize::try_from(number.0).expect("a few"));
                self.wire.change(|wire| wire.sent(by, segment, chain).exists = true);
            }
            WriterEvent::Fenced(_)
            | WriterEvent::Deleted
            | WriterEvent::Closed
            | WriterEvent::Forgotten(_) => {
                self.procs[by].change(|proc| *proc = Proc::Over);
            }
            WriterEvent::Broken(_) => {
                self.broken(Invariant::I3, "a writer finds another end than its own");
                self.procs[by].change(|proc| *proc = Proc::Over);
            }
            WriterEvent::Released(..) | WriterEvent::MemberLost(..) | WriterEvent::Parked => {}
        }
    }

    /// Everything below an offset is acknowledged to the application.
    fn committed(&mut self, by: usize, offset: Offset) {
        for segment in 0..self.store.segments() {
            let Some(record) = self.store.segment(segment) else { continue };
            let Some(index) = offset.index_in(record.base) else { continue };
            let sent = self.wire.sent.iter().position(|sent| sent.by == by && sent.segment == segment);
            let Some(sent) = sent else { continue };
            let index = index.0.min(self.wire.sent[sent].chains.len() as u64 - 1);
            self.wire.change(|wire| wire.sent[sent].commit = wire.sent[sent].commit.max(index));
            self.ghost.change(|ghost| ghost.acked[segment] = ghost.acked[segment].max(index));
        }
    }

    /// The application appends one entry.
    pub(crate) fn append(&mut self, by: usize) -> bool {
        let given = self.procs[by].change(|proc| {
            let Proc::Writing(writing) = proc else { return None };
            let before = writing.chain;
            let after = chain_after(before, by, writing.writer.next_offset());
            let assigned = writing.writer.assign(writing.now, 1, 1, batch_end(after)).ok()?;
            writing.chain = after;
            Some((usize::try_from(assigned.place.segment.0).ok()?, before, after))
        });
        let Some((segment, before, after)) = given else { return false };
        self.wire.change(|wire| wire.sent(by, segment, before).chains.push(after));
        self.with_writer(by, |_, _| ())
    }

    /// The writer hears of the largest acknowledgement of a member.
    pub(crate) fn hear_ack(&mut self, by: usize, segment: usize, at: usize) -> bool {
        let held = self.wire.acks[segment][at];
        let own = self.wire.sent.iter().any(|sent| sent.by == by && sent.segment == segment);
        if held == 0 || !own {
            return false;
        }
        let number = SegmentNumber(segment as u64);
        self.with_writer(by, |writer, now| writer.handle_ack(now, &node(at), number, Index(held)))
    }

    /// The writer takes a member of its newest segment for gone, rightly or wrongly.
    pub(crate) fn give_up(&mut self, by: usize, at: usize) -> bool {
        let newest = self.wire.sent.iter().filter(|sent| sent.by == by && sent.exists);
        let Some(segment) = newest.map(|sent| sent.segment).max() else { return false };
        let number = SegmentNumber(segment as u64);
        self.spent.rolls += 1;
        self.with_writer(by, |writer, now| {
            writer.handle_refused(now, &node(at), number, &Refusal::Draining);
        })
    }

    /// A new connection to a node is up.
    pub(crate) fn connect(&mut self, by: usize, at: usize) -> bool {
        let incarnation = self.nodes[at].replica.incarnation();
        self.with_writer(by, |writer, now| writer.handle_connected(now, &node(at), incarnation))
    }

    /// The writer hears how far a segment is archived.
    pub(crate) fn hear_archived(&mut self, by: usize, segment: usize) -> bool {
        let archived = self.store.row(segment).archived();
        let own = self.wire.sent.iter().any(|sent| sent.by == by && sent.segment == segment);
        own && self.with_writer(by, |writer, now| {
            writer.handle_archived(now, SegmentNumber(segment as u64), archived);
        })
    }

    /// The writer's request is carried out and answered.
    pub(crate) fn answer_meta(&mut self, by: usize) -> bool {
        let Some(request) = self.take_request(by) else { return false };
        let reply = match request {
            MetaRequest::Nodes => MetaReply::Nodes(self.nodes_view()),
            MetaRequest::View(from) => MetaReply::View(Box::new(self.store.view(from))),
            MetaRequest::Propose(Proposal::Seal(proposal)) => MetaReply::Outcome(self.seal(&proposal)),
            MetaRequest::Propose(_) => panic!("a writer only ever seals and creates"),
        };
        self.with_writer(by, |writer, now| writer.handle_meta(now, reply))
    }

    /// The writer's transaction fails, as far as it knows: it may yet land.
    pub(crate) fn fail_meta(&mut self, by: usize) -> bool {
        let Some(request) = self.take_request(by) else { return false };
        let MetaRequest::Propose(Proposal::Seal(proposal)) = request else { return false };
        self.spent.late += 1;
        let txn = proposal.txn();
        self.wire.change(|wire| wire.late.push(txn));
        self.with_writer(by, |writer, now| writer.handle_meta(now, MetaReply::Failed));
        let later = self.procs[by].change(|proc| {
            let Proc::Writing(writing) = proc else { return START };
            writing.now = writing.now.after(PAUSE);
            writing.now
        });
        self.with_writer(by, |writer, _| writer.handle_timeout(later))
    }

    fn take_request(&mut self, by: usize) -> Option<MetaRequest> {
        self.procs[by].change(|proc| match proc {
            Proc::Writing(writing) => writing.request.take(),
            Proc::Taking(_) | Proc::Over => None,
        })
    }

    /// A seal is checked and carried out, as a node does it for a client.
    pub(crate) fn seal(&mut self, proposal: &SealSegment) -> TxnOutcome {
        if proposal.check(self.store.snapshot()).is_err() {
            return TxnOutcome::Refused;
        }
        let outcome = self.store.change(|store| store.apply(&proposal.txn()));
        if let (TxnOutcome::Applied(_), Some(seal)) = (outcome, &proposal.seal) {
            let reborn = seal.holders.iter().any(|(holder, _)| {
                let now = self.store.incarnation(number(holder));
                seal.read.value.member(holder) != Some(now)
            });
            if reborn {
                self.broken(Invariant::I9, "a holder is counted that has forgotten");
            }
        }
        outcome
    }
}
