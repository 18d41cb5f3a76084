//! The roll, its lost replies, and the end of a writer.

use super::*;

#[test]
fn a_segment_is_rolled_by_size() {
    let options = WriterOptions { segment_bytes: 3 * BYTES, ..WriterOptions::default() };
    let mut bench = bench_with(&["a", "b", "c"], &[], options);
    bench.appends(7);
    assert_eq!(bench.opened(), [(1, 3), (2, 3)]);
    let bases: Vec<_> = bench.proposals().iter().map(|proposal| proposal.records().0.next_base).collect();
    assert_eq!(bases, [Offset(3), Offset(6)]);
    assert_eq!(bench.writer.committed(), Offset(7));
}

#[test]
fn a_segment_is_rolled_by_age_unless_it_is_empty() {
    let options = WriterOptions { idle_after: Span::secs(10_000), ..WriterOptions::default() };
    let mut bench = bench_with(&["a", "b", "c"], &[], options);
    bench.pass(Span::secs(700));
    assert_eq!(bench.opened(), []);
    bench.appends(1);
    bench.pass(Span::secs(700));
    assert_eq!(bench.opened(), [(1, 3)]);
}

/// A bench whose roll is out, with two appends before it and one behind it.
fn rolling() -> (Bench, SealSegment) {
    let options = WriterOptions { segment_bytes: 2 * BYTES, ..WriterOptions::default() };
    let mut bench = bench_with(&["a", "b", "c"], &[], options);
    bench.appends(1);
    bench.hold = true;
    bench.appends(1);
    assert_eq!(bench.asked.last(), Some(&MetaRequest::Nodes), "read before the segment is frozen");
    let nodes = bench.view_of_nodes();
    bench.answer(MetaReply::Nodes(nodes));
    let proposal = bench.proposals().pop().expect("two members hold everything");
    bench.append().expect("appends go on at the offsets that they will have");
    assert_eq!(bench.writer.committed(), Offset(2));
    (bench, proposal)
}

#[test]
fn a_roll_whose_reply_is_lost_is_repeated_as_it_is_and_adopted() {
    let (mut bench, proposal) = rolling();
    bench.answer(MetaReply::Failed);
    bench.pass(Span::millis(60));
    assert_eq!(bench.proposals(), [proposal.clone(), proposal.clone()]);
    bench.answer(MetaReply::Outcome(TxnOutcome::Refused));
    assert_eq!(bench.asked.last(), Some(&MetaRequest::View(ZERO)));
    bench.answer(MetaReply::View(Box::new(bench.view(Some(&proposal)))));
    assert_eq!(bench.opened(), [(1, 3)]);
    assert_eq!(bench.writer.committed(), Offset(3));
}

#[test]
fn a_roll_that_is_refused_for_good_stops_the_writer() {
    for unknown_before in [false, true] {
        let (mut bench, proposal) = rolling();
        if unknown_before {
            bench.answer(MetaReply::Failed);
            bench.pass(Span::millis(60));
        }
        let asked = bench.asked.len();
        bench.answer(MetaReply::Never("it is not sound".to_owned()));
        let Some(WriterEvent::Broken(why)) = bench.events.last() else { panic!("{:?}", bench.events) };
        assert!(why.contains("segment 0 cannot be sealed at 2") && why.contains("not sound"), "{why}");
        bench.pass(Span::secs(20));
        assert_eq!(bench.asked.len(), asked, "it is not repeated, and nothing else is proposed");
        assert_eq!(bench.append(), Err(AssignError::Closed));
        assert_eq!((bench.writer.committed(), bench.writer.unresolved().count()), (Offset(2), 0));
        assert_eq!(bench.proposals().pop(), Some(proposal));
    }
}

#[test]
fn what_is_only_read_is_read_again_whatever_the_answer() {
    let options = WriterOptions { segment_bytes: 2 * BYTES, ..WriterOptions::default() };
    let mut bench = bench_with(&["a", "b", "c"], &[], options);
    bench.hold = true;
    bench.appends(2);
    bench.answer(MetaReply::Never("it is not sound".to_owned()));
    bench.hold = false;
    bench.pass(Span::millis(60));
    assert_eq!(bench.opened(), [(1, 3)]);
}

#[test]
fn a_roll_that_is_refused_and_did_not_land_is_built_anew_with_the_same_end() {
    let (mut bench, proposal) = rolling();
    bench.answer(MetaReply::Outcome(TxnOutcome::Refused));
    let mut view = bench.view(None);
    view.record.revision = Revision(88);
    bench.answer(MetaReply::View(Box::new(view)));
    assert_eq!(bench.asked.last(), Some(&MetaRequest::Nodes));
    let nodes = bench.view_of_nodes();
    bench.answer(MetaReply::Nodes(nodes));
    let again = bench.proposals().pop().expect("it tries again");
    assert_eq!(again.read.revision, Revision(88));
    assert_eq!(again.seal.map(|seal| seal.at), proposal.seal.map(|seal| seal.at));
}

#[test]
fn a_refusal_by_a_later_epoch_fences() {
    let (mut bench, _) = rolling();
    bench.answer(MetaReply::Outcome(TxnOutcome::Refused));
    let mut view = bench.view(None);
    (view.record.value.epoch, view.record.value.writer) = (Epoch(4), Nonce(2));
    bench.answer(MetaReply::View(Box::new(view)));
    assert_eq!(bench.events.last(), Some(&WriterEvent::Fenced(Epoch(4))));
    assert_eq!(bench.append(), Err(AssignError::Closed));
}

#[test]
fn a_log_that_is_gone_stops_its_writer() {
    let (mut bench, _) = rolling();
    bench.answer(MetaReply::Deleted);
    assert_eq!(bench.events.last(), Some(&WriterEvent::Deleted));
    assert_eq!(bench.append(), Err(AssignError::Closed));
    let left: Vec<_> = bench.writer.unresolved().collect();
    assert_eq!(left, [], "what waits for the next segment was never sent");
}

#[test]
fn an_end_that_is_not_the_writers_own_breaks_it() {
    let (mut bench, mut proposal) = rolling();
    bench.answer(MetaReply::Outcome(TxnOutcome::Refused));
    proposal.seal.as_mut().expect("a roll seals").at =
        SegmentEnd { end: Index(1), chain: Chain(1), last_timestamp: Timestamp(0) };
    bench.answer(MetaReply::View(Box::new(bench.view(Some(&proposal)))));
    assert!(matches!(bench.events.last(), Some(WriterEvent::Broken(_))), "{:?}", bench.events.last());
}

#[test]
fn a_seal_without_the_next_segment_is_followed_by_its_creation() {
    let (mut bench, mut proposal) = rolling();
    bench.answer(MetaReply::Outcome(TxnOutcome::Refused));
    proposal.create = None;
    bench.hold = false;
    bench.answer(MetaReply::View(Box::new(bench.view(Some(&proposal)))));
    let creation = bench.proposals().pop().expect("it creates the segment that appends wait for");
    assert_eq!((creation.seal, bench.opened()), (None, vec![(1, 3)]));
    assert_eq!(bench.writer.committed(), Offset(3));
}

#[test]
fn while_the_nodes_cannot_be_read_it_goes_on_assigning_in_the_same_segment() {
    let options = WriterOptions { segment_bytes: 2 * BYTES, ..WriterOptions::default() };
    let mut bench = bench_with(&["a", "b", "c"], &[], options);
    bench.etcd = false;
    bench.appends(5);
    bench.pass(Span::secs(5));
    assert_eq!((bench.opened().len(), bench.writer.committed()), (0, Offset(5)));
    bench.etcd = true;
    bench.pass(Span::secs(1));
    assert_eq!(bench.opened(), [(1, 3)]);
}

#[test]
fn a_roll_is_not_forgotten_when_something_else_is_looked_up() {
    let options = WriterOptions { segment_bytes: 2 * BYTES, ..WriterOptions::default() };
    let mut bench = bench_with(&["a", "b", "c"], &[], options);
    bench.appends(1);
    let end = chain(2);
    bench.writer.assign(bench.now, 1, BYTES, end).expect("there is room");
    // The roll wants to read the nodes; before the driver sees that, a member says something odd.
    let sealed = Refusal::Sealed { end: Index(1) };
    bench.writer.handle_refused(bench.now, &node("c"), ZERO, &sealed);
    bench.settle();
    assert_eq!(bench.opened(), [(1, 3)], "{:?}", bench.asked);
    assert!(bench.asked.contains(&MetaRequest::View(ZERO)));
}

#[test]
fn close_seals_and_opens_nothing() {
    let mut bench = bench();
    bench.appends(3);
    bench.writer.close(bench.now);
    bench.settle();
    let proposal = bench.proposals().pop().expect("it seals");
    assert_eq!((proposal.seal.map(|seal| seal.at.end), proposal.create), (Some(Index(3)), None));
    assert_eq!(bench.events.last(), Some(&WriterEvent::Closed));
    assert_eq!(bench.append(), Err(AssignError::Closed));
    assert_eq!(bench.writer.poll_timeout(), None);
}

#[test]
fn close_while_rolling_closes_the_segment_that_follows() {
    let (mut bench, _) = rolling();
    bench.writer.close(bench.now);
    bench.hold = false;
    bench.answer(MetaReply::Outcome(TxnOutcome::Applied(Revision(99))));
    let sealed: Vec<_> = bench.proposals().iter().filter_map(|p| p.seal.clone()).collect();
    let ends: Vec<_> = sealed.iter().map(|seal| (seal.segment, seal.at.end)).collect();
    assert_eq!(ends, [(ZERO, Index(2)), (ONE, Index(1))]);
    assert_eq!(bench.events.last(), Some(&WriterEvent::Closed));
    assert_eq!(bench.writer.committed(), Offset(3));
}

#[test]
fn close_during_a_roll_that_is_refused_still_sends_what_waits_for_the_next_segment() {
    let (mut bench, _) = rolling();
    bench.answer(MetaReply::Outcome(TxnOutcome::Refused));
    bench.writer.close(bench.now);
    bench.hold = false;
    bench.answer(MetaReply::View(Box::new(bench.view(None))));
    assert_eq!(bench.events.last(), Some(&WriterEvent::Closed));
    assert_eq!(bench.writer.committed(), Offset(3));
}

/// A bench whose segment was sealed with one holder, for the two others are gone.
fn one_holder() -> Bench {
    let mut bench = bench_with(&["a", "b", "c"], &["d", "e"], WriterOptions::default());
    bench.disconnect("b");
    bench.disconnect("c");
    bench.appends(2);
    bench.pass(Span::secs(1));
    let seal = bench.proposals()[0].seal.clone().expect("a roll seals");
    assert_eq!(seal.holders, [(node("a"), Revision(1))]);
    assert!(!seal.settled());
    assert_eq!(bench.opened(), [(1, 3)]);
    bench.appends(1);
    assert_eq!(bench.writer.committed(), Offset(0), "later appends wait behind them");
    bench
}

#[test]
fn an_end_with_one_holder_completes_nothing_until_it_is_archived() {
    let mut bench = one_holder();
    bench.writer.handle_archived(bench.now, ZERO, Index(2));
    bench.settle();
    assert_eq!(bench.writer.committed(), Offset(3));
}

#[test]
fn an_end_with_one_holder_completes_when_a_second_member_gets_it_after_all() {
    let mut bench = one_holder();
    bench.connect("b", 1);
    assert_eq!(bench.writer.committed(), Offset(3));
}

#[test]
fn an_end_with_one_holder_is_looked_at_until_it_is_settled() {
    let mut bench = one_holder();
    bench.hold = true;
    bench.asked.clear();
    bench.pass(Span::secs(3));
    assert_eq!(bench.asked, [MetaRequest::View(ZERO)]);
    let mut view = bench.view(None);
    let segment = view.segments.get_mut(&ZERO).expect("the oldest");
    let end = SegmentEnd { end: Index(2), chain: Chain(2), last_timestamp: Timestamp(0) };
    segment.record.value.state = SegmentState::Archived(end);
    bench.answer(MetaReply::View(Box::new(view)));
    assert_eq!(bench.writer.committed(), Offset(3));
}

/// The nodes are looked at, and then the log.
fn looked(bench: &mut Bench, view: LogView) {
    bench.pass(Span::secs(3));
    bench.hold = true;
    bench.pass(Span::secs(3));
    if bench.asked.last() == Some(&MetaRequest::Nodes) {
        bench.answer(MetaReply::Nodes(bench.view_of_nodes()));
        bench.pass(Span::secs(3));
    }
    assert_eq!(bench.asked.last(), Some(&MetaRequest::View(ZERO)));
    bench.answer(MetaReply::View(Box::new(view)));
    bench.hold = false;
    bench.settle();
}

#[test]
fn an_end_that_every_member_has_forgotten_stops_the_writer() {
    let mut bench = one_holder();
    for name in ["a", "b", "c"] {
        assert!(!matches!(bench.events.last(), Some(WriterEvent::Forgotten(_))), "{name} may still have it");
        bench.peer(name).incarnation = 2;
        let view = bench.view(None);
        looked(&mut bench, view);
    }
    let Some(WriterEvent::Forgotten(why)) = bench.events.last() else { panic!("{:?}", bench.events) };
    assert!(why.contains("segment 0"), "{why}");
    assert_eq!(bench.writer.committed(), Offset(0));
}

#[test]
fn what_was_archived_before_every_member_forgot_it_is_safe() {
    let mut bench = one_holder();
    for name in ["a", "b", "c"] {
        bench.peer(name).incarnation = 2;
    }
    let mut view = bench.view(None);
    view.segments.get_mut(&ZERO).expect("the oldest").archived.end = Index(2);
    looked(&mut bench, view);
    assert_eq!(bench.writer.committed(), Offset(3));
    assert!(!bench.events.iter().any(|event| matches!(event, WriterEvent::Forgotten(_))));
}

#[test]
fn a_view_that_begins_behind_a_segment_says_nothing_of_what_is_left_of_it() {
    let mut bench = one_holder();
    for name in ["a", "b", "c"] {
        bench.peer(name).incarnation = 2;
    }
    let mut view = bench.view(None);
    view.segments.clear();
    looked(&mut bench, view);
    assert!(!bench.events.iter().any(|event| matches!(event, WriterEvent::Forgotten(_))));
}

/// The log once its first segment is archived, trimmed and deleted.
fn without_first(mut view: LogView) -> LogView {
    view.segments.remove(&ZERO);
    view.first_segment = ONE;
    view
}

#[test]
fn an_end_with_one_holder_is_settled_when_its_segment_is_deleted() {
    let mut bench = one_holder();
    bench.hold = true;
    bench.pass(Span::secs(3));
    assert_eq!(bench.asked.last(), Some(&MetaRequest::View(ZERO)));
    bench.answer(MetaReply::View(Box::new(without_first(bench.view(None)))));
    assert_eq!(bench.writer.committed(), Offset(3));
    bench.hold = false;
    bench.writer.close(bench.now);
    bench.settle();
    assert_eq!(bench.events.last(), Some(&WriterEvent::Closed));
}

#[test]
fn a_later_epoch_that_deleted_the_segment_settles_nothing() {
    let mut bench = one_holder();
    bench.hold = true;
    bench.pass(Span::secs(3));
    let mut view = without_first(bench.view(None));
    (view.record.value.epoch, view.record.value.writer) = (Epoch(4), Nonce(2));
    bench.answer(MetaReply::View(Box::new(view)));
    assert_eq!(bench.events.last(), Some(&WriterEvent::Fenced(Epoch(4))));
    assert_eq!(bench.writer.committed(), Offset(0));
}

#[test]
fn a_roll_whose_reply_is_lost_is_adopted_though_the_sealed_segment_is_deleted() {
    let (mut bench, proposal) = rolling();
    bench.answer(MetaReply::Failed);
    bench.pass(Span::millis(60));
    bench.answer(MetaReply::Outcome(TxnOutcome::Refused));
    bench.answer(MetaReply::View(Box::new(without_first(bench.view(Some(&proposal))))));
    assert_eq!(bench.opened(), [(1, 3)]);
    assert_eq!(bench.writer.committed(), Offset(3));
}

#[test]
fn a_seal_without_a_next_segment_is_adopted_though_the_segment_is_deleted() {
    let mut bench = bench();
    bench.appends(3);
    bench.hold = true;
    bench.writer.close(bench.now);
    bench.settle();
    let nodes = bench.view_of_nodes();
    bench.answer(MetaReply::Nodes(nodes));
    let proposal = bench.proposals().pop().expect("it seals");
    assert_eq!(proposal.create, None);
    bench.answer(MetaReply::Outcome(TxnOutcome::Refused));
    bench.answer(MetaReply::View(Box::new(without_first(bench.view(Some(&proposal))))));
    assert_eq!(bench.events.last(), Some(&WriterEvent::Closed));
}

#[test]
fn while_a_seal_cannot_be_published_the_segment_is_opened_on_every_new_stream() {
    let (mut bench, _) = rolling();
    bench.answer(MetaReply::Failed);
    bench.peer("a").got.clear();
    bench.disconnect("a");
    bench.connect("a", 1);
    let opened = |transmit: &Transmit| matches!(transmit, Transmit::Open(place, _) if place.segment == ZERO);
    assert!(bench.peer("a").got.iter().any(opened), "or the node takes the writer for gone");
}

#[test]
fn with_nobody_to_roll_to_it_waits_without_sealing() {
    let mut bench = bench();
    bench.disconnect("b");
    bench.disconnect("c");
    bench.appends(1);
    bench.pass(Span::secs(20));
    assert_eq!(bench.proposals(), []);
    bench.connect("c", 1);
    bench.pass(Span::millis(100));
    assert_eq!(bench.writer.committed(), Offset(1));
    assert_eq!(bench.opened(), [(1, 2)], "noticed at once");
}

#[test]
fn members_that_stay_silent_are_not_rolled_to_again_and_again() {
    let mut bench = bench();
    bench.set("b", Mode::Silent);
    bench.set("c", Mode::Silent);
    bench.appends(1);
    bench.pass(Span::secs(20));
    assert_eq!(bench.proposals().len(), 0, "a segment with them would have to be rolled at once");
}
