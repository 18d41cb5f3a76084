//! The metadata store: interprets transactions as etcd does.

use crate::events::Known;
use piculet_quorum::ids::{LogId, LogName, Revision, SegmentNumber};
use piculet_quorum::meta::create::CreateLog;
use piculet_quorum::meta::{
    Key, LogRecord, LogView, PartRow, Range, Record, SegmentEnd, SegmentRecord, SegmentState, SegmentView,
    Snapshot, StoreRevision, Txn, TxnOutcome, Versioned, Write,
};
use std::collections::BTreeMap;

/// The log that is simulated.
pub(crate) const LOG: LogId = LogId(7);

/// The store, and whether it answers.
#[derive(Debug)]
pub(crate) struct Store {
    records: BTreeMap<Key, Versioned<Record>>,
    revision: u64,
    pub(crate) away: bool,
    /// Every segment below is archived.
    pub(crate) first_unarchived: u64,
}

impl Store {
    pub(crate) fn new() -> Self {
        let mut store = Self { records: BTreeMap::new(), revision: 0, away: false, first_unarchived: 0 };
        let name = LogName::new("simulated").expect("a valid name");
        let durability = piculet_quorum::ids::Level::Memory;
        let create = CreateLog { name, log: LOG, durability, allow_loss: false };
        assert!(matches!(store.apply(&create.txn()), TxnOutcome::Applied(_)));
        store
    }

    pub(crate) fn apply(&mut self, txn: &Txn) -> TxnOutcome {
        let holds = |(key, revision): &(Key, Revision)| self.revision_of(key) == *revision;
        if !txn.compares.iter().all(holds) {
            return TxnOutcome::Refused;
        }
        self.revision += 1;
        let revision = Revision(self.revision);
        for write in &txn.writes {
            match write {
                Write::Put(key, record) | Write::PutLeased(key, record, _) => {
                    self.records.insert(key.clone(), Versioned { revision, value: record.clone() });
                }
                Write::Delete(key) => {
                    self.records.remove(key);
                }
                Write::DeleteRange(range) => {
                    assert_ne!(*range, Range::All, "nobody deletes everything");
                    self.records.retain(|key, _| !range.contains(key));
                }
            }
        }
        while self
            .segment(SegmentNumber(self.first_unarchived))
            .is_some_and(|segment| matches!(segment.value.state, SegmentState::Archived(_)))
        {
            self.first_unarchived += 1;
        }
        TxnOutcome::Applied(revision)
    }

    pub(crate) fn revision_of(&self, key: &Key) -> Revision {
        self.records.get(key).map_or(Revision(0), |record| record.revision)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Versioned<Record>> {
        self.records.get(key)
    }

    pub(crate) fn snapshot(&self, keys: impl IntoIterator<Item = Key>) -> Snapshot {
        let found = |key: Key| Some((key.clone(), self.records.get(&key)?.clone()));
        Snapshot { at: StoreRevision(self.revision), records: keys.into_iter().filter_map(found).collect() }
    }

    pub(crate) fn log(&self) -> Versioned<LogRecord> {
        let key = Key::Log(LOG);
        self.snapshot([key.clone()]).log(&key).expect("the log exists")
    }

    pub(crate) fn segment(&self, number: SegmentNumber) -> Option<Versioned<SegmentRecord>> {
        match self.records.get(&Key::Segment(LOG, number))? {
            Versioned { revision, value: Record::Segment(value) } => {
                Some(Versioned { revision: *revision, value: value.clone() })
            }
            other => panic!("not a segment: {other:?}"),
        }
    }

    /// The segments that are not archived whole, oldest first.
    pub(crate) fn unarchived(&self) -> impl Iterator<Item = (SegmentNumber, &SegmentRecord)> {
        let from = Key::Segment(LOG, SegmentNumber(self.first_unarchived));
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

    pub(crate) fn archived(&self, number: SegmentNumber, record: &SegmentRecord) -> SegmentEnd {
        self.row(number).end(record)
    }

    pub(crate) fn view(&self, from: SegmentNumber) -> LogView {
        let record = self.log();
        let newest = record.value.next_segment.0;
        let segments = (from.0..newest).map(SegmentNumber).filter_map(|number| {
            let record = self.segment(number)?;
            let archived = self.archived(number, &record.value);
            Some((number, SegmentView { record, archived }))
        });
        LogView {
            log: LOG,
            config: Versioned { revision: Revision(1), value: piculet_quorum::meta::ConfigRecord::default() },
            trim: Versioned { revision: Revision(1), value: piculet_quorum::meta::TrimRecord::default() },
            first_segment: SegmentNumber(0),
            segments: segments.collect(),
            record,
        }
    }

    /// What a node learns that holds these segments.
    pub(crate) fn known(&self, held: impl Iterator<Item = SegmentNumber>) -> Known {
        let mut numbers: Vec<SegmentNumber> = held.collect();
        numbers.extend(self.unarchived().map(|(number, _)| number));
        numbers.sort_unstable();
        numbers.dedup();
        let segments = numbers.into_iter().filter_map(|number| {
            let record = self.segment(number)?.value;
            let archived = self.archived(number, &record);
            Some((number, record, archived))
        });
        Known { epoch: self.log().value.epoch, segments: segments.collect() }
    }
}
