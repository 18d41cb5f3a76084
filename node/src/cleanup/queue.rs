//! Which logs are to be cleaned, and when.

use super::step::{self, Step};
use parking_lot::Mutex;
use piculet_quorum::ids::{LogId, Timestamp};
use piculet_quorum::meta::{Key, Record, Snapshot};
use std::collections::{BTreeSet, HashMap, HashSet};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Logs of which something may have to be deleted.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    wake: Notify,
}

/// When a log is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// Since when it could be cleaned: the turns of the nodes are counted from there.
    pub(super) asked: Instant,
    /// Not before this.
    pub(super) at: Instant,
}

#[derive(Default)]
struct State {
    /// Logs that have ever been trimmed: their segments may become ready to be deleted.
    trimmed: HashSet<LogId>,
    due: HashMap<LogId, Due>,
    /// The same, in the order of their time.
    order: BTreeSet<(Instant, LogId)>,
    busy: HashSet<LogId>,
}

impl State {
    fn put(&mut self, log: LogId, due: Due) {
        if let Some(old) = self.due.insert(log, due) {
            self.order.remove(&(old.at, log));
        }
        self.order.insert((due.at, log));
    }

    fn request(&mut self, log: LogId) {
        let now = Instant::now();
        // One that waits for its turn, or for the end of a grace, is looked at anew.
        self.put(log, Due { asked: now, at: now });
    }
}

impl Queue {
    /// A log was trimmed.
    pub fn trimmed(&self, log: LogId) {
        let mut state = self.state.lock();
        state.trimmed.insert(log);
        state.request(log);
        drop(state);
        self.wake.notify_one();
    }

    /// A log was deleted.
    pub fn deleted(&self, log: LogId) {
        let mut state = self.state.lock();
        state.trimmed.remove(&log);
        state.request(log);
        drop(state);
        self.wake.notify_one();
    }

    /// Nothing is left of a log.
    pub fn gone(&self, log: LogId) {
        let mut state = self.state.lock();
        state.trimmed.remove(&log);
        if let Some(due) = state.due.remove(&log) {
            state.order.remove(&(due.at, log));
        }
    }

    /// A segment of a log was made, sealed or archived: if the log was ever trimmed, something may
    /// have become ready to be deleted.
    pub fn segment_changed(&self, log: LogId) {
        let mut state = self.state.lock();
        if state.trimmed.contains(&log) {
            state.request(log);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Takes in a snapshot of everything.
    pub fn learn_everything(&self, snapshot: &Snapshot, now: Timestamp) {
        let mut state = self.state.lock();
        state.trimmed.clear();
        for (key, record) in &snapshot.records {
            match (key, &record.value) {
                (Key::Trim(log), Record::Trim(trim)) if trim.trim_offset.0 > 0 => {
                    state.trimmed.insert(*log);
                }
                (Key::Log(log), Record::Log(_)) if step::of(*log, snapshot, now) != Step::Nothing => {
                    state.request(*log);
                }
                _ => {}
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Takes a log that is due. It is not taken again before it is [`finished`](Self::finished).
    pub(super) fn take(&self, now: Instant) -> Option<(LogId, Instant)> {
        let mut state = self.state.lock();
        let ready = state.order.iter().take_while(|(at, _)| *at <= now);
        let (at, log) = ready.copied().find(|(_, log)| !state.busy.contains(log))?;
        state.order.remove(&(at, log));
        state.busy.insert(log);
        let due = state.due.remove(&log).expect("what is in order is due");
        Some((log, due.asked))
    }

    /// A log that was taken has been looked at. When it should be looked at again stands back behind
    /// what was asked for meanwhile.
    pub(super) fn finished(&self, log: LogId, again: Option<Due>) {
        let mut state = self.state.lock();
        state.busy.remove(&log);
        if let Some(due) = again
            && !state.due.contains_key(&log)
        {
            state.put(log, due);
        }
    }

    /// When the next log is due that nobody works at.
    pub(super) fn next(&self) -> Option<Instant> {
        let state = self.state.lock();
        state.order.iter().find(|(_, log)| !state.busy.contains(log)).map(|(at, _)| *at)
    }

    /// Resolves when something was asked for. Cancel-safe.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_due_is_taken_once_at_a_time() {
        let (queue, log) = (Queue::default(), LogId(1));
        queue.segment_changed(log);
        assert_eq!(queue.next(), None, "it was never trimmed");
        queue.trimmed(log);
        let now = Instant::now();
        assert!(queue.take(now).is_some_and(|(taken, _)| taken == log));
        queue.segment_changed(log);
        let now = Instant::now();
        assert_eq!((queue.take(now), queue.next()), (None, None), "somebody works at it");
        let later = Due { asked: now, at: now + Duration::from_secs(60) };
        queue.finished(log, Some(later));
        assert!(queue.take(now).is_some(), "it was asked for meanwhile");
        queue.finished(log, Some(later));
        assert_eq!((queue.take(now), queue.next()), (None, Some(later.at)));
        queue.gone(log);
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn the_earliest_comes_first_and_another_request_moves_it() {
        let queue = Queue::default();
        let now = Instant::now();
        for (log, seconds) in [(1, 20), (2, 10)] {
            let at = now + Duration::from_secs(seconds);
            queue.state.lock().put(LogId(log), Due { asked: now, at });
        }
        assert_eq!(queue.next(), Some(now + Duration::from_secs(10)));
        queue.deleted(LogId(1));
        assert!(queue.take(Instant::now()).is_some_and(|(log, _)| log == LogId(1)));
        assert!(queue.take(Instant::now()).is_none());
    }
}
