//! Entries that were taken and have no place yet, when the machine hears of something.

use super::super::state::{Queued, Shared};
use crate::takeover::Taken;
use crate::testing::{log_name, node_id};
use crate::{AppendOptions, Record, WriterOptions};
use piculet_quorum::ids::{
    Chain, Epoch, Incarnation, Level, LogId, Nonce, Offset, Revision, SegmentNumber, Timestamp,
};
use piculet_quorum::meta::{LogRecord, Member, SegmentRecord, SegmentState, TxnOutcome, Versioned};
use piculet_quorum::time::Span;
use piculet_quorum::writer::{MetaReply, MetaRequest};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

/// A log with an empty segment, which is parked as soon as the clock is looked at.
fn hasty() -> Shared {
    let name = log_name("log");
    let (chain, timestamp) = (Chain(0), Timestamp(0));
    let record = LogRecord {
        name: name.clone(),
        epoch: Epoch(1),
        writer: Nonce(1),
        holder: None,
        next_segment: SegmentNumber(1),
        next_base: Offset(0),
        chain,
        last_timestamp: timestamp,
        deleted: None,
    };
    let member = |name| Member { node: node_id(name), incarnation: Incarnation(1) };
    let segment = SegmentRecord {
        epoch: Epoch(1),
        base: Offset(0),
        base_chain: chain,
        base_timestamp: timestamp,
        level: Level::Memory,
        ensemble: ["a", "b", "c"].map(member).into_iter().collect(),
        state: SegmentState::Open,
        loss: None,
    };
    let taken = Taken {
        log: LogId(7),
        name,
        record: Versioned { revision: Revision(1), value: record },
        number: SegmentNumber(0),
        segment: Versioned { revision: Revision(1), value: segment },
    };
    Shared::new(WriterOptions { idle_after: Span(0), ..WriterOptions::default() }, taken)
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn an_append_that_is_taken_while_the_parking_is_out_gets_a_segment() {
    let shared = hasty();
    let parking = {
        let mut state = shared.lock();
        state.writer.handle_timeout(shared.now());
        state.writer.poll_meta()
    };
    assert!(matches!(parking, Some(MetaRequest::Propose(_))), "{parking:?}");
    let offset = shared.append(&[Record::new("x")], &AppendOptions::default()).unwrap().first;
    // No link comes to it before the answer does.
    shared.answered(MetaReply::Outcome(TxnOutcome::Applied(Revision(2))));
    let mut state = shared.lock();
    assert!(state.open.is_none() && !state.writer.parked(), "the entry waits for nobody");
    assert_eq!(state.writer.poll_meta(), Some(MetaRequest::Nodes));
    assert_eq!((offset, state.writer.next_offset()), (Offset(0), Offset(1)));
}

#[test]
fn whoever_waits_when_the_log_is_parked_is_woken() {
    let shared = hasty();
    {
        let mut state = shared.lock();
        state.writer.handle_timeout(shared.now());
        state.writer.poll_meta();
    }
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    let waits = Queued { first: Offset(0), last: Offset(0), again: false };
    assert!(shared.poll_append(&waits, &mut Context::from_waker(&waker)).is_pending());
    shared.answered(MetaReply::Outcome(TxnOutcome::Applied(Revision(2))));
    assert!(shared.lock().writer.parked());
    assert!(woken.0.load(Ordering::Relaxed), "it may ask again");
}
