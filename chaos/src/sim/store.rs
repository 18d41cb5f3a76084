//! The metadata store: interprets transactions as etcd does, keeps a history for watches, and
//! leases.

use super::events::Known;
use piculet_quorum::ids::{Level, LogId, LogName, Revision, SegmentNumber};
use piculet_quorum::meta::create::CreateLog;
use piculet_quorum::meta::{
    FirstRecord, Key, LeaseId, LogRecord, LogView, PartRow, Range, Record, SegmentEnd, SegmentRecord,
    SegmentState, SegmentView, Snapshot, StoreRevision, TrimRecord, Txn, TxnOutcome, Versioned, Write,
};
use std::collections::{BTreeMap, VecDeque};

/// The log that is simulated.
pub(crate) const LOG: LogId = LogId(7);

/// Records as of a revision: the store's own, or what a node has made of its watch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Records {
    pub(crate) at: u64,
    records: BTreeMap<Key, Versioned<Record>>,
}

/// One change of one key.
#[derive(Clone, Debug)]
struct Change {
    revision: u64,
    key: Key,
    record: Option<Record>,
}

/// The store, and whether it answers.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) now: Records,
    history: VecDeque<Change>,
    /// Changes up to this revision are forgotten.
    compacted: u64,
    leases: BTreeMap<Key, LeaseId>,
    pub(crate) away: bool,
    /// Every segment below is archived, or deleted.
    pub(crate) first_unarchived: u64,
}

impl Records {
    pub(crate) fn revision_of(&self, key: &Key) -> Revision {
        self.records.get(key).map_or(Revision(0), |record| record.revision)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Versioned<Record>> {
        self.records.get(key)
    }

    pub(crate) fn snapshot(&self, keys: impl IntoIterator<Item = Key>) -> Snapshot {
        let found = |key: Key| Some((key.clone(), self.records.get(&key)?.clone()));
        Snapshot { at: StoreRevision(self.at), records: keys.into_iter().filter_map(found).collect() }
    }

    pub(crate) fn log(&self) -> Versioned<LogRecord> {
        let key = Key::Log(LOG);
        self.snapshot([key.clone()]).log(&key).expect("the log exists")
    }

    pub(crate) fn first(&self) -> Versioned<FirstRecord> {
        let key = Key::First(LOG);
        let none = Versioned { revision: Revision(0), value: FirstRecord::default() };
        self.snapshot([key.clone()]).first(&key).unwrap_or(none)
    }

    pub(crate) fn trim(&self) -> Versioned<TrimRecord> {
        let key = Key::Trim(LOG);
        let none = Versioned { revision: Revision(0), value: TrimRecord::default() };
        self.snapshot([key.clone()]).trim(&key).unwrap_or(none)
    }

    pub(crate) fn segment(&self, number: SegmentNumber) -> Option<Versioned<SegmentRecord>> {
        match self.records.get(&Key::Segment(LOG, number))? {
            Versioned { revision, value: Record::Segment(value) } => {
                Some(Versioned { revision: *revision, value: value.clone() })
            }
            other => panic!("not a segment: {other:?}"),
        }
    }

    /// The segments from a number on, oldest first.
    pub(crate) fn segments(&self, from: u64) -> impl Iterator<Item = (SegmentNumber, &SegmentRecord)> {
        let from = Key::Segment(LOG, SegmentNumber(from));
        self.records.range(from..).map_while(|(key, record)| match (key, &record.value) {
            (Key::Segment(_, number), Record::Segment(value)) => Some((*number, value)),
            _ => None,
        })
    }

    pub(crate) fn row(&self, number: SegmentNumber) -> PartRow {
        let from = Key::Part(LOG, number, piculet_quorum::ids::Index(0));
        let parts = self.records.range(from..).map_while(|(key, _)| match key {
            Key::Part(_, of, _) if *of == number => Some(key.clone()),
            _ => None,
        });
        self.snapshot(parts).row(LOG, number).expect("parts that are sound")
    }

    /// How far a segment is archived.
    pub(crate) fn archived(&self, number: SegmentNumber, record: &SegmentRecord) -> SegmentEnd {
        let from = Key::Part(LOG, number, piculet_quorum::ids::Index(0));
        let to = Key::Part(LOG, number, piculet_quorum::ids::Index(u64::MAX));
        match self.records.range(from..to).next_back() {
            Some((_, Versioned { value: Record::Part(part), .. })) => part.at,
            _ => record.start(),
        }
    }

    pub(crate) fn view(&self, from: SegmentNumber) -> LogView {
        let record = self.log();
        let newest = record.value.next_segment.0;
        let first = self.first().value.first_segment;
        let segments = (from.0.max(first.0)..newest).map(SegmentNumber).filter_map(|number| {
            let record = self.segment(number)?;
            let archived = self.archived(number, &record.value);
            Some((number, SegmentView { record, archived, last: None }))
        });
        let config = self.snapshot([Key::Config(LOG)]).config(&Key::Config(LOG)).expect("every log has one");
        LogView {
            log: LOG,
            config,
            trim: self.trim(),
            first_segment: first,
            segments: segments.collect(),
            record,
        }
    }

    /// What a node learns that holds these segments.
    pub(crate) fn known(&self, held: impl Iterator<Item = SegmentNumber>, from: u64) -> Known {
        let first = self.first().value.first_segment;
        let (gone, mut numbers): (Vec<_>, Vec<_>) = held.partition(|number| *number < first);
        numbers.extend(self.segments(from).map(|(number, _)| number));
        numbers.sort_unstable();
        numbers.dedup();
        let segments = numbers.into_iter().filter_map(|number| {
            let record = self.segment(number)?.value;
            let archived = self.archived(number, &record);
            Some((number, record, archived))
        });
        Known { epoch: self.log().value.epoch, segments: segments.collect(), gone }
    }

    fn write(&mut self, revision: u64, key: &Key, record: Option<&Record>) {
        self.at = revision;
        match record {
            Some(record) => {
                let record = Versioned { revision: Revision(revision), value: record.clone() };
                self.records.insert(key.clone(), record);
            }
            None => {
                self.records.remove(key);
            }
        }
    }
}

impl Store {
    pub(crate) fn new(level: Level, allow_loss: bool) -> Self {
        let mut store = Self {
            now: Records::default(),
            history: VecDeque::new(),
            compacted: 0,
            leases: BTreeMap::new(),
            away: false,
            first_unarchived: 0,
        };
        let name = LogName::new("simulated").expect("a valid name");
        let create = CreateLog { name, log: LOG, durability: level, allow_loss };
        assert!(matches!(store.apply(&create.txn()), TxnOutcome::Applied(_)));
        store
    }

    pub(crate) fn apply(&mut self, txn: &Txn) -> TxnOutcome {
        let holds = |(key, revision): &(Key, Revision)| self.now.revision_of(key) == *revision;
        if !txn.compares.iter().all(holds) {
            return TxnOutcome::Refused;
        }
        let revision = self.now.at + 1;
        for write in &txn.writes {
            match write {
                Write::Put(key, record) => {
                    self.leases.remove(key);
                    self.change(revision, key, Some(record));
                }
                Write::PutLeased(key, record, lease) => {
                    self.leases.insert(key.clone(), *lease);
                    self.change(revision, key, Some(record));
                }
                Write::Delete(key) => self.change(revision, key, None),
                Write::DeleteRange(range) => {
                    assert_ne!(*range, Range::All, "nobody deletes everything");
                    let gone: Vec<Key> =
                        self.now.records.keys().filter(|key| range.contains(key)).cloned().collect();
                    for key in gone {
                        self.change(revision, &key, None);
                    }
                }
            }
        }
        self.now.at = revision;
        let first = self.now.first().value.first_segment.0;
        self.first_unarchived = self.first_unarchived.max(first);
        while self
            .now
            .segment(SegmentNumber(self.first_unarchived))
            .is_some_and(|segment| matches!(segment.value.state, SegmentState::Archived(_)))
        {
            self.first_unarchived += 1;
        }
        TxnOutcome::Applied(Revision(revision))
    }

    fn change(&mut self, revision: u64, key: &Key, record: Option<&Record>) {
        if record.is_none() {
            self.leases.remove(key);
            if self.now.get(key).is_none() {
                return;
            }
        }
        self.now.write(revision, key, record);
        self.history.push_back(Change { revision, key: key.clone(), record: record.cloned() });
    }

    /// A lease has ended: its keys go.
    pub(crate) fn end_lease(&mut self, lease: LeaseId) {
        let keys: Vec<Key> =
            self.leases.iter().filter(|(_, of)| **of == lease).map(|(key, _)| key.clone()).collect();
        let revision = self.now.at + 1;
        for key in keys {
            self.change(revision, &key, None);
        }
    }

    /// Forgets what has changed so far: a watch that is behind must start over.
    pub(crate) fn compact(&mut self) {
        self.compacted = self.now.at;
        self.history.clear();
    }

    /// Brings records forward to `to`, as a watch does; false when what lies between is forgotten.
    pub(crate) fn watch(&self, records: &mut Records, to: u64) -> bool {
        if records.at < self.compacted {
            return false;
        }
        let from = self.history.partition_point(|change| change.revision <= records.at);
        for change in self.history.range(from..) {
            if change.revision > to {
                break;
            }
            records.write(change.revision, &change.key, change.record.as_ref());
        }
        records.at = records.at.max(to);
        true
    }

    /// The segments that are not archived whole, oldest first.
    pub(crate) fn unarchived(&self) -> impl Iterator<Item = (SegmentNumber, &SegmentRecord)> {
        self.now.segments(self.first_unarchived)
    }
}
