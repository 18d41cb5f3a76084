//! Parking an idle log, and what may come in between.

use super::*;

/// A bench with appends that are all archived.
fn archived() -> Bench {
    let mut bench = bench();
    bench.appends(2);
    bench.writer.handle_archived(bench.now, ZERO, Index(2));
    bench.settle();
    bench
}

/// One whose parking is out.
fn parking() -> (Bench, SealSegment) {
    let mut bench = archived();
    bench.hold = true;
    bench.pass(Span::secs(60));
    let proposal = bench.proposals().pop().expect("it seals");
    (bench, proposal)
}

/// What a driver does when the log is parked: its streams end.
fn drop_streams(bench: &mut Bench) {
    assert!(bench.writer.parked());
    assert_eq!(bench.events.last(), Some(&WriterEvent::Parked));
    for peer in bench.peers.values_mut() {
        peer.up = false;
    }
}

fn parked() -> Bench {
    let (mut bench, _) = parking();
    bench.answer(MetaReply::Outcome(TxnOutcome::Applied(Revision(99))));
    drop_streams(&mut bench);
    bench
}

fn connect_all(bench: &mut Bench) {
    for name in ["a", "b", "c"] {
        bench.connect(name, 1);
    }
}

#[test]
fn an_idle_log_is_sealed_without_a_next_segment() {
    let (mut bench, proposal) = parking();
    let seal = proposal.seal.clone().expect("it seals");
    assert_eq!((seal.at.end, seal.archived, seal.holders), (Index(2), Index(2), vec![]));
    assert_eq!((proposal.create.clone(), proposal.records().0.holder), (None, None));
    assert_eq!(proposal.check(&Default::default()), Ok(()));
    bench.answer(MetaReply::Outcome(TxnOutcome::Applied(Revision(99))));
    drop_streams(&mut bench);
    assert_eq!((bench.writer.poll_timeout(), bench.writer.retained()), (None, 0));
    assert_eq!(bench.writer.wanted(), BTreeMap::new());
    assert_eq!(bench.writer.members(), []);
    // Whatever else comes late changes nothing.
    bench.writer.handle_connected(bench.now, &node("a"), Incarnation(1));
    bench.writer.handle_timeout(bench.now);
    assert_eq!((bench.writer.poll_meta(), bench.writer.poll_timeout()), (None, None));
}

#[test]
fn an_empty_segment_is_parked_and_appends_put_it_off() {
    let mut bench = bench();
    bench.pass(Span::secs(59));
    bench.appends(1);
    bench.pass(Span::secs(50));
    bench.writer.handle_archived(bench.now, ZERO, Index(1));
    bench.settle();
    assert_eq!(bench.proposals(), []);
    bench.pass(Span::secs(10));
    assert_eq!(bench.proposals().len(), 1);
    let mut empty = super::bench();
    empty.pass(Span::secs(60));
    assert!(empty.writer.parked());
}

#[test]
fn it_looks_how_far_it_is_archived_and_does_not_park_before() {
    let mut bench = bench();
    bench.appends(2);
    bench.hold = true;
    bench.pass(Span::secs(59));
    assert_eq!(bench.asked, []);
    bench.pass(Span::secs(2));
    assert_eq!(bench.asked, [MetaRequest::View(ZERO)]);
    bench.answer(MetaReply::View(Box::new(bench.view(None))));
    bench.pass(Span::secs(14));
    assert_eq!(bench.asked.len(), 1, "not again at once");
    bench.pass(Span::secs(2));
    let mut view = bench.view(None);
    view.segments.get_mut(&ZERO).expect("the oldest").archived.end = Index(2);
    bench.answer(MetaReply::View(Box::new(view)));
    assert_eq!(bench.proposals().len(), 1, "it parks");
}

#[test]
fn while_nothing_can_be_archived_it_is_not_parked() {
    let mut bench = bench();
    bench.appends(2);
    bench.etcd = false;
    bench.pass(Span::secs(500));
    assert_eq!((bench.proposals().len(), bench.writer.parked()), (0, false));
}

#[test]
fn the_next_append_creates_a_segment_at_its_offset() {
    let mut bench = parked();
    assert_eq!(bench.append(), Ok(Offset(2)));
    bench.append().expect("it is queued too");
    assert_eq!(bench.asked.last(), Some(&MetaRequest::Nodes));
    assert_eq!(bench.writer.wanted().len(), 3);
    connect_all(&mut bench);
    bench.hold = false;
    let nodes = bench.view_of_nodes();
    bench.answer(MetaReply::Nodes(nodes));
    let proposal = bench.proposals().pop().expect("it creates");
    assert_eq!((proposal.seal.clone(), proposal.read.revision), (None, Revision(99)));
    let (number, record) = proposal.records().1.expect("it creates");
    assert_eq!((number, record.base, record.ensemble.len()), (ONE, Offset(2), 3));
    assert_eq!(bench.opened(), [(1, 3)]);
    assert_eq!(bench.writer.committed(), Offset(4));
    assert!(!bench.writer.parked());
}

#[test]
fn it_waits_a_moment_for_the_streams_to_come_up() {
    let mut bench = parked();
    bench.append().expect("it is queued");
    bench.hold = false;
    bench.connect("a", 1);
    bench.connect("b", 1);
    let nodes = bench.view_of_nodes();
    bench.answer(MetaReply::Nodes(nodes));
    assert_eq!(bench.opened(), [], "c may be about to come");
    bench.pass(Span::millis(600));
    assert_eq!(bench.opened(), [(1, 2)]);
    assert_eq!(bench.writer.committed(), Offset(3));
}

#[test]
fn it_can_be_parked_again_and_again() {
    let mut bench = parked();
    bench.hold = false;
    for round in 1..4 {
        connect_all(&mut bench);
        bench.append().expect("it is queued");
        connect_all(&mut bench);
        bench.pass(Span::millis(100));
        assert_eq!(bench.writer.committed(), Offset(2 + round));
        bench.writer.handle_archived(bench.now, SegmentNumber(round), Index(1));
        bench.pass(Span::secs(61));
        drop_streams(&mut bench);
    }
}

#[test]
fn an_append_while_it_is_being_parked_waits_for_the_next_segment() {
    let (mut bench, proposal) = parking();
    assert_eq!(bench.append(), Ok(Offset(2)));
    bench.answer(MetaReply::Failed);
    bench.pass(Span::millis(60));
    assert_eq!(bench.proposals(), [proposal.clone(), proposal.clone()], "repeated as it is");
    bench.hold = false;
    bench.answer(MetaReply::Outcome(TxnOutcome::Applied(Revision(99))));
    assert_eq!(bench.opened(), [(1, 3)]);
    assert_eq!(bench.writer.committed(), Offset(3));
    assert!(!bench.events.contains(&WriterEvent::Parked));
}

#[test]
fn a_parking_that_landed_unheard_is_adopted() {
    let (mut bench, proposal) = parking();
    bench.answer(MetaReply::Failed);
    bench.pass(Span::millis(60));
    bench.answer(MetaReply::Outcome(TxnOutcome::Refused));
    bench.answer(MetaReply::View(Box::new(bench.view(Some(&proposal)))));
    drop_streams(&mut bench);
}

#[test]
fn a_parking_that_was_refused_and_did_not_land_is_built_anew() {
    let (mut bench, proposal) = parking();
    bench.answer(MetaReply::Outcome(TxnOutcome::Refused));
    let mut view = bench.view(None);
    view.record.revision = Revision(88);
    bench.answer(MetaReply::View(Box::new(view.clone())));
    let again = bench.proposals().pop().expect("it tries again");
    assert_eq!((again.read.revision, again.create.clone()), (Revision(88), None));
    assert_eq!(again.seal.map(|seal| seal.at), proposal.seal.map(|seal| seal.at));
    // With an append behind it, it is a roll.
    bench.append().expect("it is queued");
    bench.answer(MetaReply::Outcome(TxnOutcome::Refused));
    bench.hold = false;
    bench.answer(MetaReply::View(Box::new(view)));
    let roll = bench.proposals().pop().expect("it rolls");
    assert!(roll.seal.is_some() && roll.create.is_some());
    assert_eq!(bench.writer.committed(), Offset(3));
}

/// A bench that was parked, whose next segment is being created.
fn creating() -> (Bench, SealSegment) {
    let mut bench = parked();
    bench.append().expect("it is queued");
    connect_all(&mut bench);
    let nodes = bench.view_of_nodes();
    bench.answer(MetaReply::Nodes(nodes));
    let proposal = bench.proposals().pop().expect("it creates");
    (bench, proposal)
}

#[test]
fn a_creation_that_landed_unheard_is_adopted() {
    let (mut bench, proposal) = creating();
    bench.answer(MetaReply::Failed);
    bench.pass(Span::millis(60));
    assert_eq!(bench.proposals().last(), Some(&proposal), "repeated as it is");
    bench.answer(MetaReply::Outcome(TxnOutcome::Refused));
    assert_eq!(bench.asked.last(), Some(&MetaRequest::View(ONE)));
    bench.answer(MetaReply::View(Box::new(bench.view(Some(&proposal)))));
    assert_eq!(bench.opened(), [(1, 3)]);
    assert_eq!(bench.writer.committed(), Offset(3));
}

#[test]
fn a_creation_that_was_refused_and_did_not_land_is_built_anew() {
    let (mut bench, _) = creating();
    bench.answer(MetaReply::Outcome(TxnOutcome::Refused));
    let mut view = bench.view(None);
    view.record.revision = Revision(111);
    bench.hold = false;
    bench.answer(MetaReply::View(Box::new(view)));
    let again = bench.proposals().pop().expect("it tries again");
    assert_eq!(again.read.revision, Revision(111));
    assert_eq!(bench.writer.committed(), Offset(3));
}

#[test]
fn a_log_that_was_taken_over_while_parked_fences_the_next_append() {
    let (mut bench, _) = creating();
    bench.answer(MetaReply::Outcome(TxnOutcome::Refused));
    let mut view = bench.view(None);
    (view.record.value.epoch, view.record.value.writer) = (Epoch(4), Nonce(2));
    bench.answer(MetaReply::View(Box::new(view)));
    assert_eq!(bench.events.last(), Some(&WriterEvent::Fenced(Epoch(4))));
    assert_eq!(bench.writer.unresolved().collect::<Vec<_>>(), [], "it was never sent");
}

#[test]
fn a_parked_log_is_closed_at_once() {
    let mut bench = parked();
    let asked = bench.asked.len();
    bench.writer.close(bench.now);
    bench.settle();
    assert_eq!(bench.events.last(), Some(&WriterEvent::Closed));
    assert_eq!((bench.append(), bench.asked.len()), (Err(AssignError::Closed), asked));
}

#[test]
fn close_while_it_is_being_parked_or_created() {
    let (mut bench, _) = parking();
    bench.writer.close(bench.now);
    bench.answer(MetaReply::Outcome(TxnOutcome::Applied(Revision(99))));
    assert_eq!(bench.events.last(), Some(&WriterEvent::Closed));
    assert_eq!(bench.proposals().len(), 1);

    // With an append behind it, that is made safe first.
    for refused in [false, true] {
        let (mut bench, _) = parking();
        bench.append().expect("it is queued");
        bench.writer.close(bench.now);
        bench.hold = refused;
        let outcome = if refused { TxnOutcome::Refused } else { TxnOutcome::Applied(Revision(99)) };
        bench.answer(MetaReply::Outcome(outcome));
        bench.hold = false;
        if refused {
            bench.answer(MetaReply::View(Box::new(bench.view(None))));
        }
        assert_eq!(bench.events.last(), Some(&WriterEvent::Closed), "refused {refused}");
        assert_eq!(bench.writer.committed(), Offset(3));
    }

    let (mut bench, proposal) = creating();
    bench.writer.close(bench.now);
    bench.answer(MetaReply::Outcome(TxnOutcome::Refused));
    bench.hold = false;
    bench.answer(MetaReply::View(Box::new(bench.view(Some(&proposal)))));
    assert_eq!(bench.events.last(), Some(&WriterEvent::Closed));
    assert_eq!(bench.writer.committed(), Offset(3));
}

#[test]
fn a_lost_member_does_not_keep_an_idle_log_from_being_parked() {
    let mut bench = archived();
    bench.disconnect("b");
    bench.disconnect("c");
    bench.pass(Span::secs(30));
    assert_eq!(bench.proposals(), [], "there is nobody to roll to");
    bench.pass(Span::secs(31));
    assert!(bench.writer.parked());
}

#[test]
fn a_parking_whose_reply_is_lost_is_adopted_though_the_segment_is_deleted() {
    for append in [false, true] {
        let (mut bench, proposal) = parking();
        if append {
            bench.append().expect("it is queued");
        }
        bench.answer(MetaReply::Failed);
        bench.pass(Span::millis(60));
        bench.answer(MetaReply::Outcome(TxnOutcome::Refused));
        let mut view = bench.view(Some(&proposal));
        view.segments.clear();
        view.first_segment = ONE;
        bench.hold = !append;
        bench.answer(MetaReply::View(Box::new(view)));
        assert_eq!(bench.writer.parked(), !append);
        assert_eq!(bench.writer.committed(), Offset(if append { 3 } else { 2 }));
    }
}
