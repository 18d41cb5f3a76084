//! Metadata in a map, and what is in object storage.

use bytes::Bytes;
use piculet_quorum::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchVerifier, Checked};
use piculet_quorum::ids::{
    Incarnation, Index, Level, LogId, LogName, NodeId, Nonce, Offset, Revision, SegmentNumber, Timestamp,
};
use piculet_quorum::meta::{
    ConfigRecord, FirstRecord, IncarnationRecord, Key, LogRecord, LogView, NodeRecord, NodeState, PartRecord,
    Record, SegmentEnd, SegmentRecord, SegmentState, SegmentView, Snapshot, TrimRecord, Txn, TxnOutcome,
    Versioned, Write,
};
use piculet_quorum::producers::Producers;
use piculet_quorum::wire::message::{NodeView, Nodes, ProducersFrom, Refusal};
use std::collections::BTreeMap;

/// Batches that follow each other.
pub(crate) type Batches = Vec<(BatchHeader, Bytes)>;

pub(crate) struct Meta {
    snapshot: Snapshot,
    revision: u64,
    running: BTreeMap<NodeId, NodeRecord>,
    /// The cluster that nodes say they are of.
    pub(crate) cluster: Nonce,
    /// What is in object storage.
    pub(crate) objects: BTreeMap<SegmentNumber, Batches>,
    /// The table of producers at the end of what is in object storage.
    table: Producers,
    /// So many transactions more are carried out and their answers lost.
    pub(crate) lose_answers: u32,
    /// So many transactions more are lost on their way.
    pub(crate) lose_requests: u32,
    /// How seals and new segments are refused, if they are.
    pub(crate) refuse_seals: Option<Refusal>,
    /// How many were.
    pub(crate) seals_refused: u32,
    /// Segments per page of a view.
    pub(crate) page: usize,
    /// Whether no node can read logs from it.
    pub(crate) away: bool,
    /// How often that was tried in vain.
    pub(crate) missed: u32,
}

impl Meta {
    pub(super) fn new() -> Self {
        Self {
            snapshot: Snapshot::default(),
            revision: 0,
            running: BTreeMap::new(),
            cluster: Nonce(77),
            objects: BTreeMap::new(),
            table: Producers::default(),
            lose_answers: 0,
            lose_requests: 0,
            refuse_seals: None,
            seals_refused: 0,
            page: 2,
            away: false,
            missed: 0,
        }
    }

    pub(super) fn start_node(&mut self, node: &NodeId, address: String) -> Incarnation {
        let key = Key::Incarnation(node.clone(), Level::Memory);
        let before = self.snapshot.incarnation(&key).map_or(0, |read| read.value.incarnation.0);
        let memory = Incarnation(before + 1);
        self.put(key, Record::Incarnation(IncarnationRecord { incarnation: memory, nonce: Nonce(1) }));
        let record = NodeRecord {
            incarnations: [(Level::Memory, memory)].into(),
            addresses: vec![address],
            admin: String::new(),
            state: NodeState::Active,
            version: String::new(),
        };
        self.running.insert(node.clone(), record);
        memory
    }

    pub(crate) fn stop_node(&mut self, node: &NodeId) {
        self.running.remove(node);
    }

    /// The metadata give another address for a node.
    pub(crate) fn move_node(&mut self, node: &NodeId, address: String) {
        self.running.get_mut(node).expect("it runs").addresses = vec![address];
    }

    /// The node has forgotten what it held, as far as the metadata know.
    pub(crate) fn move_incarnation(&mut self, node: &NodeId) {
        let key = Key::Incarnation(node.clone(), Level::Memory);
        let before = self.snapshot.incarnation(&key).expect("it has started before").value.incarnation;
        self.put(
            key,
            Record::Incarnation(IncarnationRecord { incarnation: before.plus(1), nonce: Nonce(2) }),
        );
    }

    pub(crate) fn nodes(&self) -> Nodes {
        let incarnations =
            self.snapshot.records.iter().filter_map(|(key, record)| match (key, &record.value) {
                (Key::Incarnation(node, _), Record::Incarnation(value)) => {
                    let running = self.running.get(node).cloned();
                    Some((
                        node.clone(),
                        NodeView {
                            lives: [(Level::Memory, (value.incarnation, record.revision))].into(),
                            running,
                        },
                    ))
                }
                _ => None,
            });
        incarnations.collect()
    }

    pub(crate) fn put(&mut self, key: Key, record: Record) {
        self.revision += 1;
        self.snapshot.records.insert(key, Versioned { revision: Revision(self.revision), value: record });
    }

    pub(crate) fn delete(&mut self, key: &Key) {
        self.revision += 1;
        self.snapshot.records.remove(key);
    }

    pub(super) fn propose(&mut self, txn: &Txn) -> Result<TxnOutcome, Refusal> {
        let lost = || Refusal::Unknown("lost, for the sake of the test".to_owned());
        if self.lose_requests > 0 {
            self.lose_requests -= 1;
            return Err(lost());
        }
        let outcome = self.carry_out(txn);
        if self.lose_answers > 0 {
            self.lose_answers -= 1;
            return Err(lost());
        }
        Ok(outcome)
    }

    fn carry_out(&mut self, txn: &Txn) -> TxnOutcome {
        if txn.compares.iter().any(|(key, revision)| self.snapshot.revision(key) != *revision) {
            return TxnOutcome::Refused;
        }
        self.revision += 1;
        let revision = Revision(self.revision);
        for write in &txn.writes {
            match write {
                Write::Put(key, value) => {
                    let record = Versioned { revision, value: value.clone() };
                    self.snapshot.records.insert(key.clone(), record);
                }
                Write::Delete(key) => {
                    self.snapshot.records.remove(key);
                }
                other => panic!("no client asks for {other:?}"),
            }
        }
        TxnOutcome::Applied(revision)
    }

    pub(super) fn names(&self, after: Option<&LogName>, limit: usize) -> Vec<(LogName, LogId)> {
        let names = self.snapshot.records.iter().filter_map(|(key, record)| match (key, &record.value) {
            (Key::Name(name), Record::Name(value)) => Some((name.clone(), value.log)),
            _ => None,
        });
        names.filter(|(name, _)| after.is_none_or(|after| name > after)).take(limit).collect()
    }

    pub(super) fn find(&self, name: &LogName) -> Option<LogId> {
        self.names(None, usize::MAX).into_iter().find(|(found, _)| found == name).map(|(_, log)| log)
    }

    /// The only log that there is.
    pub(crate) fn log(&self) -> LogId {
        let logs = self.snapshot.records.keys().filter_map(|key| match key {
            Key::Log(log) => Some(*log),
            _ => None,
        });
        logs.into_iter().next().expect("there is a log")
    }

    pub(super) fn view(&self, log: LogId, from: Option<SegmentNumber>) -> Option<LogView> {
        let record = self.snapshot.log(&Key::Log(log)).filter(|record| record.value.deleted.is_none())?;
        let first = self.snapshot.first(&Key::First(log))?.value.first_segment;
        let next = record.value.next_segment;
        let newest_two = SegmentNumber(next.0.saturating_sub(2));
        let from = from.unwrap_or(newest_two).max(first);
        let numbers = (from.0..next.0).take(self.page).map(SegmentNumber);
        let segments = numbers.filter_map(|number| Some((number, self.segment(log, number)?))).collect();
        let trim = self.snapshot.trim(&Key::Trim(log))?;
        let config = self.snapshot.config(&Key::Config(log))?;
        Some(LogView { log, record, config, trim, first_segment: first, segments })
    }

    pub(crate) fn segment(&self, log: LogId, number: SegmentNumber) -> Option<SegmentView> {
        let record = self.snapshot.segment(&Key::Segment(log, number))?;
        let row = self.snapshot.row(log, number).unwrap();
        let whole = matches!(record.value.state, SegmentState::Archived(_));
        let (archived, last) = (row.end(&record.value), row.last().filter(|_| !whole));
        Some(SegmentView { record, archived, last })
    }

    /// Whether there was such a log.
    pub(super) fn is_deleted(&self, log: LogId) -> bool {
        self.snapshot.log(&Key::Log(log)).is_some_and(|record| record.value.deleted.is_some())
    }

    /// The log's record, deleted or not.
    pub(crate) fn record(&self, log: LogId) -> Versioned<LogRecord> {
        self.snapshot.log(&Key::Log(log)).expect("the log was created")
    }

    pub(super) fn segments(&self, log: LogId) -> Vec<(SegmentNumber, SegmentView)> {
        let Some(record) = self.snapshot.log(&Key::Log(log)) else { return Vec::new() };
        let numbers = (0..record.value.next_segment.0).map(SegmentNumber);
        numbers.filter_map(|number| Some((number, self.segment(log, number)?))).collect()
    }

    /// Puts batches of a segment into object storage, up to `end`.
    pub(crate) fn archive(&mut self, number: SegmentNumber, batches: Batches, end: SegmentEnd) {
        let log = self.log();
        let from = self.segment(log, number).expect("the segment exists").archived.end;
        let part = PartRecord { at: end, bytes: 0, encoder: 1, skip: false };
        self.fold(number, from, &batches);
        self.objects.insert(number, batches);
        self.put(Key::Part(log, number, from), Record::Part(part));
        let segment = self.segment(log, number).expect("the segment exists").record.value;
        if segment.state.end().is_some_and(|sealed| sealed.end == end.end) {
            self.put(
                Key::Segment(log, number),
                Record::Segment(SegmentRecord { state: SegmentState::Archived(end), ..segment }),
            );
        }
    }

    /// Folds the batches of a part into the table of producers.
    pub(super) fn fold(&mut self, number: SegmentNumber, from: Index, batches: &Batches) {
        let base = self.segment(self.log(), number).expect("the segment exists").record.value.base;
        for (header, bytes) in batches.iter().filter(|(header, _)| header.first >= from) {
            let mut verifier = BatchVerifier::new(*header, Timestamp(0));
            let fold = |entry: &Checked| {
                if let Some(producer) = entry.producer {
                    let index = header.first.plus(u64::from(entry.at));
                    self.table.fold(producer, Offset::of(base, index));
                }
            };
            verifier.feed(&bytes[BATCH_HEADER_BYTES..], fold).unwrap();
        }
    }

    /// What a node that reads metadata and objects tells a writer of producers.
    pub(super) fn producers(&mut self, log: LogId) -> Result<ProducersFrom, Refusal> {
        let key = Key::Config(log);
        let config = self.snapshot.records.get(&key).map(|record| record.value.clone());
        let Some(Record::Config(config)) = config.filter(|_| !self.is_deleted(log)) else {
            return Err(Refusal::Deleted);
        };
        if !config.producers {
            self.put(key, Record::Config(ConfigRecord { producers: true, ..config }));
            return Ok(ProducersFrom { from: None, table: Vec::new() });
        }
        let segments = self.segments(log);
        let newest = segments.iter().rev().find(|(_, segment)| segment.archived.end > Index(0));
        let first = self.snapshot.first(&Key::First(log)).expect("the log was created").value.first_segment;
        let from = newest.map_or((first, Index(0)), |(number, segment)| (*number, segment.archived.end));
        Ok(ProducersFrom { from: Some(from), table: self.table.encode() })
    }

    pub(crate) fn trim(&mut self, offset: Offset, first_segment: SegmentNumber) {
        let log = self.log();
        self.put(Key::Trim(log), Record::Trim(TrimRecord { trim_offset: offset }));
        self.put(Key::First(log), Record::First(FirstRecord { first_segment }));
    }

    /// Batches of a segment in object storage, from the one with `from` on.
    pub(super) fn stored(&self, number: SegmentNumber, from: Index) -> Batches {
        let all = self.objects.get(&number).cloned().unwrap_or_default();
        all.into_iter().filter(|(header, _)| header.end() > from).collect()
    }
}
