//! Marks, commits, what is kept and resent, and members that are given up.

use super::*;

#[test]
fn the_commit_is_the_second_largest_mark() {
    let mut bench = bench();
    bench.set("b", Mode::Silent);
    bench.set("c", Mode::Silent);
    bench.appends(3);
    assert_eq!(bench.writer.committed(), Offset(0), "one holder is not enough");
    bench.writer.handle_ack(bench.now, &node("b"), ZERO, Index(2));
    bench.settle();
    assert_eq!(bench.writer.committed(), Offset(2));
    assert_eq!(bench.events.last(), Some(&WriterEvent::Committed(Offset(2))));
}

#[test]
fn a_batch_is_kept_until_every_member_holds_it() {
    let mut bench = bench();
    bench.set("c", Mode::Silent);
    bench.appends(3);
    assert_eq!((bench.writer.committed(), bench.writer.retained()), (Offset(3), 3 * BYTES));
    bench.writer.handle_ack(bench.now, &node("c"), ZERO, Index(2));
    bench.settle();
    assert_eq!(bench.writer.retained(), BYTES);
    assert!(bench.events.contains(&WriterEvent::Released(ZERO, Index(2))));
}

#[test]
fn after_a_reconnect_it_resends_from_the_tail() {
    let mut bench = bench();
    bench.set("c", Mode::Silent);
    bench.appends(4);
    bench.disconnect("c");
    bench.peer("c").held.insert(ZERO, 2);
    bench.peer("c").got.clear();
    bench.connect("c", 1);
    let got: Vec<_> = bench.peer("c").got.clone();
    assert!(matches!(got[0], Transmit::Open(..)), "{got:?}");
    let batches = got.iter().find(|transmit| matches!(transmit, Transmit::Batches(..)));
    assert!(matches!(batches, Some(Transmit::Batches(_, Index(2), Index(4)))), "{got:?}");
    assert_eq!(bench.writer.retained(), 0);
    assert_eq!(bench.lost(), []);
}

#[test]
fn a_member_that_comes_back_is_told_the_commit_before_it_is_sent_batches() {
    let mut bench = bench();
    bench.set("c", Mode::Full);
    bench.appends(3);
    bench.peer("c").got.clear();
    bench.pass(Span::millis(200));
    let told = |transmit: &Transmit| matches!(transmit, Transmit::Commit(_, Index(3)));
    let got = &bench.peers[&node("c")].got;
    let at = got.iter().position(told).unwrap_or_else(|| panic!("never told: {got:?}"));
    assert!(matches!(got[at - 1], Transmit::Open(..)), "{got:?}");
}

#[test]
fn a_silent_member_is_given_up_and_the_segment_rolled_to_two() {
    let mut bench = bench();
    bench.set("c", Mode::Silent);
    bench.appends(2);
    bench.pass(Span::millis(400));
    assert_eq!(bench.lost(), [], "not before the time-out");
    bench.pass(Span::millis(200));
    assert_eq!(bench.lost(), [("c".to_owned(), Lost::Silent)]);
    assert_eq!(bench.opened(), [(1, 2)]);
    let seal = bench.proposals()[0].seal.clone().expect("a roll seals");
    assert_eq!((seal.at.end, seal.holders.len(), seal.recovery), (Index(2), 2, false));
    bench.appends(1);
    assert_eq!(bench.writer.committed(), Offset(3));
}

#[test]
fn a_member_that_is_back_within_its_time_makes_no_roll() {
    let mut bench = bench();
    // One that stood still.
    bench.set("c", Mode::Silent);
    bench.appends(2);
    bench.pass(Span::millis(450));
    bench.peer("c").mode = Mode::Answers;
    bench.peer("c").held.insert(ZERO, 2);
    bench.writer.handle_ack(bench.now, &node("c"), ZERO, Index(2));
    bench.pass(Span::secs(10));
    // One whose process was started again, and kept its life.
    bench.disconnect("c");
    bench.appends(1);
    bench.pass(Span::millis(450));
    bench.connect("c", 1);
    bench.pass(Span::secs(10));
    assert_eq!((bench.lost(), bench.opened()), (vec![], vec![]));
    assert!(bench.proposals().is_empty() && bench.writer.retained() == 0);
    assert_eq!(bench.peers[&node("c")].held.get(&ZERO), Some(&3));
}

#[test]
fn a_member_without_a_link_is_given_up_even_when_nothing_is_appended() {
    let mut bench = bench();
    bench.pass(Span::secs(10));
    bench.disconnect("c");
    bench.pass(Span::millis(700));
    assert_eq!(bench.lost(), [("c".to_owned(), Lost::Unreachable)]);
    assert_eq!(bench.opened(), [(1, 2)]);
}

#[test]
fn it_goes_back_to_three_when_the_node_returns() {
    for incarnation in [1, 2] {
        let mut bench = bench();
        bench.disconnect("c");
        bench.appends(1);
        bench.pass(Span::secs(1));
        assert_eq!(bench.opened(), [(1, 2)]);
        bench.connect("c", incarnation);
        bench.pass(Span::secs(5));
        assert_eq!(bench.opened(), [(1, 2), (2, 3)], "incarnation {incarnation}");
        bench.appends(1);
        assert_eq!(bench.peers[&node("c")].held.get(&SegmentNumber(2)), Some(&1));
    }
}

#[test]
fn a_member_that_comes_back_reborn_is_given_up_at_once() {
    let mut bench = bench();
    bench.appends(2);
    bench.disconnect("c");
    bench.connect("c", 2);
    assert_eq!(bench.lost(), [("c".to_owned(), Lost::Reborn)]);
    assert_eq!(bench.opened(), [(1, 3)], "its new life may serve the next segment");
}

#[test]
fn what_a_reborn_member_acknowledged_before_does_not_commit_anything_later() {
    let mut bench = bench();
    bench.etcd = false;
    bench.set("b", Mode::Silent);
    bench.set("c", Mode::Silent);
    bench.appends(3);
    bench.disconnect("a");
    bench.connect("a", 2);
    bench.writer.handle_ack(bench.now, &node("b"), ZERO, Index(3));
    bench.settle();
    assert_eq!(bench.writer.committed(), Offset(0), "only b holds it now");
    bench.writer.handle_ack(bench.now, &node("c"), ZERO, Index(3));
    bench.settle();
    assert_eq!(bench.writer.committed(), Offset(3));
}

#[test]
fn several_segments_finish_in_one_step() {
    let mut bench = bench();
    bench.set("c", Mode::Silent);
    bench.appends(2);
    bench.writer.options.segment_bytes = BYTES;
    bench.appends(2);
    assert!(bench.writer.segments.len() > 1, "c holds the old segments back");
    bench.disconnect("c");
    bench.connect("c", 2);
    assert_eq!(bench.writer.committed(), Offset(4));
    let mut bench = super::bench();
    bench.set("c", Mode::Silent);
    bench.writer.options.segment_bytes = BYTES;
    bench.appends(3);
    bench.pass(Span::secs(1));
    assert_eq!(bench.writer.committed(), Offset(3), "and by a time-out");
}

#[test]
fn an_overloaded_member_is_paused_and_not_given_up() {
    let mut bench = bench();
    bench.set("c", Mode::Full);
    bench.appends(2);
    bench.pass(Span::secs(20));
    assert_eq!(bench.lost(), []);
    assert_eq!(bench.writer.committed(), Offset(2));
    bench.set("c", Mode::Answers);
    bench.pass(Span::millis(200));
    assert_eq!(bench.writer.retained(), 0, "it is sent what it refused");
}

#[test]
fn when_two_members_were_away_and_metadata_are_too_appends_go_on_with_those_that_return() {
    let mut bench = bench();
    bench.etcd = false;
    bench.disconnect("b");
    bench.disconnect("c");
    bench.appends(1);
    bench.pass(Span::secs(1));
    assert_eq!(bench.lost().len(), 2);
    bench.connect("b", 1);
    assert_eq!(bench.writer.committed(), Offset(1));
    bench.appends(2);
    assert_eq!(bench.writer.committed(), Offset(3), "an outage of the metadata does not stop the writer");
}

#[test]
fn an_own_pause_gives_nobody_up() {
    for first in ["timer", "ack"] {
        let mut bench = bench();
        bench.set("b", Mode::Silent);
        bench.set("c", Mode::Silent);
        bench.appends(2);
        bench.pass(Span::millis(100));
        // The process stops for seconds; what had come meanwhile is read first, or the clock is.
        bench.now = bench.now.after(Span::secs(5));
        if first == "ack" {
            bench.writer.handle_ack(bench.now, &node("b"), ZERO, Index(2));
        }
        bench.writer.handle_timeout(bench.now);
        bench.settle();
        assert_eq!(bench.lost(), [], "{first} first");
        bench.pass(Span::millis(600));
        assert!(bench.lost().contains(&("c".to_owned(), Lost::Silent)), "silence afterwards counts");
    }
}

#[test]
fn a_laggard_is_given_up_when_the_budget_is_used_up() {
    let options = WriterOptions { retransmit_bytes: 5 * BYTES, ..WriterOptions::default() };
    let mut bench = bench_with(&["a", "b", "c"], &[], options);
    bench.set("c", Mode::Full);
    bench.appends(6);
    assert_eq!(bench.lost(), [("c".to_owned(), Lost::Behind)]);
    assert_eq!(bench.opened(), [(1, 2)], "and the segment is rolled at once");
    assert_eq!(bench.writer.committed(), Offset(6));
}

#[test]
fn what_is_not_committed_is_never_dropped_for_room() {
    let options = WriterOptions { retransmit_bytes: 5 * BYTES, ..WriterOptions::default() };
    let mut bench = bench_with(&["a", "b", "c"], &[], options);
    bench.set("b", Mode::Full);
    bench.set("c", Mode::Full);
    bench.appends(5);
    assert_eq!(bench.append(), Err(AssignError::NoRoom(5 * BYTES)));
    assert_eq!((bench.lost(), bench.writer.committed()), (vec![], Offset(0)));
    bench.set("b", Mode::Answers);
    bench.pass(Span::millis(200));
    assert_eq!(bench.append(), Ok(Offset(5)));
}

#[test]
fn a_later_epoch_stops_it() {
    let mut bench = bench();
    bench.set("b", Mode::Silent);
    bench.set("c", Mode::Silent);
    bench.appends(1);
    bench.writer.handle_refused(bench.now, &node("a"), ZERO, &Refusal::Fenced { epoch: Epoch(9) });
    bench.writer.handle_ack(bench.now, &node("b"), ZERO, Index(1));
    bench.settle();
    assert_eq!(bench.events.last(), Some(&WriterEvent::Fenced(Epoch(9))), "and nothing after that");
    assert_eq!(bench.append(), Err(AssignError::Closed));
    assert_eq!(bench.writer.poll_timeout(), None);
}

#[test]
fn a_gap_is_mended_by_asking_for_the_tail() {
    let mut bench = bench();
    bench.set("c", Mode::Silent);
    bench.appends(3);
    bench.set("c", Mode::Answers);
    let gap = Refusal::OutOfOrder { tail: Index(0) };
    bench.writer.handle_refused(bench.now, &node("c"), ZERO, &gap);
    bench.settle();
    assert_eq!((bench.writer.retained(), bench.lost()), (0, vec![]));
}

#[test]
fn a_member_that_acknowledges_what_was_never_given_out_is_given_up() {
    let mut bench = bench();
    bench.appends(1);
    bench.writer.handle_ack(bench.now, &node("c"), ZERO, Index(9));
    bench.settle();
    assert!(matches!(&bench.lost()[..], [(name, Lost::Refused(_))] if name == "c"));
    assert_eq!(bench.writer.committed(), Offset(1));
}
