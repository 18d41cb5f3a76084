//! How a node's process starts and ends, what it syncs, and what it learns from its watch.

use super::events::{Event, Known, NodeIx};
use super::journal::Journal;
use super::node::{Node, batch_end};
use super::rest::Rest;
use super::rng::Rng;
use super::schedule::Hazard;
use super::store::{LOG, Records};
use super::upload::Uploads;
use super::world::{MS, World};
use piculet_node::lives::Lives;
use piculet_quorum::batch::Place;
use piculet_quorum::ids::{Index, Level, Nonce, Revision, SegmentNumber};
use piculet_quorum::meta::register::{Start, swap_life};
use piculet_quorum::meta::{
    IncarnationRecord, Key, LeaseId, NodeRecord, NodeState, Record, SegmentRecord, Txn, Write,
};
use piculet_quorum::replica::{Learned, Replica};

impl Node {
    /// The process is gone. What is at rest stays.
    pub(crate) fn stop(&mut self) {
        self.up = false;
        self.boot += 1;
        self.mine = None;
        self.paused = false;
        self.rereading = false;
        self.backlog.clear();
        self.conns.clear();
        self.stalled.clear();
        self.sessions.clear();
        self.unsynced.clear();
        self.uploads = Uploads::default();
        self.writers.clear();
        self.lives = Lives::default();
        self.rest.process_ends();
    }

    /// The buffer is gone.
    pub(crate) fn forget(&mut self, level: Level) {
        self.forgot = true;
        self.start = Start::default();
        self.rest = Rest::new(level, self.capacity);
        self.journal = (level == Level::Disk).then(|| Journal::new(self.boot));
    }

    /// A new process takes up what an earlier one has left in this life of the buffer. Returns how
    /// much of what was written is lost.
    fn take_up(&mut self) -> usize {
        self.rest.process_starts();
        let lost = self.journal.as_mut().map_or(0, |journal| journal.replay(&mut self.rest));
        let (incarnation, fence) = (self.incarnation, self.rest.fence());
        self.replica = Replica::resumed(self.id.clone(), incarnation, LOG, fence);
        self.replica.learn_log(self.mirror.log().value.epoch);
        let left: Vec<SegmentNumber> = self.rest.runs.keys().copied().collect();
        for number in left {
            let Some(record) = self.mirror.segment(number) else {
                self.rest.remove(number);
                continue;
            };
            let archived = self.mirror.archived(number, &record.value);
            let kept = self.rest.runs[&number].kept();
            let learned = self.replica.restore(number, &record.value, archived, &kept);
            self.learned(number, &record.value, learned);
        }
        lost
    }

    /// The process is gone while it writes some of what waits, at some operation of the disk.
    pub(crate) fn stops_writing(&mut self, rng: &mut Rng) {
        let Some(journal) = &mut self.journal else { return };
        let to = self.rest.synced_to() + rng.between(0, self.rest.unsynced() as u64 + 1);
        journal.process_ends(self.rest.changes(to), rng.between(1, 12));
    }

    pub(crate) fn learn(&mut self, known: &Known) {
        self.replica.learn_log(known.epoch);
        for (number, record, archived) in &known.segments {
            let learned = self.replica.learn_segment(*number, record, *archived);
            self.learned(*number, record, learned);
        }
        for number in &known.gone {
            self.replica.drop_segment(*number);
            self.rest.remove(*number);
        }
    }

    fn learned(&mut self, number: SegmentNumber, record: &SegmentRecord, learned: Learned) {
        match learned {
            Learned::NotMine => {}
            Learned::FreeBelow(index) => {
                let place = Place { log: LOG, segment: number, epoch: record.epoch };
                self.rest.create(place, batch_end(&record.start()));
                self.rest.free_below(number, index);
            }
            Learned::Drop => self.rest.remove(number),
        }
    }
}

impl World {
    /// A node's process starts, or goes on starting: it completes the swap of its incarnation record
    /// that an earlier process began, then makes its own, and serves once the record shows that.
    pub(crate) fn node_returns(&mut self, at: NodeIx, boot: u64) {
        if self.nodes[at].boot != boot || self.nodes[at].up {
            return;
        }
        if self.store.away {
            return self.schedule(50 * MS, Event::NodeUp { node: at, boot });
        }
        let key = Key::Incarnation(self.nodes[at].id.clone(), self.level);
        let read = self.store.now.snapshot([key.clone()]).incarnation(&key);
        let shown = read.as_ref().map(|read| read.value);
        if let Some(mine) = self.nodes[at].mine.take_if(|mine| Some(*mine) == shown) {
            return self.node_is_up(at, mine);
        }
        let life = match self.nodes[at].start.unfinished(shown.as_ref()) {
            Some(begun) => begun,
            None => self.begin_swap(at, shown.as_ref()),
        };
        let txn = swap_life(&self.nodes[at].id, self.level, read.as_ref(), life);
        let untold = self.strikes(Hazard::StartUntold);
        let delay = if untold { self.rng.between(MS, 300 * MS) } else { self.rng.between(MS, 5 * MS) };
        if !self.strikes(Hazard::StartLost) {
            self.schedule(delay, Event::StartLands { txn });
        }
        let again = if untold { 100 * MS } else { delay };
        self.schedule(again, Event::NodeUp { node: at, boot });
    }

    /// The swap of this start: noted at rest before it is sent.
    fn begin_swap(&mut self, at: NodeIx, shown: Option<&IncarnationRecord>) -> IncarnationRecord {
        let nonce = Nonce(u128::from(self.fresh_id()));
        let node = &mut self.nodes[at];
        let keep = node.start.may_keep(shown);
        assert!(keep || node.start.adopted.is_none(), "I9: {} discards a whole buffer", node.id);
        if node.start.has_landed(shown) {
            node.start.adopted = node.start.begun;
        }
        let kept = shown.map(|shown| shown.incarnation).filter(|_| keep);
        let incarnation = kept.unwrap_or_else(|| node.start.next(shown));
        let life = IncarnationRecord { incarnation, nonce };
        node.start.begun = Some(life);
        node.mine = Some(life);
        life
    }

    pub(crate) fn start_lands(&mut self, txn: &Txn) {
        if !self.store.away {
            self.apply(txn);
        }
    }

    fn node_is_up(&mut self, at: NodeIx, life: IncarnationRecord) {
        let lease = LeaseId(self.fresh_id() as i64);
        let node = &mut self.nodes[at];
        node.mirror = self.store.now.clone();
        node.watch_at = 0;
        node.lease = lease;
        node.incarnation = life.incarnation;
        node.start = Start { adopted: Some(life), ..Start::default() };
        node.forgot = false;
        node.up = true;
        node.life += 1;
        self.run.unsynced_losses += node.take_up() as u64;
        self.note_lives(at);
        self.register(at);
    }

    /// A node that has no lease, or lost it, takes one and shows itself.
    fn register(&mut self, at: NodeIx) {
        let node = &self.nodes[at];
        let key = Key::Node(node.id.clone());
        let record = NodeRecord {
            incarnations: [(self.level, node.incarnation)].into(),
            addresses: vec![node.id.as_str().to_owned()],
            admin: String::new(),
            state: NodeState::Active,
            version: String::new(),
        };
        let mut txn = Txn::default().when(key.clone(), self.store.now.revision_of(&key));
        txn.writes.push(Write::PutLeased(key, Record::Node(record), node.lease));
        self.apply(&txn);
    }

    /// The lease of a process that is gone ends some time later.
    pub(crate) fn lease_expires_later(&mut self, at: NodeIx) {
        let (delay, lease) = (self.rng.between(MS, 600 * MS), self.nodes[at].lease);
        self.schedule(delay, Event::LeaseExpires { lease });
    }

    pub(crate) fn node_resumes(&mut self, at: NodeIx) {
        self.nodes[at].paused = false;
        for event in std::mem::take(&mut self.nodes[at].backlog) {
            self.happen(event);
        }
    }

    pub(crate) fn node_tick(&mut self, at: NodeIx) {
        let period = self.rng.between(10 * MS, 30 * MS);
        self.schedule(period, Event::NodeTick { node: at });
        if !self.nodes[at].up || self.nodes[at].paused {
            return;
        }
        self.note_writers(at);
        if self.store.away {
            return;
        }
        if self.store.now.revision_of(&Key::Node(self.nodes[at].id.clone())) == Revision(0)
            && self.rng.chance(300)
        {
            self.nodes[at].lease = LeaseId(self.fresh_id() as i64);
            self.register(at);
        }
        let to = self.store.now.at;
        if self.nodes[at].mirror.at < to && !self.nodes[at].rereading {
            let late = if self.strikes(Hazard::WatchLate) { 1_200 * MS } else { 3 * MS };
            let (delay, life) = (self.rng.between(100, late), self.nodes[at].life);
            // A watch tells in order.
            let due = (self.now + delay).max(self.nodes[at].watch_at + 1);
            self.nodes[at].watch_at = due;
            self.schedule(due - self.now, Event::Watched { node: at, life, to });
        }
        if self.nodes[at].stalled_until <= self.now {
            self.upload_what_is_due(at);
        }
    }

    /// The watch brings what has changed, or says that it must start over.
    pub(crate) fn node_watched(&mut self, at: NodeIx, life: u64, to: u64) {
        if self.nodes[at].life != life || !self.nodes[at].up || self.nodes[at].rereading {
            return;
        }
        let mut mirror = std::mem::take(&mut self.nodes[at].mirror);
        let goes_on = self.store.watch(&mut mirror, to);
        self.nodes[at].mirror = mirror;
        if goes_on {
            return self.node_learns(at);
        }
        self.run.rereads += 1;
        self.nodes[at].rereading = true;
        let (records, delay) = (self.store.now.clone(), self.rng.between(MS, 40 * MS));
        self.schedule(delay, Event::Reread { node: at, life, records });
    }

    pub(crate) fn node_reread(&mut self, at: NodeIx, life: u64, records: Records) {
        if self.nodes[at].life == life && self.nodes[at].up {
            self.nodes[at].rereading = false;
            self.nodes[at].mirror = records;
            self.node_learns(at);
        }
    }

    /// A node takes note of who is lost, as its watch has shown it.
    fn note_lives(&mut self, at: NodeIx) {
        let (now, level) = (self.time(), self.level);
        let ids = self.nodes.iter().map(|node| node.id.clone());
        let keys: Vec<Key> =
            ids.flat_map(|id| [Key::Node(id.clone()), Key::Incarnation(id, level)]).collect();
        let node = &mut self.nodes[at];
        node.lives.reset(now, &node.mirror.snapshot(keys));
    }

    /// A node learns from its watch.
    fn node_learns(&mut self, at: NodeIx) {
        self.note_lives(at);
        let node = &self.nodes[at];
        let known = node.mirror.known(node.replica.segments(), self.store.first_unarchived);
        self.learn(at, &known);
    }

    /// A node reads what it cannot wait for.
    pub(crate) fn learn_now(&mut self, at: NodeIx) {
        let held = self.nodes[at].replica.segments();
        let known = self.store.now.known(held, self.store.first_unarchived);
        self.learn(at, &known);
    }

    fn learn(&mut self, at: NodeIx, known: &Known) {
        self.nodes[at].learn(known);
        let mut told = Vec::new();
        for (number, _, archived) in &known.segments {
            let streams = self.nodes[at].sessions.keys().filter(|(_, of)| of == number);
            told.extend(streams.map(|(conn, _)| (*conn, *number, archived.end)));
        }
        for (conn, number, archived) in told {
            self.tell_archived(conn, number, archived);
        }
    }

    fn tell_archived(&mut self, conn: u64, number: SegmentNumber, archived: Index) {
        self.send_down(conn, super::events::Down::Archived(number, archived));
    }

    /// Begins a sync unless one is under way.
    pub(crate) fn start_sync(&mut self, at: NodeIx) {
        let count = self.nodes[at].rest.unsynced();
        if count == 0 || self.nodes[at].rest.syncing {
            return;
        }
        self.nodes[at].rest.syncing = true;
        let slow = if self.strikes(Hazard::SyncSlow) { 150 * MS } else { 3 * MS };
        let (delay, life) = (self.rng.between(200, slow), self.nodes[at].life);
        self.schedule(delay, Event::Synced { node: at, life, count });
    }

    /// A sync has ended: what is held grows, and answers that waited for it leave.
    pub(crate) fn node_synced(&mut self, at: NodeIx, life: u64, count: usize) {
        if self.nodes[at].life != life || !self.nodes[at].up {
            return;
        }
        let node = &mut self.nodes[at];
        node.rest.syncing = false;
        node.rest.synced(count);
        let changes = node.rest.changes(node.rest.synced_to());
        if let Some(journal) = &mut node.journal {
            journal.sync(changes);
        }
        let segments: Vec<SegmentNumber> = node.replica.segments().collect();
        for number in segments {
            if let Some(held) = node.rest.held(number) {
                node.replica.persisted(number, held);
            }
        }
        let acks: Vec<_> = node.sessions.keys().copied().collect();
        for (conn, number) in acks {
            self.ack_soon(at, conn, number);
        }
        let synced = self.nodes[at].rest.synced_to();
        while let Some((_, caller, id, due)) =
            self.nodes[at].unsynced.pop_front_if(|(written_to, ..)| *written_to <= synced)
        {
            self.give_answer(at, caller, id, due);
        }
        self.start_sync(at);
    }
}
