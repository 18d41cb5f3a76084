//! A writer of level `object`: its segments have no members, and it archives its entries itself.

use super::*;
use crate::limits::SEGMENT_PARTS;

fn object(options: WriterOptions) -> Bench {
    let mut bench = bench_with(&[], &["a", "b", "c"], options);
    let mut segment = bench.writer.segments[0].record.clone().expect("it exists");
    segment.value.level = Level::Object;
    let record = Versioned { revision: Revision(5), value: log_record() };
    bench.writer = Writer::new(bench.now, options, LOG, record, ZERO, segment);
    bench
}

fn archive(bench: &mut Bench, number: SegmentNumber, to: u64) {
    bench.writer.handle_archived(bench.now, number, Index(to));
    bench.settle();
}

fn waiting(bench: &Bench) -> Option<(u64, u64, u64)> {
    let waiting = bench.writer.waiting(u64::MAX)?;
    Some((waiting.segment.0, waiting.from.0, waiting.to.0))
}

#[test]
fn what_is_archived_is_what_is_committed() {
    let mut bench = object(WriterOptions::default());
    assert_eq!(waiting(&bench), None);
    bench.appends(3);
    assert_eq!((waiting(&bench), bench.writer.committed()), (Some((0, 0, 3)), Offset(0)));
    let part = bench.writer.waiting(BYTES + 1).expect("it waits");
    assert_eq!((part.to, part.end), (Index(2), chain(2)), "whole batches, to the one that reaches the bound");
    bench.appends(1);
    archive(&mut bench, ZERO, 2);
    assert_eq!((waiting(&bench), bench.writer.committed()), (Some((0, 2, 4)), Offset(2)));
    assert_eq!(bench.writer.retained(), 2 * BYTES, "what is archived is released");
    archive(&mut bench, ZERO, 4);
    assert_eq!((waiting(&bench), bench.writer.committed(), bench.writer.retained()), (None, Offset(4), 0));
}

#[test]
fn no_node_is_asked_for_nor_waited_for() {
    let mut bench = object(WriterOptions::default());
    for peer in bench.peers.values_mut() {
        (peer.up, peer.mode) = (false, Mode::Silent);
    }
    bench.appends(1);
    bench.pass(Span::secs(20));
    assert_eq!((bench.asked.len(), bench.writer.wanted().len()), (0, 0), "{:?}", bench.asked);
    let (opened, got) =
        (bench.writer.members(), bench.peers.values().map(|peer| peer.got.len()).sum::<usize>());
    assert_eq!((opened, got), (vec![], 0));
    assert_eq!(waiting(&bench), Some((0, 0, 1)), "it waits for as long as it takes");
}

#[test]
fn a_roll_waits_for_the_archive_and_creates_a_segment_without_members() {
    let mut bench = object(WriterOptions { segment_bytes: 3 * BYTES, ..WriterOptions::default() });
    bench.appends(5);
    assert_eq!((bench.proposals().len(), waiting(&bench)), (0, Some((0, 0, 3))), "it is frozen and drains");
    archive(&mut bench, ZERO, 2);
    assert_eq!(bench.proposals().len(), 0);
    archive(&mut bench, ZERO, 3);
    let proposal = bench.proposals().pop().expect("it rolls");
    assert_eq!(proposal.check(&Default::default()), Ok(()));
    let (_, created) = proposal.records();
    let created = created.expect("it creates").1;
    assert_eq!((created.level, created.ensemble.len(), created.base), (Level::Object, 0, Offset(3)));
    assert_eq!(waiting(&bench), Some((1, 0, 2)), "what was queued comes next");
    archive(&mut bench, ONE, 2);
    assert_eq!(bench.writer.committed(), Offset(5));
}

#[test]
fn a_segment_of_many_small_parts_is_followed_by_the_next() {
    let mut bench = object(WriterOptions::default());
    let parts = u64::from(SEGMENT_PARTS);
    for part in 1..parts {
        bench.appends(1);
        archive(&mut bench, ZERO, part);
        // A mark that says nothing new is no part.
        archive(&mut bench, ZERO, part);
    }
    bench.appends(2);
    assert_eq!(bench.asked, []);
    archive(&mut bench, ZERO, parts);
    assert_eq!(bench.asked, [MetaRequest::Nodes], "it waits for what was given out meanwhile");
    archive(&mut bench, ZERO, parts + 1);
    let proposal = bench.proposals().pop().expect("it rolls");
    assert_eq!((proposal.check(&Default::default()), bench.opened()), (Ok(()), vec![(1, 0)]));
    bench.appends(1);
    archive(&mut bench, ONE, 1);
    assert_eq!((bench.writer.committed(), bench.proposals().len()), (Offset(parts + 2), 1), "it counts anew");
}

#[test]
fn it_parks_and_goes_on_with_the_next_append() {
    let mut bench = object(WriterOptions::default());
    bench.appends(2);
    bench.pass(Span::secs(100));
    assert!(!bench.writer.parked(), "not before it is archived");
    archive(&mut bench, ZERO, 2);
    bench.pass(Span::secs(60));
    assert!(bench.writer.parked());
    bench.appends(1);
    let proposal = bench.proposals().pop().expect("it creates");
    assert_eq!((proposal.seal.is_none(), proposal.check(&Default::default())), (true, Ok(())));
    assert_eq!(waiting(&bench), Some((1, 0, 1)));
    archive(&mut bench, ONE, 1);
    assert_eq!(bench.writer.committed(), Offset(3));
}

#[test]
fn it_does_not_park_before_an_application_that_waited_for_a_slow_upload_could_append_again() {
    let idle = WriterOptions::default().idle_after;
    for by_view in [false, true] {
        let mut bench = object(WriterOptions::default());
        bench.appends(1);
        bench.pass(Span(3 * idle.0));
        bench.hold = by_view;
        if by_view {
            // The answer to what recorded the part was lost: the metadata show it.
            bench.writer.look();
            bench.settle();
            let mut view = bench.view(None);
            view.segments.get_mut(&ZERO).expect("the oldest").archived.end = Index(1);
            bench.answer(MetaReply::View(Box::new(view)));
            bench.hold = false;
        } else {
            archive(&mut bench, ZERO, 1);
        }
        assert_eq!((bench.writer.committed(), bench.proposals().len()), (Offset(1), 0));
        bench.pass(Span(idle.0 - 1));
        assert_eq!(bench.proposals().len(), 0, "it has all the time that it has after an append");
        bench.pass(Span(1));
        let park = bench.proposals().pop().expect("it parks");
        assert!(park.create.is_none() && bench.writer.parked());
    }
}

#[test]
fn it_closes_once_everything_is_archived() {
    let mut bench = object(WriterOptions::default());
    bench.appends(2);
    bench.writer.close(bench.now);
    bench.settle();
    assert_eq!((bench.proposals().len(), waiting(&bench)), (0, Some((0, 0, 2))));
    archive(&mut bench, ZERO, 2);
    let seal = bench.proposals().pop().expect("it seals");
    assert_eq!((seal.create, bench.events.last()), (None, Some(&WriterEvent::Closed)));
}

#[test]
fn a_part_that_is_refused_has_the_metadata_asked_whose_the_log_is() {
    let mut bench = object(WriterOptions::default());
    bench.appends(2);
    bench.hold = true;
    bench.writer.look();
    bench.settle();
    assert_eq!(bench.asked, [MetaRequest::View(ZERO)]);
    let mut view = bench.view(None);
    view.segments.get_mut(&ZERO).expect("the oldest").archived.end = Index(1);
    bench.answer(MetaReply::View(Box::new(view)));
    assert_eq!((bench.writer.committed(), waiting(&bench)), (Offset(1), Some((0, 1, 2))), "it is mine");
    bench.writer.look();
    bench.settle();
    let mut view = bench.view(None);
    (view.record.value.epoch, view.record.value.writer) = (Epoch(4), Nonce(9));
    bench.answer(MetaReply::View(Box::new(view)));
    assert_eq!(bench.events.last(), Some(&WriterEvent::Fenced(Epoch(4))));
    assert_eq!(waiting(&bench), None);
    let unresolved: Vec<_> = bench.writer.unresolved().map(|left| (left.from, left.to)).collect();
    assert_eq!(unresolved, [(Index(1), Index(2))]);
}
