//! What was promised to applications and readers, and whether it holds.

use crate::actions::Bounds;
use crate::shared::Shared;
use crate::state::{Invariant, Node, Proc, SEGMENTS, State, node, number};
use piculet_quorum::cursor::Cursor;
use piculet_quorum::ids::{Epoch, Index, SegmentNumber};
use piculet_quorum::meta::{SegmentRecord, SegmentState};
use piculet_quorum::outcome::{Fate, Outcome};
use piculet_quorum::quorums::committed;
use piculet_quorum::wire::frame::Mark;
use stateright::Property;

impl State {
    /// Takes note, after a step, of what anybody could have been told, and of what never may happen
    /// in a step.
    pub(crate) fn observe(&mut self, before: &Self) {
        self.lives_go_on(before);
        let stored = !self.store.same(&before.store);
        let changed = stored || self.nodes.iter().zip(&before.nodes).any(|(new, old)| !new.same(old));
        if !changed && self.ghost.same(&before.ghost) {
            return;
        }
        for segment in 0..self.store.segments().min(SEGMENTS) {
            let Some(record) = self.store.segment(segment).cloned() else { continue };
            let seen = self.could_show(segment, &record);
            let acked = if stored { self.could_tell(segment, &record) } else { 0 };
            let end = record.state.end().map(|at| at.end.0);
            let kept = record.loss.map(|loss| loss.from.0);
            if let (Some(before), Some(now)) = (self.ghost.kept[segment], kept.or(Some(u64::MAX)))
                && now > before
            {
                self.broken(Invariant::I3, "a loss is taken back");
            }
            if kept != self.ghost.kept[segment] {
                self.ghost.change(|ghost| ghost.kept[segment] = kept);
            }
            let ghost = &self.ghost;
            let ended = end.is_some() && ghost.ends[segment].is_none();
            if seen > ghost.seen[segment] || acked > ghost.acked[segment] || ended {
                self.ghost.change(|ghost| {
                    ghost.seen[segment] = ghost.seen[segment].max(seen);
                    ghost.acked[segment] = ghost.acked[segment].max(acked);
                    ghost.ends[segment] = ghost.ends[segment].or(end);
                });
            }
        }
        if let Some((invariant, how)) = self.violated() {
            self.broken(invariant, how);
        }
        let epoch = self.store.log().value.epoch.0;
        if epoch < self.ghost.epoch {
            self.broken(Invariant::I4, "the epoch of the log goes back");
        } else if epoch > self.ghost.epoch {
            self.ghost.change(|ghost| ghost.epoch = epoch);
        }
    }

    /// I7: what only grows as long as a buffer lives.
    fn lives_go_on(&mut self, before: &Self) {
        let mut broken = None;
        // What was heard of commits is all that a process forgets.
        let same_processes = self.spent.restarts == before.spent.restarts;
        for (new, old) in self.nodes.iter().zip(&before.nodes) {
            if new.same(old) || new.replica.incarnation() != old.replica.incarnation() {
                continue;
            }
            // A fence that was not at rest was told to nobody, and may go with its process.
            let resting = old.fence_at_rest(self.store.level());
            let fence = if same_processes { old.replica.fence_epoch() } else { resting };
            if new.replica.fence_epoch() < fence {
                broken = Some("a fence goes back in a life");
            }
            for number in old.replica.segments() {
                let Some(old) = old.replica.marks(number) else { continue };
                let Some(new) = new.replica.marks(number) else {
                    let record = usize::try_from(number.0).ok().and_then(|at| self.store.segment(at));
                    if record.is_some_and(|record| !matches!(record.state, SegmentState::Archived(_))) {
                        broken = Some("a segment that is not archived vanishes in a life");
                    }
                    continue;
                };
                if new.held < old.held || new.writer_tail < old.writer_tail {
                    broken = Some("a mark shrinks in a life");
                }
                if same_processes && new.commit < old.commit {
                    broken = Some("a commit goes back in a process");
                }
            }
        }
        if let Some(how) = broken {
            self.broken(Invariant::I7, how);
        }
    }

    /// How far a reader could be shown a segment: one that has heard every mark ever sent.
    fn could_show(&mut self, segment: usize, record: &SegmentRecord) -> u64 {
        let row = self.store.row(segment);
        let archived = row.end(record);
        let open = SegmentRecord { state: SegmentState::Open, ..record.clone() };
        let mut fresh = Cursor::new(SegmentNumber(segment as u64), record, archived, Index(0));
        // One that was told everything before the segment ended.
        let mut early = Cursor::new(SegmentNumber(segment as u64), &open, open.start(), Index(0));
        let listed: Vec<usize> = record.ensemble.iter().map(|member| number(&member.node)).collect();
        for at in listed {
            let there = &self.nodes[at];
            let mark = there.replica.mark(SegmentNumber(segment as u64)).filter(|_| there.alive);
            let Some(mark) = mark else { continue };
            if record.member(&node(at)) == Some(mark.incarnation)
                && mark.writer_tail.0 > self.wire.shown[segment][at]
            {
                self.wire.change(|wire| wire.shown[segment][at] = mark.writer_tail.0);
            }
            fresh.handle_mark(&node(at), &mark);
            early.handle_mark(&node(at), &Mark { end: None, settled: false, loss: None, ..mark });
        }
        // Marks of lives that are over may have been heard too.
        for member in &record.ensemble {
            let writer_tail = Index(self.wire.shown[segment][number(&member.node)]);
            let place = piculet_quorum::batch::Place {
                log: crate::state::LOG,
                segment: SegmentNumber(segment as u64),
                epoch: record.epoch,
            };
            let zero = Index(0);
            let mark = Mark {
                place,
                incarnation: member.incarnation,
                commit: zero,
                writer_tail,
                archived: zero,
                end: None,
                settled: false,
                loss: None,
            };
            early.handle_mark(&member.node, &mark);
        }
        fresh.visible().max(early.visible()).0
    }

    /// How much a client would be told was appended, that asks what became of its entries.
    fn could_tell(&self, segment: usize, record: &SegmentRecord) -> u64 {
        if record.state == SegmentState::Open {
            return 0;
        }
        let number = SegmentNumber(segment as u64);
        let view = self.store.view(number);
        let fate = Fate::of(&view, record.epoch, number);
        let by = record.epoch.0 as usize - 1;
        let sent = self.wire.sent.iter().find(|sent| sent.by == by && sent.segment == segment);
        let given = sent.map_or(0, |sent| sent.chains.len() as u64 - 1);
        (0..given).take_while(|index| fate.outcome(Index(*index)) == Outcome::Appended).count() as u64
    }

    fn end(&self, segment: usize) -> Option<u64> {
        Some(self.store.segment(segment)?.state.end()?.end.0)
    }

    fn segments(&self) -> std::ops::Range<usize> {
        0..self.store.segments().min(SEGMENTS)
    }

    /// The invariant that does not hold now, if there is one, and how.
    fn violated(&self) -> Option<(Invariant, &'static str)> {
        if self.ghost.broken.is_some() {
            return self.ghost.broken;
        }
        let ghost = &self.ghost;
        for segment in self.segments() {
            if let Some(end) = self.end(segment) {
                // What the log's settings gave leave to lose was promised to nobody.
                let promised = self.store.segment(segment)?;
                let leave = promised.loss.is_some_and(|loss| loss.acknowledged);
                let kept = promised.kept().map_or(end, |kept| kept.0);
                if !leave && (ghost.acked[segment] > kept || ghost.seen[segment] > kept) && kept < end {
                    return Some((Invariant::I1, "a loss is recorded of what was acknowledged or shown"));
                }
                if leave {
                    continue;
                }
                if ghost.acked[segment] > end {
                    return Some((Invariant::I1, "an acknowledged entry lies beyond the end"));
                }
                if ghost.seen[segment] > end {
                    return Some((Invariant::I2, "an entry that was shown lies beyond the end"));
                }
                if ghost.ends[segment] != Some(end) {
                    return Some((Invariant::I3, "an end has changed"));
                }
            } else if ghost.ends[segment].is_some() {
                return Some((Invariant::I3, "an end has gone"));
            }
        }
        self.chained().or_else(|| self.archived()).or_else(|| self.contents()).or_else(|| self.kept())
    }

    /// I4.
    fn chained(&self) -> Option<(Invariant, &'static str)> {
        let mut open = 0;
        for segment in self.segments() {
            let record = self.store.segment(segment)?;
            open += usize::from(record.state == SegmentState::Open);
            if record.epoch > Epoch(self.procs.len() as u64) {
                return Some((Invariant::I4, "a segment has an epoch that nobody took"));
            }
            let Some(before) = segment.checked_sub(1).and_then(|before| self.store.segment(before)) else {
                continue;
            };
            let Some(end) = before.state.end() else {
                return Some((Invariant::I4, "a segment follows one that is open"));
            };
            if record.base != before.base.plus(end.end.0) || record.base_chain != end.chain {
                return Some((Invariant::I4, "a segment does not begin where the one before it ends"));
            }
        }
        (open > 1).then_some((Invariant::I4, "two segments are open"))
    }

    /// I5 and I8.
    fn archived(&self) -> Option<(Invariant, &'static str)> {
        for segment in self.segments() {
            let record = self.store.segment(segment)?;
            let row = self.store.row(segment);
            for (first, part) in &row.parts {
                let end = part.value.at.end.0;
                let object =
                    self.wire.objects.iter().find(|(s, f, e, _)| (*s, *f, *e) == (segment, first.0, end));
                let whole = object.is_some_and(|(.., content)| {
                    content.len() as u64 == end - first.0 && content.last() == Some(&part.value.at.chain.0)
                });
                if !whole {
                    return Some((Invariant::I5, "a part is recorded whose object is not whole"));
                }
            }
            if let SegmentState::Archived(at) = &record.state
                && (row.archived() < at.end || row.archived() > at.end)
            {
                return Some((Invariant::I5, "an archived segment has not all its parts"));
            }
            let acked = self.wire.acks[segment].iter().map(|held| Index(*held));
            if record.state == SegmentState::Open && row.archived() > committed(acked) {
                return Some((Invariant::I5, "a part is recorded of what was not committed"));
            }
            if self.end(segment).is_some_and(|end| row.archived().0 > end) {
                return Some((Invariant::I5, "parts reach beyond the end"));
            }
            let number = SegmentNumber(segment as u64);
            let freed = self.nodes.iter().filter_map(|node| Some(node.replica.marks(number)?.freed));
            if freed.max().is_some_and(|freed| freed > row.archived()) {
                return Some((Invariant::I8, "something is freed that is not archived"));
            }
        }
        None
    }

    /// I6: whoever is a member has what the writer of the segment has given out.
    fn contents(&self) -> Option<(Invariant, &'static str)> {
        for segment in self.segments() {
            let number = SegmentNumber(segment as u64);
            let mut all = self.wire.sent.iter().filter(|sent| sent.segment == segment && sent.exists);
            let sent = all.next();
            if all.next().is_some() {
                return Some((Invariant::I6, "two processes write in one segment"));
            }
            for at in (0..self.nodes.len()).filter(|at| self.is_member(segment, *at)) {
                let buffer = &self.nodes[at].buffers[segment];
                let Some(marks) = self.nodes[at].replica.marks(number) else { continue };
                let freed = usize::try_from(marks.freed.0).expect("a few").min(buffer.len());
                let given = sent.map_or(&[][..], |sent| &sent.chains[1..]);
                let same = given.get(freed..buffer.len()).is_some_and(|given| given == &buffer[freed..]);
                if freed < buffer.len() && !same {
                    return Some((Invariant::I6, "a member has what the writer did not give out"));
                }
            }
            if let (Some(at), Some(sent)) = (self.store.segment(segment)?.state.end(), sent) {
                let chain = usize::try_from(at.end.0).ok().and_then(|end| sent.chains.get(end));
                if chain != Some(&at.chain.0) {
                    return Some((Invariant::I6, "an end has another chain than what was given out"));
                }
            }
        }
        None
    }

    /// Whether every holder that has not forgotten it holds at rest all that is left of a sealed segment:
    /// the members that are named are those that it can be uploaded from.
    fn holders_hold(&self, segment: usize, record: &SegmentRecord) -> bool {
        let (SegmentState::Sealed(seal), Some(kept)) = (&record.state, record.kept()) else { return true };
        seal.holders.iter().map(number).filter(|at| self.is_member(segment, *at)).all(|at| {
            // Whoever has not heard of the segment since it started holds nothing of it.
            let marks = self.nodes[at].replica.marks(SegmentNumber(segment as u64));
            marks.map_or(Index(0), |marks| marks.held) >= kept
        })
    }

    /// How many members of a segment have been lost.
    fn losses(&self, segment: usize) -> usize {
        let members = self.store.segment(segment).map_or(&[][..], |record| &record.ensemble);
        members.iter().filter(|member| !self.is_member(segment, number(&member.node))).count()
    }

    /// I11 and I12: with one loss at most, nothing that was promised is lost.
    fn kept(&self) -> Option<(Invariant, &'static str)> {
        for segment in self.segments() {
            let record = self.store.segment(segment)?;
            if !self.holders_hold(segment, record) {
                return Some((Invariant::I12, "a holder lacks what lies below the end, or the loss"));
            }
            // What the log's settings gave leave to lose was promised to nobody.
            if self.losses(segment) > 1 || record.loss.is_some_and(|loss| loss.acknowledged) {
                continue;
            }
            let left = record.loss.map_or(u64::MAX, |loss| loss.from.0);
            let acked = self.ghost.acked[segment].min(left);
            let settled = if record.settled() { self.end(segment).unwrap_or_default().min(left) } else { 0 };
            let archived = self.store.row(segment).archived().0;
            let number = SegmentNumber(segment as u64);
            let members = (0..self.nodes.len()).filter(|at| self.is_member(segment, *at));
            let held = members.filter_map(|at| Some(self.nodes[at].replica.marks(number)?.held.0));
            let safe = held.max().unwrap_or_default().max(archived);
            if acked > safe {
                return Some((Invariant::I11, "an acknowledged entry is on no live member"));
            }
            if settled > safe {
                return Some((Invariant::I12, "an entry below a settled end is on no live member"));
            }
        }
        None
    }
}

/// What some configuration must reach, or its invariants prove nothing.
pub(crate) fn sometimes() -> Vec<Property<Bounds>> {
    fn end_of(state: &State, segment: usize) -> Option<(u64, bool)> {
        Some((state.end(segment)?, state.store.segment(segment)?.settled()))
    }
    vec![
        Property::sometimes("a takeover keeps acknowledged entries", |_, state: &State| {
            let acked = state.ghost.acked[0];
            acked > 0 && state.procs.len() > 1 && end_of(state, 0).is_some_and(|(end, _)| end >= acked)
        }),
        Property::sometimes("a repair was needed", |_, state: &State| state.ghost.repaired),
        Property::sometimes("two takeovers race", |_, state: &State| {
            let taking = state.procs.iter().filter(|proc| matches!(***proc, Proc::Taking(_)));
            taking.count() > 1
        }),
        Property::sometimes("a recovery starts over", |_, state: &State| state.ghost.restarted_recovery),
        Property::sometimes("a segment is archived", |_, state: &State| {
            let record = state.store.segment(0);
            record
                .is_some_and(|record| matches!(record.state, SegmentState::Archived(at) if at.end > Index(0)))
        }),
        Property::sometimes("a node restarts with what it held", |_, state: &State| {
            let held =
                |node: &Shared<Node>| node.replica.marks(SegmentNumber(0)).is_some_and(|m| m.held.0 > 0);
            state.spent.restarts > 0 && state.nodes.iter().any(held)
        }),
        Property::sometimes("a seal is not settled", |_, state: &State| {
            end_of(state, 0).is_some_and(|(_, settled)| !settled)
        }),
        Property::sometimes("a loss is recorded", |_, state: &State| {
            state.ghost.kept.iter().any(Option::is_some)
        }),
        Property::sometimes("a live writer rolls", |_, state: &State| {
            state.wire.sent.iter().any(|sent| sent.by == 0 && sent.segment > 0 && sent.exists)
        }),
    ]
}
