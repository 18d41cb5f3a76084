//! One test per rule of a takeover.

use super::*;
use crate::ids::{Incarnation, Level, Offset, Timestamp};
use crate::meta::{Member, SegmentState};

const START: Time = Time(1_000_000);
const OPTIONS: RecoveryOptions = RecoveryOptions { grace: Span::millis(20), silence: Span::millis(2_000) };

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("a valid name")
}

fn ms(ms: u64) -> Time {
    START.after(Span::millis(ms))
}

fn end_at(end: u64) -> SegmentEnd {
    SegmentEnd { end: Index(end), chain: Chain(end.into()), last_timestamp: Timestamp(end) }
}

fn nodes(incarnations: &[(&str, u64)]) -> BTreeMap<NodeId, NodeView> {
    let view = |(name, incarnation): &(&str, u64)| {
        let life = (Incarnation(*incarnation), Revision(10 + incarnation));
        (node(name), NodeView { lives: [(Level::Memory, life)].into(), running: None })
    };
    incarnations.iter().map(view).collect()
}

fn takeover(members: &[&str], archived: u64, incarnations: &[(&str, u64)]) -> Recovery {
    let ensemble = members.iter().map(|n| Member { node: node(n), incarnation: Incarnation(1) }).collect();
    let record = SegmentRecord {
        epoch: Epoch(3),
        base: Offset(0),
        base_chain: Chain(0),
        base_timestamp: Timestamp(0),
        level: Level::Memory,
        ensemble,
        state: SegmentState::Open,
        loss: None,
    };
    let segment = (SegmentNumber(2), Versioned { revision: Revision(5), value: record });
    Recovery::new(START, OPTIONS, LogId(7), Epoch(4), segment, end_at(archived), nodes(incarnations))
}

fn of_three() -> Recovery {
    takeover(&["a", "b", "c"], 0, &[("a", 1), ("b", 1), ("c", 1)])
}

fn holds(tail: u64) -> FenceOk {
    FenceOk {
        tail: Index(tail),
        held: Index(tail),
        writer_tail: Index(tail),
        commit: Index(0),
        freed: Index(0),
        chain: Chain(tail.into()),
        last_timestamp: Timestamp(tail),
    }
}

fn fenced(recovery: &mut Recovery, at: u64, name: &str, tail: u64) {
    recovery.handle_fenced(ms(at), &node(name), Ok(holds(tail)));
}

fn requests(recovery: &mut Recovery) -> Vec<RecoveryRequest> {
    std::iter::from_fn(|| recovery.poll_request()).collect()
}

/// Takes the requests, of which one must be a copy: from whom to whom, from where to where.
fn copy(recovery: &mut Recovery) -> (String, String, u64, u64) {
    let copy = requests(recovery).into_iter().find_map(|request| match request {
        RecoveryRequest::Copy { source, target, from, to } => {
            Some((source.0.to_string(), target.0.to_string(), from.0, to.0))
        }
        _ => None,
    });
    copy.expect("a copy is asked for")
}

fn seal(recovery: &Recovery) -> &SealOne {
    match recovery.outcome() {
        Some(RecoveryOutcome::Seal(seal)) => seal,
        other => panic!("not sealed: {other:?}"),
    }
}

fn holders(recovery: &Recovery) -> Vec<String> {
    seal(recovery).holders.iter().map(|(node, _)| node.to_string()).collect()
}

#[test]
fn everybody_is_fenced_and_a_minority_decides_nothing() {
    let mut recovery = of_three();
    assert_eq!(requests(&mut recovery).len(), 3);
    fenced(&mut recovery, 1, "a", 5);
    assert_eq!((recovery.outcome(), recovery.poll_timeout()), (None, None));
}

#[test]
fn members_that_have_not_synced_what_they_stored_are_asked_again() {
    let mut recovery = of_three();
    requests(&mut recovery);
    for name in ["a", "b"] {
        let unsynced = FenceOk { held: Index(6), writer_tail: Index(6), ..holds(9) };
        recovery.handle_fenced(ms(1), &node(name), Ok(unsynced));
    }
    recovery.handle_timeout(ms(21));
    assert_eq!(recovery.outcome(), None, "nobody counts as a holder of what is not synced");
    recovery.handle_timeout(recovery.poll_timeout().expect("it goes on by itself"));
    let again: Vec<_> = requests(&mut recovery);
    assert!(matches!(&again[..], [RecoveryRequest::Fence(..), RecoveryRequest::Fence(..)]), "{again:?}");
    fenced(&mut recovery, 130, "a", 9);
    fenced(&mut recovery, 131, "b", 9);
    recovery.handle_timeout(ms(151));
    assert_eq!(holders(&recovery), ["a", "b"]);
}

#[test]
fn the_end_is_the_largest_tail_and_is_copied_to_an_ack_quorum() {
    let mut recovery = of_three();
    fenced(&mut recovery, 1, "a", 5);
    fenced(&mut recovery, 2, "b", 9);
    assert_eq!(recovery.poll_timeout(), Some(ms(22)), "a grace for the third");
    recovery.handle_timeout(ms(22));
    // What a has must be what b has, first of all.
    let asked = requests(&mut recovery).pop();
    assert!(matches!(&asked, Some(RecoveryRequest::Chain(n, _, Index(5))) if *n == node("b")), "{asked:?}");
    recovery.handle_chain(ms(23), Index(5), Some(Chain(5)));
    assert_eq!(copy(&mut recovery), ("b".to_owned(), "a".to_owned(), 5, 9));
    assert_eq!(recovery.poll_timeout(), None, "nothing to wait for while a copy is under way");
    recovery.handle_copied(ms(30), &node("a"), Index(9));
    assert_eq!(seal(&recovery).at, end_at(9));
    assert_eq!(holders(&recovery), ["a", "b"]);
    assert!(seal(&recovery).settled() && seal(&recovery).recovery);
}

#[test]
fn when_all_answer_there_is_no_grace() {
    let mut recovery = of_three();
    for name in ["a", "b", "c"] {
        fenced(&mut recovery, 1, name, 5);
    }
    assert_eq!(holders(&recovery), ["a", "b", "c"]);
}

#[test]
fn members_that_disagree_raise_an_alarm() {
    let mut recovery = of_three();
    fenced(&mut recovery, 1, "a", 5);
    recovery.handle_fenced(ms(1), &node("b"), Ok(FenceOk { chain: Chain(99), ..holds(5) }));
    recovery.handle_timeout(ms(30));
    assert!(matches!(recovery.outcome(), Some(RecoveryOutcome::Alarm(_))), "{:?}", recovery.outcome());
    let mut recovery = of_three();
    fenced(&mut recovery, 1, "a", 5);
    fenced(&mut recovery, 1, "b", 9);
    recovery.handle_timeout(ms(30));
    recovery.handle_chain(ms(31), Index(5), Some(Chain(99)));
    assert!(matches!(recovery.outcome(), Some(RecoveryOutcome::Alarm(_))), "{:?}", recovery.outcome());
}

#[test]
fn a_later_epoch_ends_it() {
    let mut recovery = of_three();
    recovery.handle_fenced(ms(1), &node("a"), Err(Refusal::Fenced { epoch: Epoch(9) }));
    assert_eq!(recovery.outcome(), Some(&RecoveryOutcome::Fenced(Epoch(9))));
}

#[test]
fn a_silent_member_is_asked_again_and_not_waited_for_beyond_the_bound() {
    let mut recovery = takeover(&["a", "b"], 0, &[("a", 1), ("b", 1)]);
    requests(&mut recovery);
    fenced(&mut recovery, 1, "a", 5);
    recovery.handle_silent(ms(2), &node("b"));
    let mut asked = 0;
    let mut now = ms(2);
    while recovery.outcome().is_none() {
        let next = recovery.poll_timeout().expect("it waits for something");
        assert!(next > now, "a timer in the past: {next:?}");
        now = next;
        recovery.handle_timeout(now);
        for _ in requests(&mut recovery) {
            asked += 1;
            recovery.handle_silent(now, &node("b"));
        }
    }
    assert!(asked > 5 && now <= ms(2_200), "{asked} times until {now:?}");
    assert_eq!(holders(&recovery), ["a"]);
    assert!(!seal(&recovery).settled(), "the other one may hold more");
}

#[test]
fn a_silent_third_member_does_not_disturb_a_copy() {
    let mut recovery = of_three();
    fenced(&mut recovery, 1, "a", 5);
    fenced(&mut recovery, 1, "b", 0);
    recovery.handle_timeout(ms(30));
    recovery.handle_chain(ms(31), Index(0), Some(Chain(0)));
    assert_eq!(copy(&mut recovery), ("a".to_owned(), "b".to_owned(), 0, 5));
    recovery.handle_silent(ms(40), &node("c"));
    assert_eq!(requests(&mut recovery), [], "the copy is still under way");
    recovery.handle_copied(ms(9_000), &node("b"), Index(5));
    assert_eq!(holders(&recovery), ["a", "b"]);
}

#[test]
fn when_the_source_dies_the_end_is_found_anew() {
    let mut recovery = of_three();
    fenced(&mut recovery, 1, "a", 5);
    fenced(&mut recovery, 1, "b", 9);
    recovery.handle_timeout(ms(30));
    recovery.handle_chain(ms(31), Index(5), Some(Chain(5)));
    copy(&mut recovery);
    recovery.handle_silent(ms(40), &node("b"));
    assert_eq!(recovery.outcome(), None);
    fenced(&mut recovery, 50, "c", 5);
    recovery.handle_timeout(ms(80));
    assert_eq!(seal(&recovery).at, end_at(5), "b's surplus was never acknowledged, for a and c lack it");
    assert_eq!(holders(&recovery), ["a", "c"]);
}

#[test]
fn a_target_that_keeps_failing_does_not_keep_it_for_ever() {
    let mut recovery = takeover(&["a", "b"], 0, &[("a", 1), ("b", 1)]);
    requests(&mut recovery);
    fenced(&mut recovery, 1, "a", 5);
    fenced(&mut recovery, 1, "b", 0);
    recovery.handle_chain(ms(2), Index(0), Some(Chain(0)));
    let mut now = ms(2);
    while recovery.outcome().is_none() {
        for request in requests(&mut recovery) {
            match request {
                RecoveryRequest::Copy { target, .. } => recovery.handle_silent(now, &target.0),
                RecoveryRequest::Fence(name, _) => recovery.handle_fenced(now, &name, Ok(holds(0))),
                RecoveryRequest::Chain(_, _, at) => recovery.handle_chain(now, at, Some(Chain(at.0.into()))),
            }
        }
        if let Some(next) = recovery.poll_timeout() {
            now = now.max(next);
            recovery.handle_timeout(now);
        }
    }
    assert!(now <= ms(2_300), "{now:?}");
    assert_eq!(holders(&recovery), ["a"]);
}

#[test]
fn a_copy_may_take_longer_than_the_bound() {
    let mut recovery = takeover(&["a", "b"], 0, &[("a", 1), ("b", 1)]);
    fenced(&mut recovery, 1, "a", 5);
    fenced(&mut recovery, 1, "b", 0);
    recovery.handle_chain(ms(2), Index(0), Some(Chain(0)));
    copy(&mut recovery);
    assert_eq!(recovery.poll_timeout(), None);
    recovery.handle_timeout(ms(60_000));
    assert_eq!(recovery.outcome(), None);
    recovery.handle_copied(ms(60_001), &node("b"), Index(5));
    assert!(seal(&recovery).settled());
}

#[test]
fn a_member_that_answers_late_and_longer_moves_the_end_before_it_is_published() {
    let mut recovery = of_three();
    fenced(&mut recovery, 1, "a", 5);
    fenced(&mut recovery, 1, "b", 0);
    recovery.handle_timeout(ms(30));
    recovery.handle_chain(ms(31), Index(0), Some(Chain(0)));
    copy(&mut recovery);
    fenced(&mut recovery, 35, "c", 7);
    recovery.handle_copied(ms(40), &node("b"), Index(5));
    let asked = requests(&mut recovery).pop();
    assert!(matches!(&asked, Some(RecoveryRequest::Chain(n, _, _)) if *n == node("c") || *n == node("a")));
    assert_eq!(recovery.outcome(), None, "what c has is checked before it counts");
}

#[test]
fn moved_members_settle_an_end_with_one_holder() {
    let mut recovery = takeover(&["a", "b"], 0, &[("a", 1), ("b", 2)]);
    assert_eq!(requests(&mut recovery).len(), 1, "who has forgotten is not asked");
    fenced(&mut recovery, 1, "a", 5);
    let seal = seal(&recovery);
    assert_eq!(seal.moved, [(node("b"), Revision(12))]);
    assert!(seal.settled());
}

#[test]
fn the_lives_of_another_buffer_say_nothing() {
    let mut record = of_three().record;
    record.value.level = Level::Disk;
    // The memory of all of them was lost, as by a power cut; what is on their disks was not.
    let lives =
        [(Level::Memory, (Incarnation(2), Revision(12))), (Level::Disk, (Incarnation(1), Revision(31)))];
    let view = |name: &str| (node(name), NodeView { lives: lives.into(), running: None });
    let nodes: BTreeMap<_, _> = ["a", "b", "c"].map(view).into();
    let segment = (SegmentNumber(2), record);
    let mut recovery = Recovery::new(START, OPTIONS, LogId(7), Epoch(4), segment, end_at(0), nodes.clone());
    assert_eq!(requests(&mut recovery).len(), 3, "everybody is asked");
    recovery.handle_nodes(START, nodes);
    for name in ["a", "b", "c"] {
        fenced(&mut recovery, 1, name, 5);
    }
    let seal = seal(&recovery);
    assert!(seal.moved.is_empty());
    assert!(seal.holders.len() == 3 && seal.holders.iter().all(|(_, at)| *at == Revision(31)), "{seal:?}");
}

#[test]
fn a_member_that_says_it_was_reborn_does_not_count() {
    let mut recovery = of_three();
    recovery.handle_fenced(ms(1), &node("c"), Err(Refusal::WrongIncarnation { current: Incarnation(2) }));
    fenced(&mut recovery, 2, "a", 5);
    assert_eq!(recovery.outcome(), None, "a alone is no fence quorum");
    fenced(&mut recovery, 3, "b", 5);
    assert_eq!(holders(&recovery), ["a", "b"], "and nobody is waited for");
}

#[test]
fn an_answer_from_an_earlier_life_that_arrives_late_does_not_count() {
    let mut recovery = of_three();
    recovery.handle_nodes(ms(1), nodes(&[("a", 1), ("b", 1), ("c", 2)]));
    fenced(&mut recovery, 2, "c", 9);
    fenced(&mut recovery, 3, "a", 5);
    recovery.handle_timeout(ms(60));
    assert_eq!(recovery.outcome(), None, "a alone is no fence quorum");
    fenced(&mut recovery, 61, "b", 5);
    assert_eq!((seal(&recovery).at, holders(&recovery).len()), (end_at(5), 2));
}

#[test]
fn a_stale_list_of_nodes_proves_no_loss() {
    let mut recovery = takeover(&["a", "b"], 0, &[("a", 0), ("b", 0)]);
    assert_eq!(requests(&mut recovery).len(), 2);
    assert_eq!(recovery.outcome(), None);
}

#[test]
fn two_of_three_that_forgot_are_a_loss() {
    let recovery = takeover(&["a", "b", "c"], 0, &[("a", 1), ("b", 2), ("c", 2)]);
    let moved = vec![node("b"), node("c")];
    assert_eq!(recovery.outcome(), Some(&RecoveryOutcome::Lost { moved }));
}

fn trimmed_to(trim_offset: u64) -> Versioned<TrimRecord> {
    Versioned { revision: Revision(6), value: TrimRecord { trim_offset: Offset(trim_offset) } }
}

fn leave(recovery: &Recovery) -> Option<Revision> {
    seal(recovery).allowed_loss.as_ref().map(|loss| loss.config)
}

/// With `a` alone left of three, and leave to lose what the others had.
fn allowed(archived: u64) -> Recovery {
    let mut recovery = takeover(&["a", "b", "c"], archived, &[("a", 1), ("b", 2), ("c", 2)]);
    recovery.allow_loss(ms(1), Revision(8), trimmed_to(0));
    recovery
}

/// The same of a segment that starts at offset 100, in a log that is trimmed; none is left when `a` has
/// no tail.
fn trimmed(trim_offset: u64, archived: u64, a: Option<u64>) -> SealOne {
    let mut recovery = takeover(&["a", "b", "c"], archived, &[("a", 1), ("b", 2), ("c", 2)]);
    recovery.record.value.base = Offset(100);
    recovery.allow_loss(ms(1), Revision(8), trimmed_to(trim_offset));
    match a {
        Some(tail) => fenced(&mut recovery, 2, "a", tail),
        None => recovery.handle_nodes(ms(2), nodes(&[("a", 2), ("b", 2), ("c", 2)])),
    }
    seal(&recovery).clone()
}

#[test]
fn with_leave_a_loss_is_sealed_at_the_most_that_is_left() {
    let mut recovery = allowed(0);
    assert_eq!(recovery.outcome(), None);
    assert_eq!(requests(&mut recovery).len(), 1, "whoever is left is fenced");
    fenced(&mut recovery, 2, "a", 5);
    let found = seal(&recovery);
    assert_eq!((found.at, found.kept(), found.moved.len()), (end_at(5), Index(5), 2));
    assert_eq!(leave(&recovery), Some(Revision(8)));
    assert!(found.settled() && holders(&recovery) == ["a"], "nobody else has another end");
}

#[test]
fn with_leave_no_offset_that_is_trimmed_is_given_out_again() {
    let ends = |seal: SealOne| (seal.at.end.0, seal.kept().0, seal.at.chain.0, seal.holders.len());
    assert_eq!(ends(trimmed(90, 0, Some(5))), (5, 5, 5, 1), "below the segment");
    assert_eq!(ends(trimmed(103, 0, Some(5))), (5, 5, 5, 1), "within what is left");
    assert_eq!(ends(trimmed(105, 0, Some(5))), (5, 5, 5, 1), "to the end of what is left");
    assert_eq!(ends(trimmed(109, 0, Some(5))), (9, 5, 5, 1), "further: what is lost goes up to there");
    assert_eq!(ends(trimmed(109, 4, None)), (9, 4, 4, 0), "nobody is left, and some is archived");
    assert_eq!(ends(trimmed(109, 0, None)), (9, 0, 0, 0), "nothing at all is left");
    for found in [trimmed(109, 0, Some(5)), trimmed(109, 4, None)] {
        assert!(found.settled(), "nobody else has more of it: {found:?}");
        assert_eq!(found.allowed_loss.map(|loss| loss.trim), Some(trimmed_to(109)));
    }
}

#[test]
fn with_leave_whoever_is_left_and_silent_is_waited_for_all_the_same() {
    let mut recovery = allowed(0);
    recovery.handle_silent(ms(2), &node("a"));
    recovery.handle_timeout(ms(60_000));
    assert_eq!(recovery.outcome(), None, "unreachable is not dead");
    recovery.handle_nodes(ms(60_001), nodes(&[("a", 2), ("b", 2), ("c", 2)]));
    let found = seal(&recovery);
    assert_eq!(
        (found.at.end, found.holders.len(), found.moved.len()),
        (Index(0), 0, 3),
        "it was declared lost"
    );
}

#[test]
fn with_leave_nothing_archived_is_given_up() {
    let mut recovery = allowed(8);
    fenced(&mut recovery, 2, "a", 5);
    assert_eq!((seal(&recovery).at, seal(&recovery).archived), (end_at(8), Index(8)));
    assert_eq!(leave(&recovery), Some(Revision(8)));
}

#[test]
fn leave_is_not_used_while_enough_members_know_the_end() {
    let mut recovery = of_three();
    recovery.allow_loss(ms(1), Revision(8), trimmed_to(9));
    fenced(&mut recovery, 2, "a", 5);
    fenced(&mut recovery, 3, "b", 5);
    recovery.handle_timeout(ms(60));
    assert_eq!((seal(&recovery).at, leave(&recovery)), (end_at(5), None));
}

#[test]
fn a_source_that_is_reborn_in_the_middle_of_a_copy_is_no_source_any_more() {
    let mut recovery = of_three();
    fenced(&mut recovery, 1, "a", 5);
    fenced(&mut recovery, 1, "b", 9);
    recovery.handle_timeout(ms(30));
    recovery.handle_chain(ms(31), Index(5), Some(Chain(5)));
    copy(&mut recovery);
    recovery.handle_nodes(ms(32), nodes(&[("a", 1), ("b", 2), ("c", 1)]));
    assert_eq!(recovery.outcome(), None, "c is asked before anything is concluded");
    fenced(&mut recovery, 33, "c", 6);
    recovery.handle_chain(ms(34), Index(5), Some(Chain(5)));
    assert_eq!(copy(&mut recovery), ("c".to_owned(), "a".to_owned(), 5, 6));
}

#[test]
fn a_member_that_restarted_in_its_life_speaks_again() {
    // What it answers after its restart replaces what it answered before.
    let mut recovery = takeover(&["a", "b"], 0, &[("a", 1), ("b", 1)]);
    requests(&mut recovery);
    fenced(&mut recovery, 1, "a", 5);
    recovery.handle_silent(ms(2), &node("b"));
    recovery.handle_timeout(ms(200));
    fenced(&mut recovery, 201, "b", 5);
    assert_eq!(holders(&recovery), ["a", "b"]);
    assert!(seal(&recovery).moved.is_empty(), "a restart is no rebirth");
}

#[test]
fn a_target_that_is_reborn_in_the_middle_of_a_copy_holds_nothing() {
    let mut recovery = takeover(&["a", "b"], 0, &[("a", 1), ("b", 1)]);
    fenced(&mut recovery, 1, "a", 5);
    fenced(&mut recovery, 1, "b", 0);
    recovery.handle_chain(ms(2), Index(0), Some(Chain(0)));
    copy(&mut recovery);
    recovery.handle_nodes(ms(3), nodes(&[("a", 1), ("b", 2)]));
    recovery.handle_copied(ms(4), &node("b"), Index(5));
    assert_eq!(holders(&recovery), ["a"]);
    assert_eq!(seal(&recovery).moved, [(node("b"), Revision(12))]);
}

#[test]
fn the_end_is_never_below_what_is_archived() {
    let mut recovery = takeover(&["a", "b", "c"], 8, &[("a", 1), ("b", 1), ("c", 1)]);
    for (name, tail) in [("a", 5), ("b", 3), ("c", 0)] {
        fenced(&mut recovery, 1, name, tail);
    }
    let seal = seal(&recovery);
    assert_eq!((seal.at, seal.archived, seal.holders.len()), (end_at(8), Index(8), 0));
    assert!(seal.settled());
}

#[test]
fn a_copy_to_a_short_member_starts_at_what_is_archived() {
    let mut recovery = takeover(&["a", "b"], 8, &[("a", 1), ("b", 1)]);
    fenced(&mut recovery, 1, "a", 10);
    fenced(&mut recovery, 1, "b", 3);
    assert_eq!(copy(&mut recovery), ("a".to_owned(), "b".to_owned(), 8, 10));
}

#[test]
fn a_record_with_too_few_members_is_an_alarm() {
    let recovery = takeover(&["a"], 0, &[("a", 1)]);
    assert!(matches!(recovery.outcome(), Some(RecoveryOutcome::Alarm(_))));
}

#[test]
fn a_later_recovery_ends_an_earlier_one_in_the_middle_of_its_copy() {
    let mut recovery = takeover(&["a", "b"], 0, &[("a", 1), ("b", 1)]);
    fenced(&mut recovery, 1, "a", 5);
    fenced(&mut recovery, 1, "b", 0);
    recovery.handle_chain(ms(2), Index(0), Some(Chain(0)));
    copy(&mut recovery);
    recovery.handle_fenced(ms(3), &node("b"), Err(Refusal::Fenced { epoch: Epoch(5) }));
    recovery.handle_copied(ms(4), &node("b"), Index(5));
    assert_eq!(recovery.outcome(), Some(&RecoveryOutcome::Fenced(Epoch(5))), "it publishes nothing");
}

#[test]
fn a_recovery_that_starts_over_at_any_step_finds_the_same_end() {
    // What the one before had copied by then, from nothing to everything.
    for copied in [5, 7, 9] {
        let mut recovery = of_three();
        fenced(&mut recovery, 1, "a", copied);
        fenced(&mut recovery, 1, "b", 9);
        recovery.handle_timeout(ms(30));
        recovery.handle_chain(ms(31), Index(copied), Some(Chain(copied.into())));
        if copied < 9 {
            assert_eq!(copy(&mut recovery), ("b".to_owned(), "a".to_owned(), copied, 9));
            recovery.handle_copied(ms(32), &node("a"), Index(9));
        }
        assert_eq!((seal(&recovery).at, holders(&recovery).len()), (end_at(9), 2), "copied up to {copied}");
    }
}

#[test]
fn a_copy_that_stops_short_of_the_end_makes_no_holder() {
    let mut recovery = takeover(&["a", "b"], 0, &[("a", 1), ("b", 1)]);
    fenced(&mut recovery, 1, "a", 5);
    fenced(&mut recovery, 1, "b", 0);
    recovery.handle_chain(ms(2), Index(0), Some(Chain(0)));
    copy(&mut recovery);
    recovery.handle_copied(ms(3), &node("b"), Index(4));
    assert_eq!(recovery.outcome(), None, "b lacks the last entry");
    assert_eq!(copy(&mut recovery), ("a".to_owned(), "b".to_owned(), 0, 5));
    recovery.handle_copied(ms(4), &node("b"), Index(5));
    assert_eq!(holders(&recovery), ["a", "b"]);
}

#[test]
fn a_member_that_answers_from_an_earlier_life_has_not_forgotten_the_listed_one() {
    let mut recovery = takeover(&["a", "b"], 0, &[("a", 1), ("b", 1)]);
    fenced(&mut recovery, 1, "a", 5);
    let earlier = |current| Err(Refusal::WrongIncarnation { current: Incarnation(current) });
    for current in [0, 1] {
        recovery.handle_fenced(ms(2), &node("b"), earlier(current));
        assert_eq!(recovery.outcome(), None, "b may hold more than a");
        assert_eq!(recovery.silent(), [node("b")], "it is asked again");
    }
    recovery.handle_fenced(ms(3), &node("b"), earlier(2));
    let moved: Vec<_> = seal(&recovery).moved.iter().map(|(node, _)| node.as_str()).collect();
    assert_eq!(moved, ["b"]);
}
