//! What a stream of appends has opened: the rights that it has, what it is told of them, and their
//! end.

use super::{Appends, Settings};
use crate::logs::LogState;
use crate::metrics;
use piculet_quorum::ids::{Index, Level, SegmentNumber};
use piculet_quorum::meta::SegmentRecord;
use piculet_quorum::replica::{Session, Unanswered};
use piculet_quorum::wire::frame::{self, Kind};
use piculet_quorum::wire::message::{Open, Opened, Refusal, Refused};
use piculet_storage::Position;

/// The right to append to a segment that this stream has, or had.
pub(super) struct Opening {
    pub(super) session: Session,
    /// Whether there is something to acknowledge.
    pub(super) dirty: bool,
    /// What was acknowledged last.
    held: Option<Index>,
    /// How far the client was told that the segment is archived.
    archived: Index,
    /// Whether the client was told that the node is about to stop.
    told_draining: bool,
}

impl Appends<'_> {
    /// Opens a segment, reading the metadata first where the replica asks for that. A repair may
    /// start at what is archived, so it always wants to know that. An entry of a producer that was
    /// refused for now waits for the log's settings.
    pub(super) async fn open(&mut self, open: &Open) {
        let mut refreshed = false;
        if open.repair || self.settings == Settings::Wanted {
            if let Err(refusal) = self.refresh().await {
                return self.tell_refused(open.at.segment, refusal);
            }
            if self.settings == Settings::Wanted {
                self.settings = Settings::Read;
            }
            refreshed = true;
        }
        loop {
            match self.try_open(open) {
                Ok((opened, level, rest)) => {
                    // Whoever is told takes it that no older epoch appends here any more.
                    self.shared.core.until_at_rest(level, rest).await;
                    let message = frame::message(Kind::Opened, &opened).expect("an Opened message is short");
                    return self.out.extend_from_slice(&message);
                }
                Err(Unanswered::Refused(refusal)) => return self.tell_refused(open.at.segment, refusal),
                Err(Unanswered::NeedMetadata) if refreshed => {
                    return self.tell_refused(open.at.segment, Refusal::NotHere);
                }
                Err(Unanswered::NeedMetadata) => {
                    if let Err(refusal) = self.refresh().await {
                        return self.tell_refused(open.at.segment, refusal);
                    }
                    refreshed = true;
                }
            }
        }
    }

    /// Opens a segment. Says as well when that may be told: how far its level's buffer must have
    /// synced.
    pub(super) fn try_open(&mut self, open: &Open) -> Result<(Opened, Level, Position), Unanswered> {
        let core = &self.shared.core;
        if self.slot.is_none() {
            self.slot = core.logs.get(self.log);
        }
        let Some(slot) = self.slot.clone() else { return Err(Unanswered::NeedMetadata) };
        let mut state = slot.lock();
        let segment = open.at.segment;
        let empty = state.replica.marks(segment).is_none_or(|marks| marks.tail == Index(0));
        if core.draining() && !open.repair && empty {
            return Err(Refusal::Draining.into());
        }
        let (session, opened) = state.replica.open(open)?;
        let rest = slot.fence_at(core, &mut state)?;
        if let Some(local) = state.segments.get_mut(&segment) {
            local.buffer.discard();
        }
        state.follow_jump(segment);
        state.note_writers(core.clock.now());
        if let Some(local) = state.segments.get_mut(&segment).filter(|_| !open.repair) {
            local.writer.peer = Some(self.peer.to_owned());
        }
        // Whoever had the right before is told that it has gone.
        slot.notify_changed();
        let opening = Opening { session, dirty: true, held: None, archived: Index(0), told_draining: false };
        self.sessions.insert(segment, opening);
        Ok((opened, slot.level, rest))
    }

    async fn refresh(&mut self) -> Result<(), Refusal> {
        match self.shared.core.refresh_log(self.log).await {
            Ok(Some(slot)) => {
                self.slot = Some(slot);
                Ok(())
            }
            Ok(None) => Err(Refusal::Deleted),
            Err(error) => Err(Refusal::Unavailable(error.to_string())),
        }
    }

    /// Whether an entry of a producer may come: the log's settings say so before the first one is
    /// sent. The node's watch may not have shown that yet, so they are read before it is refused for
    /// good.
    pub(super) fn check_producers(&mut self, state: &mut LogState) -> Result<(), Refusal> {
        if state.takes_producers(&self.shared.core, self.log) {
            return Ok(());
        }
        let log = self.log;
        if std::mem::replace(&mut self.settings, Settings::Wanted) != Settings::Read {
            return Err(Refusal::Unavailable(format!(
                "this node does not know yet that log {log} takes entries of producers; send the append again, and its settings are read first"
            )));
        }
        self.settings = Settings::Unasked;
        Err(Refusal::Invalid(format!(
            "an entry of a producer for log {log}, whose settings do not say that it has any: ask a node for the log's table of producers before the first one is sent, which makes them say so"
        )))
    }

    /// Acknowledges what has come since the last time; at a level that syncs, what has been synced.
    pub(super) fn acknowledge(&mut self) {
        let Some(slot) = self.slot.clone() else { return };
        let (syncs, come) = (slot.level == Level::Disk, self.sessions.values().any(|opening| opening.dirty));
        if !come && (!syncs || self.sessions.is_empty()) {
            return;
        }
        let state = slot.lock();
        for (segment, opening) in self.sessions.iter_mut().filter(|(_, opening)| syncs || opening.dirty) {
            opening.dirty = false;
            let ack = state.replica.ack(opening.session, *segment);
            if let Some(ack) = ack.filter(|ack| !syncs || opening.held != Some(ack.held)) {
                opening.held = Some(ack.held);
                metrics::acked();
                self.out.extend_from_slice(&ack.encode());
            }
        }
        drop(state);
        if come {
            slot.grown.notify_waiters();
        }
    }

    /// Something but the tail has changed: tells the client what concerns it.
    pub(super) fn look(&mut self) {
        let Some(slot) = self.slot.clone() else { return };
        let version = slot.version();
        if version == self.looked {
            return;
        }
        self.looked = version;
        let mut state = slot.lock();
        if state.replica.deleted() {
            drop(state);
            for segment in std::mem::take(&mut self.sessions).into_keys() {
                self.tell_refused(segment, Refusal::Deleted);
            }
            return;
        }
        // What is archived whole is not here any more, and nothing is left to be said of it.
        self.sessions.retain(|segment, _| state.segments.contains_key(segment));
        let draining = self.shared.core.draining();
        let segments: Vec<SegmentNumber> = self.sessions.keys().copied().collect();
        for segment in segments {
            let Some(opening) = self.sessions.get_mut(&segment) else { continue };
            // What is lost is in the archive's row, and was not appended.
            let kept = state.replica.record(segment).and_then(SegmentRecord::kept);
            let archived =
                state.replica.archived(segment).map(|at| kept.map_or(at.end, |kept| at.end.min(kept)));
            if let (Some(archived), Some(place)) = (archived, state.replica.place(segment))
                && archived > opening.archived
            {
                opening.archived = archived;
                let incarnation = state.replica.incarnation();
                self.out.extend_from_slice(&frame::archived(&place, incarnation, archived));
            }
            if state.segments.contains_key(&segment) && !state.replica.may_append(opening.session, segment) {
                self.refuse_lost(&mut state, segment);
            } else if draining && !opening.told_draining {
                opening.told_draining = true;
                self.tell_refused(segment, Refusal::Draining);
            }
        }
    }

    /// The right to append has gone to somebody else.
    pub(super) fn refuse_lost(&mut self, state: &mut LogState, segment: SegmentNumber) {
        if self.sessions.remove(&segment).is_some() {
            if state.replica.deleted() {
                return self.tell_refused(segment, Refusal::Deleted);
            }
            let epoch = state.replica.fence_epoch();
            let written_in = state.replica.place(segment).map(|place| place.epoch);
            let refusal = if written_in.is_some_and(|written_in| epoch > written_in) {
                Refusal::Fenced { epoch }
            } else {
                Refusal::Superseded
            };
            self.tell_refused(segment, refusal);
        }
    }

    /// Refuses what the stream appends to a segment, until it is opened again.
    pub(super) fn refuse(&mut self, state: &mut LogState, segment: SegmentNumber, refusal: Refusal) {
        if let Some(opening) = self.sessions.remove(&segment) {
            state.replica.close(opening.session, segment);
            state.note_writers(self.shared.core.clock.now());
            if matches!(refusal, Refusal::Conflict { .. }) {
                tracing::error!(log = %self.log, %segment, %refusal, "an append contradicts what is here");
            }
            self.tell_refused(segment, refusal);
        }
    }

    pub(super) fn tell_refused(&mut self, segment: SegmentNumber, why: Refusal) {
        tracing::debug!(log = %self.log, %segment, %why, "refused appends");
        metrics::refused(&why);
        let message = frame::message(Kind::Refused, &Refused { segment, why }).expect("a refusal is short");
        self.out.extend_from_slice(&message);
    }
}

impl Drop for Appends<'_> {
    /// The stream has ended, or its connection, which drops it wherever it stands: what it staged is
    /// discarded, and its rights end.
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let mut state = slot.lock();
        for (segment, opening) in std::mem::take(&mut self.sessions) {
            if state.replica.may_append(opening.session, segment) {
                if let Some(local) = state.segments.get_mut(&segment) {
                    local.buffer.discard();
                }
                state.replica.close(opening.session, segment);
            }
        }
        state.note_writers(self.shared.core.clock.now());
    }
}
