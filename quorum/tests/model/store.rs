//! The metadata store: interprets transactions as etcd does.

use crate::state::{LOG, node};
use piculet_quorum::ids::{Incarnation, Level, LogName, NodeId, Nonce, Revision, SegmentNumber};
use piculet_quorum::meta::create::CreateLog;
use piculet_quorum::meta::register::next_life;
use piculet_quorum::meta::{
    IncarnationRecord, Key, LogRecord, LogView, NodeRecord, NodeState, PartRow, Record, SegmentRecord,
    SegmentView, Snapshot, StoreRevision, Txn, TxnOutcome, Versioned, Write,
};
use piculet_quorum::wire::message::{NodeView, Nodes};
use std::collections::BTreeMap;

/// The store.
///
/// A write's revision is one more than the largest of the keys that it puts, not of the whole store:
/// revisions are only ever compared for equality with those of the same key, and so two orders of
/// writes that have nothing to do with each other lead to the same state.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct Store {
    now: Snapshot,
    level: Level,
}

impl Store {
    /// One log, and nodes in their first lives.
    pub(crate) fn new(nodes: usize, level: Level, allow_loss: bool) -> Self {
        let now = Snapshot { at: StoreRevision(0), records: BTreeMap::new() };
        let mut store = Self { now, level };
        let name = LogName::new("l").expect("a valid name");
        store.must(&CreateLog { name, log: LOG, durability: level, allow_loss }.txn());
        for at in 0..nodes {
            store.reborn(at);
        }
        store
    }

    pub(crate) fn apply(&mut self, txn: &Txn) -> TxnOutcome {
        if !txn.holds(&self.now) {
            return TxnOutcome::Refused;
        }
        let put = txn.writes.iter().filter_map(|write| match write {
            Write::Put(key, _) | Write::PutLeased(key, ..) => Some(self.now.revision(key).0),
            Write::Delete(_) | Write::DeleteRange(_) => None,
        });
        let revision = Revision(put.max().unwrap_or_default() + 1);
        for write in &txn.writes {
            match write {
                Write::Put(key, record) | Write::PutLeased(key, record, _) => {
                    self.now.records.insert(key.clone(), Versioned { revision, value: record.clone() });
                }
                Write::Delete(key) => {
                    self.now.records.remove(key);
                }
                Write::DeleteRange(range) => self.now.records.retain(|key, _| !range.contains(key)),
            }
        }
        TxnOutcome::Applied(revision)
    }

    /// A transaction that nothing can refuse.
    pub(crate) fn must(&mut self, txn: &Txn) {
        assert!(matches!(self.apply(txn), TxnOutcome::Applied(_)), "refused: {txn:?}");
    }

    /// The level of every segment.
    pub(crate) fn level(&self) -> Level {
        self.level
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.now
    }

    /// The life of a node's buffer, as the metadata have it.
    pub(crate) fn life(&self, at: usize) -> Option<Versioned<IncarnationRecord>> {
        self.now.incarnation(&Key::Incarnation(node(at), self.level))
    }

    /// The incarnation in which a node's buffer lives.
    pub(crate) fn incarnation(&self, at: usize) -> Incarnation {
        self.life(at).map(|life| life.value.incarnation).unwrap_or_default()
    }

    /// A buffer starts that cannot prove that it lost nothing.
    pub(crate) fn reborn(&mut self, at: usize) -> Incarnation {
        let (incarnation, txn) = next_life(&node(at), self.level, self.life(at).as_ref(), Nonce(0));
        self.must(&txn);
        incarnation
    }

    /// A buffer starts that has lost nothing: the same life, with a fresh nonce.
    pub(crate) fn kept(&mut self, at: usize) {
        let read = self.life(at).expect("every node has lived");
        let nonce = Nonce(read.value.nonce.0 + 1);
        let key = Key::Incarnation(node(at), self.level);
        let record = Record::Incarnation(IncarnationRecord { nonce, ..read.value });
        self.must(&Txn::default().when(key.clone(), read.revision).put(key, record));
    }

    pub(crate) fn log(&self) -> Versioned<LogRecord> {
        self.now.log(&Key::Log(LOG)).expect("the log exists")
    }

    /// How many segments there are.
    pub(crate) fn segments(&self) -> usize {
        match self.now.records.get(&Key::Log(LOG)).map(|log| &log.value) {
            Some(Record::Log(log)) => usize::try_from(log.next_segment.0).expect("a few"),
            _ => 0,
        }
    }

    pub(crate) fn segment(&self, number: usize) -> Option<&SegmentRecord> {
        match self.now.records.get(&Key::Segment(LOG, SegmentNumber(number as u64)))? {
            Versioned { value: Record::Segment(segment), .. } => Some(segment),
            _ => None,
        }
    }

    pub(crate) fn versioned(&self, number: usize) -> Option<Versioned<SegmentRecord>> {
        self.now.segment(&Key::Segment(LOG, SegmentNumber(number as u64)))
    }

    pub(crate) fn row(&self, number: usize) -> PartRow {
        self.now.row(LOG, SegmentNumber(number as u64)).expect("no part ends before it begins")
    }

    pub(crate) fn view(&self, from: SegmentNumber) -> LogView {
        let numbers = usize::try_from(from.0).expect("a few")..self.segments();
        let segments = numbers.filter_map(|number| {
            let record = self.versioned(number)?;
            let row = self.row(number);
            let (archived, last) = (row.end(&record.value), row.last());
            Some((SegmentNumber(number as u64), SegmentView { record, archived, last }))
        });
        LogView {
            log: LOG,
            record: self.log(),
            config: self.now.config(&Key::Config(LOG)).expect("it came with the log"),
            trim: self.now.trim(&Key::Trim(LOG)).expect("it came with the log"),
            first_segment: SegmentNumber(0),
            segments: segments.collect(),
        }
    }

    /// The nodes; those that are dead are known no more.
    pub(crate) fn nodes(&self, alive: impl Iterator<Item = bool>) -> Nodes {
        let view = |(at, alive): (usize, bool)| -> Option<(NodeId, NodeView)> {
            let life = self.life(at)?;
            let incarnation = life.value.incarnation;
            let running = alive.then(|| NodeRecord {
                incarnations: BTreeMap::from([(self.level, incarnation)]),
                addresses: Vec::new(),
                admin: String::new(),
                state: NodeState::Active,
                version: String::new(),
            });
            let lives = BTreeMap::from([(self.level, (incarnation, life.revision))]);
            Some((node(at), NodeView { lives, running }))
        };
        alive.enumerate().filter_map(view).collect()
    }
}
