//! Appends by a writer, and repairs by a takeover: what may be stored, and when it is acknowledged.

use super::{Held, Replica, Unanswered};
use crate::batch::{BatchEnd, BatchHeader};
use crate::ids::{Chain, Index, Level, SegmentNumber};
use crate::mutation::{Mutation, on};
use crate::wire::frame::Ack;
use crate::wire::message::{Open, Opened, Refusal};

/// One stream's right to append to a segment. It ends when another stream opens the segment, and
/// when a later epoch fences it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session(u64);

/// What to do with a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Admission {
    /// Store it at the tail, then call [`Replica::stored`].
    Store,
    /// It is here already: check it without storing it, then call [`Replica::repeated`].
    Repeat,
    /// Refuse it; the stream's right to append ends here.
    Refuse(Refusal),
}

/// What the node's buffer has at an index of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainAt {
    /// A batch begins or the tail is there, and this is the chain before it.
    Boundary(Chain),
    /// The middle of a batch.
    Inside,
    /// Nothing any more: it is archived.
    Freed,
    /// Nothing yet.
    Beyond,
}

impl Replica {
    /// A stream asks for the right to append to a segment.
    ///
    /// A repair may begin at `archived`: a node that holds less jumps there, and the buffer of the
    /// segment starts anew at the tail that is returned.
    ///
    /// # Errors
    /// With a refusal, or when the metadata must be read first.
    pub fn open(&mut self, open: &Open) -> Result<(Session, Opened), Unanswered> {
        if !on(Mutation::AmnesiacAppends) {
            self.check_addressed(open.at.incarnation)?;
        }
        let stale = on(Mutation::StaleRepairsCount) && open.repair;
        if open.at.epoch < self.fence_epoch && !stale {
            return Err(Refusal::Fenced { epoch: self.fence_epoch }.into());
        }
        if open.at.epoch > self.known_epoch {
            return Err(Unanswered::NeedMetadata);
        }
        let written_in = self.held(open.at.segment)?.record.epoch;
        let right_epoch = if open.repair { open.at.epoch > written_in } else { open.at.epoch == written_in };
        if !right_epoch {
            let (segment, epoch) = (open.at.segment, open.at.epoch);
            let what = if open.repair { "repair" } else { "append to" };
            let why =
                format!("epoch {epoch} may not {what} segment {segment}, which is of epoch {written_in}");
            return Err(Refusal::Invalid(why).into());
        }
        self.raise_fence(open.at.epoch);
        self.sessions += 1;
        let (session, incarnation) = (Session(self.sessions), self.incarnation);
        let held = self.held(open.at.segment)?;
        if open.repair && held.archived.end > held.marks.tail {
            held.jump_to_archived();
        }
        held.appender = Some((session, open.repair));
        let (tail, held) = (held.marks.tail, held.marks.held);
        Ok((session, Opened { segment: open.at.segment, incarnation, tail, held }))
    }

    /// Judges a batch, before its first byte is stored and again when all of it has come.
    #[must_use]
    pub fn admit(&self, session: Session, number: SegmentNumber, header: &BatchHeader) -> Admission {
        let held = match self.appendable(session, number) {
            Ok(held) => held,
            Err(refusal) => return Admission::Refuse(refusal),
        };
        let (tail, end) = (held.marks.tail, held.record.state.end().map(|at| at.end));
        if let Some(end) = end.filter(|end| header.end() > *end) {
            Admission::Refuse(Refusal::Sealed { end })
        } else if header.first > tail {
            Admission::Refuse(Refusal::OutOfOrder { tail })
        } else if header.first < tail {
            Admission::Repeat
        } else if header.chain != held.at_tail.chain {
            Admission::Refuse(Refusal::Conflict { index: header.first })
        } else {
            Admission::Store
        }
    }

    /// A batch that was admitted lies at the tail, whole and checked; `end` is what it leaves
    /// behind it.
    ///
    /// # Errors
    /// With a refusal when the right to append ended meanwhile; then nothing has changed and the
    /// bytes must be discarded.
    pub fn stored(
        &mut self,
        session: Session,
        number: SegmentNumber,
        header: &BatchHeader,
        end: BatchEnd,
    ) -> Result<(), Refusal> {
        if let Admission::Refuse(refusal) = self.admit(session, number, header) {
            return Err(refusal);
        }
        let held = self.held_by(session, number).ok_or(Refusal::NotHere)?;
        assert_eq!(header.first, held.marks.tail, "a stored batch starts at the tail");
        let repair = held.appender.is_some_and(|(_, repair)| repair);
        held.marks.tail = header.end();
        held.at_tail = end;
        if !repair || on(Mutation::StaleRepairsCount) {
            held.written = header.end();
        }
        if held.record.level == Level::Memory || on(Mutation::CountsUnsynced) {
            held.persisted(header.end());
        }
        Ok(())
    }

    /// The node's buffer keeps everything below `index` of a segment as its level demands, from now
    /// on. At `memory` that is so as soon as it is [`stored`](Self::stored); at `disk` once it is
    /// synced. An acknowledgement may be due.
    pub fn persisted(&mut self, number: SegmentNumber, index: Index) {
        if let Some(held) = self.segments.get_mut(&number) {
            held.persisted(index.min(held.marks.tail));
        }
    }

    /// A batch that lies below the tail has come again; `end` is what it leaves behind it, and
    /// `here` what the buffer has at its first index and at its end.
    ///
    /// # Errors
    /// With an alarm when it is not the batch that is here, or cuts one.
    pub fn repeated(
        &self,
        session: Session,
        number: SegmentNumber,
        header: &BatchHeader,
        end: BatchEnd,
        here: (ChainAt, ChainAt),
    ) -> Result<(), Refusal> {
        self.appendable(session, number)?;
        let same = |at: ChainAt, chain: Chain| match at {
            ChainAt::Boundary(known) => known == chain,
            ChainAt::Freed => true,
            ChainAt::Inside | ChainAt::Beyond => false,
        };
        if same(here.0, header.chain) && same(here.1, end.chain) {
            return Ok(());
        }
        Err(Refusal::Conflict { index: header.first })
    }

    /// The writer says that everything below `commit` is committed. Only the stream that may
    /// append as the writer is believed, and only as far as this node holds it.
    pub fn learn_commit(&mut self, session: Session, number: SegmentNumber, commit: Index) {
        let Some(held) = self.held_by(session, number) else { return };
        if held.appender.is_some_and(|(_, repair)| !repair) {
            held.heard = held.heard.max(commit);
            held.apply_heard();
        }
    }

    /// What the node holds, for the stream that may append.
    #[must_use]
    pub fn ack(&self, session: Session, number: SegmentNumber) -> Option<Ack> {
        let held = match self.segments.get(&number) {
            Some(held) if on(Mutation::AcksAfterFence) => held,
            _ => self.appendable(session, number).ok()?,
        };
        let place = self.place(number)?;
        Some(Ack { place, incarnation: self.incarnation, tail: held.marks.tail, held: held.marks.held })
    }

    /// Ends a stream's right to append, if it still has it.
    pub fn close(&mut self, session: Session, number: SegmentNumber) {
        if let Some(held) = self.held_by(session, number) {
            held.appender = None;
        }
    }

    /// Whether this stream may append to the segment now.
    #[must_use]
    pub fn may_append(&self, session: Session, number: SegmentNumber) -> bool {
        self.appendable(session, number).is_ok()
    }

    /// Whether any stream may append to the segment now.
    #[must_use]
    pub fn has_appender(&self, number: SegmentNumber) -> bool {
        self.segments.get(&number).is_some_and(|held| held.appender.is_some())
    }

    /// Whether a stream of the segment's own writer may append to it now; repairs do not count.
    #[must_use]
    pub fn has_writer(&self, number: SegmentNumber) -> bool {
        let appender = self.segments.get(&number).and_then(|held| held.appender);
        appender.is_some_and(|(_, repair)| !repair)
    }

    fn held_by(&mut self, session: Session, number: SegmentNumber) -> Option<&mut Held> {
        let held = self.segments.get_mut(&number)?;
        held.appender.is_some_and(|(current, _)| current == session).then_some(held)
    }

    fn appendable(&self, session: Session, number: SegmentNumber) -> Result<&Held, Refusal> {
        let gone = if self.deleted { Refusal::Deleted } else { Refusal::NotHere };
        let held = self.segments.get(&number).ok_or(gone)?;
        match held.appender {
            Some((current, _)) if current == session => Ok(held),
            Some(_) => Err(Refusal::Superseded),
            None if self.fence_epoch > held.record.epoch => Err(Refusal::Fenced { epoch: self.fence_epoch }),
            None => Err(Refusal::Invalid("this stream has not opened the segment".to_owned())),
        }
    }
}

impl Held {
    /// Everything below `index` is kept as the segment's level demands.
    pub(super) fn persisted(&mut self, index: Index) {
        self.marks.held = self.marks.held.max(index);
        self.marks.writer_tail = self.marks.writer_tail.max(self.written.min(self.marks.held));
        self.apply_heard();
        self.settle();
        self.marks.assert_sound();
    }

    /// Commits what the writer has told, as far as it is held; never beyond a known end or loss.
    fn apply_heard(&mut self) {
        let capped = self.record.kept().map_or(self.heard, |kept| self.heard.min(kept));
        self.marks.commit = self.marks.commit.max(capped.min(self.marks.held));
        self.marks.assert_sound();
    }

    fn jump_to_archived(&mut self) {
        let at = self.archived;
        self.marks.tail = at.end;
        self.marks.held = at.end;
        self.marks.freed = at.end;
        self.marks.commit = self.marks.commit.max(at.end);
        self.at_tail = BatchEnd { chain: at.chain, last_timestamp: at.last_timestamp };
        self.marks.assert_sound();
    }
}
