use super::*;
use crate::core::Core;
use crate::fixture::{Fixture, Lossy, Lost, Writer, applied as carried_out};
use crate::membership::Life;
use crate::server::control;
use piculet_quorum::ids::{Chain, Index, Level, Nonce, Timestamp};
use piculet_quorum::meta::configure::ConfigureLog;
use piculet_quorum::meta::declare::DeclareLost;
use piculet_quorum::meta::loss::RecordLoss;
use piculet_quorum::meta::seal::{CreateOne, SealSegment};
use piculet_quorum::meta::{Record, SegmentEnd, SegmentRecord, Txn, TxnOutcome, Versioned};
use piculet_quorum::replica::Session;
use piculet_quorum::wire::message::Request;
use tokio::runtime::Handle;

struct Site {
    fixture: Fixture,
    /// What the node that is asked has for a store.
    meta: Lossy,
    shared: Shared,
    members: [(Arc<Core>, Life); 2],
    writer: Writer,
    sessions: [Session; 2],
}

impl Site {
    /// A log of two members, the first of which is asked.
    async fn new() -> Self {
        let fixture = Fixture::new();
        let meta = Lossy { inner: fixture.meta.clone(), ..Lossy::default() };
        let a = fixture.core_with(fixture.config("a"), Arc::new(meta.clone())).await;
        let b = fixture.core("b").await;
        let writer = Writer::create(&fixture.meta, 1, &[(&*a.0, a.1), (&*b.0, b.1)]).await;
        let sessions = [writer.open(&a.0).await, writer.open(&b.0).await];
        let (core, peers) = (Arc::clone(&a.0), fixture.peers(&a.0));
        let shared = Shared { core, peers, background: Handle::current(), full: Arc::default() };
        Self { fixture, meta, shared, members: [a, b], writer, sessions }
    }

    fn append(&mut self, len: usize) -> Index {
        let [a, b] = &self.members;
        self.writer.append(&[(&*a.0, self.sessions[0]), (&*b.0, self.sessions[1])], len)
    }

    async fn propose(&self, proposal: Proposal) -> Result<Response, Refusal> {
        propose(&self.shared, &proposal).await
    }

    /// What a writer would propose that seals at `at`.
    async fn seal(&self, at: SegmentEnd, archived: Index) -> SealSegment {
        let (log, segment) = (self.writer.log, self.writer.number);
        let now = self.fixture.snapshot().await;
        let holders = self.members.iter().map(|(core, life)| (core.id.clone(), life.revision)).collect();
        let seal = SealOne {
            segment,
            read: now.segment(&Key::Segment(log, segment)).unwrap(),
            at,
            holders,
            moved: vec![],
            archived,
            recovery: false,
            allowed_loss: None,
        };
        SealSegment { log, read: now.log(&Key::Log(log)).unwrap(), seal: Some(seal), create: None }
    }

    /// The end of the segment, as this node has it.
    fn end(&self) -> SegmentEnd {
        let slot = self.shared.core.logs.get(self.writer.log).unwrap();
        let state = slot.lock();
        let buffer = &state.segments[&self.writer.number].buffer;
        let end = buffer.end();
        SegmentEnd { end: buffer.tail(), chain: end.chain, last_timestamp: end.last_timestamp }
    }

    /// Has the segment sealed with the other node as its only holder, which is then reborn. Returns
    /// what would be proposed of the two entries that this node lacks.
    async fn loss(&mut self) -> RecordLoss {
        let (b, life) = &self.members[1];
        for _ in 0..2 {
            self.writer.append(&[(&**b, self.sessions[1])], 10);
        }
        self.writer.take_over().await;
        self.writer.seal_as_takeover(&[(&**b, *life)]).await;
        self.fixture.displace(b).await;
        let (log, segment) = (self.writer.log, self.writer.number);
        let now = self.fixture.snapshot().await;
        let revision = |node: &Arc<Core>| {
            now.incarnation(&Key::Incarnation(node.id.clone(), Level::Memory)).unwrap().revision
        };
        let record = now.segment(&Key::Segment(log, segment)).unwrap();
        let member = record.value.ensemble[0].clone();
        let mut loss = RecordLoss {
            log,
            read: now.log(&Key::Log(log)).unwrap(),
            segment,
            record,
            archived: Index(0),
            moved: vec![(b.id.clone(), revision(b))],
            answers: vec![],
            allowed: None,
        };
        let at = loss.fence(&member);
        let fenced = match control::answer(&self.shared, Request::Fence(at)).await {
            Ok(Response::Fenced(fenced)) => fenced,
            other => panic!("{other:?}"),
        };
        loss.handle_fenced(&member, revision(&self.members[0].0), &at, &fenced).unwrap();
        loss
    }

    /// Proposes what must be refused for good, and looks that nothing is committed for it.
    async fn refuses(&self, what: &str, proposal: Proposal) {
        // A commit, should there be one, would be of unknown outcome.
        self.meta.lose([Some(Lost::Request)]);
        let outcome = self.propose(proposal).await;
        assert!(matches!(outcome, Err(Refusal::Invalid(_))), "{what}: {outcome:?}");
        assert_eq!(self.meta.plan.lock().drain(..).count(), 1, "{what}: it was committed");
    }

    async fn trim(&self, to: u64) -> Result<Response, Refusal> {
        let key = Key::Trim(self.writer.log);
        let read = self.fixture.snapshot().await.trim(&key).unwrap();
        self.propose(Proposal::Trim(TrimLog { log: self.writer.log, read, to: Offset(to) })).await
    }
}

fn applied(result: &Result<Response, Refusal>) -> bool {
    matches!(result, Ok(Response::Outcome(TxnOutcome::Applied(_))))
}

#[tokio::test]
async fn a_seal_with_another_chain_than_this_nodes_is_an_alarm() {
    let mut site = Site::new().await;
    site.append(10);
    let end = site.end();
    let wrong = SegmentEnd { chain: Chain(end.chain.0 ^ 1), ..end };
    let seal = site.seal(wrong, Index(0)).await;
    let refused = site.propose(Proposal::Seal(Box::new(seal))).await.unwrap_err();
    assert_eq!(refused, Refusal::Conflict { index: end.end });
    let seal = site.seal(end, Index(0)).await;
    let sealed = site.propose(Proposal::Seal(Box::new(seal))).await;
    assert!(applied(&sealed), "{sealed:?}");
}

#[tokio::test]
async fn a_seal_beyond_what_this_node_holds_is_none_of_its_business() {
    let mut site = Site::new().await;
    site.append(10);
    let end = SegmentEnd { end: Index(7), chain: Chain(1), last_timestamp: Timestamp(9) };
    let seal = site.seal(end, Index(0)).await;
    let sealed = site.propose(Proposal::Seal(Box::new(seal))).await;
    assert!(applied(&sealed), "the others hold it: {sealed:?}");
}

#[tokio::test]
async fn a_seal_that_claims_more_to_be_archived_than_is_is_refused() {
    let mut site = Site::new().await;
    let end = site.append(10);
    let seal = site.seal(site.end(), end).await;
    let refused = site.propose(Proposal::Seal(Box::new(seal))).await.unwrap_err();
    assert!(refused.to_string().contains("is archived up to 0, not 1"), "{refused}");
}

#[tokio::test]
async fn a_log_is_trimmed_as_far_as_it_can_be_read() {
    let mut site = Site::new().await;
    for _ in 0..3 {
        site.append(10);
    }
    // Committed up to here, as this node has heard; the rest it must ask for, and nobody answers.
    site.writer.commit(&[(&*site.shared.core, site.sessions[0])]);
    site.append(10);
    let trimmed = site.trim(3).await;
    assert!(applied(&trimmed), "{trimmed:?}");
    let again = site.trim(3).await.unwrap_err();
    assert!(again.to_string().contains("is trimmed up to 3"), "{again}");

    let [a, b] = &site.members;
    let members = [(&*a.0, a.1), (&*b.0, b.1)];
    site.writer.seal(&members, Index(0)).await;
    let sealed = site.trim(4).await;
    assert!(applied(&sealed), "the end is settled: {sealed:?}");
}

#[tokio::test]
async fn what_may_be_beyond_the_tail_is_asked_for_and_not_taken_for_granted() {
    let site = Site::new().await;
    let refused = site.trim(1).await.unwrap_err();
    assert!(matches!(refused, Refusal::Unavailable(_)), "{refused}");
    assert!(refused.to_string().contains("the tail of log log-1"), "{refused}");
}

#[tokio::test]
async fn nothing_is_made_of_a_tombstone() {
    let site = Site::new().await;
    let seal = site.seal(site.end(), Index(0)).await;
    site.writer.delete(Timestamp(5)).await;
    let (log, read) =
        (site.writer.log, site.fixture.snapshot().await.log(&Key::Log(site.writer.log)).unwrap());
    let holder = "me".to_owned();
    let takeover = TakeOver { log, read: read.clone(), writer: Nonce(3), holder: Some(holder.clone()) };
    let delete = DeleteLog { log, read: read.clone(), writer: Nonce(3), at: Timestamp(6) };
    let [(core, life), (other, other_life)] = &site.members;
    let ensemble =
        vec![(core.member(Level::Memory), life.revision), (other.member(Level::Memory), other_life.revision)];
    let create = CreateOne { level: Level::Memory, ensemble, holder: Some(holder) };
    let create = SealSegment { log, read, seal: None, create: Some(create) };
    for proposal in [Proposal::TakeOver(takeover), Proposal::Delete(delete), Proposal::Seal(Box::new(create))]
    {
        assert_eq!(site.propose(proposal).await, Err(Refusal::Deleted));
    }
    assert_eq!(site.trim(1).await, Err(Refusal::Deleted));
    // One that quotes the log as it was is refused by its own compares, as ever.
    let late = site.propose(Proposal::Seal(Box::new(seal))).await;
    assert_eq!(late, Ok(Response::Outcome(TxnOutcome::Refused)));
}

#[tokio::test]
async fn nothing_is_committed_that_quotes_another_revision_than_the_current_one() {
    let site = Site::new().await;
    let honest = site.seal(site.end(), Index(0)).await;
    let now = site.fixture.snapshot().await;
    let (log, read) = (site.writer.log, honest.read.clone());
    // The next honest transaction may make the revision that is quoted with a made-up record.
    let mut made_up = read.clone();
    (made_up.revision, made_up.value.next_base) = (read.revision.plus(1), Offset(1000));
    let takeover = TakeOver { log, read: made_up.clone(), writer: Nonce(3), holder: Some("me".to_owned()) };
    let delete = DeleteLog { log, read: made_up.clone(), writer: Nonce(3), at: wall_clock() };
    let of_the_log = SealSegment { read: made_up, ..honest.clone() };
    let mut of_the_segment = honest.clone();
    let segment = &mut of_the_segment.seal.as_mut().unwrap().read;
    (segment.revision, segment.value.base) = (segment.revision.plus(1), Offset(1000));
    let mut of_a_node = honest;
    let holder = &mut of_a_node.seal.as_mut().unwrap().holders[0];
    holder.1 = holder.1.plus(1);
    let mut trim = now.trim(&Key::Trim(log)).unwrap();
    trim.revision = trim.revision.plus(1);
    let trim = TrimLog { log, read: trim, to: Offset(1) };
    for proposal in [
        Proposal::TakeOver(takeover),
        Proposal::Delete(delete),
        Proposal::Seal(Box::new(of_the_log)),
        Proposal::Seal(Box::new(of_the_segment)),
        Proposal::Seal(Box::new(of_a_node)),
        Proposal::Trim(trim),
    ] {
        // A commit, should there be one, would be of unknown outcome.
        site.meta.lose([Some(Lost::Request)]);
        let outcome = site.propose(proposal.clone()).await;
        assert_eq!(outcome, Ok(Response::Outcome(TxnOutcome::Refused)), "{proposal:?}");
        assert_eq!(site.meta.plan.lock().drain(..).count(), 1, "it was committed: {proposal:?}");
    }
}

#[tokio::test]
async fn no_record_is_made_of_one_that_does_not_exist() {
    let site = Site::new().await;
    let mut read = site.fixture.snapshot().await.log(&Key::Log(site.writer.log)).unwrap();
    read.revision = piculet_quorum::ids::Revision(0);
    let takeover = TakeOver { log: LogId(99), read, writer: Nonce(3), holder: Some("me".to_owned()) };
    let refused = site.propose(Proposal::TakeOver(takeover)).await.unwrap_err();
    assert!(refused.to_string().contains("not sound"), "{refused}");
}

#[tokio::test]
async fn a_segment_beyond_the_last_offset_is_damage_and_no_end_of_the_node() {
    let site = Site::new().await;
    let key = Key::Segment(site.writer.log, site.writer.number);
    let read = site.fixture.snapshot().await.segment(&key).unwrap();
    let at = SegmentEnd { end: Index(20), chain: Chain(0), last_timestamp: Timestamp(0) };
    let state = SegmentState::Archived(at);
    let record = SegmentRecord { base: Offset(u64::MAX - 10), state, ..read.value };
    let txn = Txn::default().when(key.clone(), read.revision).put(key, Record::Segment(record));
    carried_out(&site.fixture.meta, &txn).await;
    let refused = site.trim(1).await.unwrap_err();
    assert!(refused.to_string().contains("metadata are damaged"), "{refused}");
}

#[tokio::test]
async fn a_log_is_deleted_at_the_time_that_it_is() {
    let site = Site::new().await;
    let (log, now) = (site.writer.log, wall_clock());
    let read = site.fixture.snapshot().await.log(&Key::Log(log)).unwrap();
    let delete = |at| Proposal::Delete(DeleteLog { log, read: read.clone(), writer: Nonce(3), at });
    for at in [Timestamp(0), Timestamp(now.0 - 7_200_000), Timestamp(now.0 + 7_200_000), Timestamp(u64::MAX)]
    {
        let refused = site.propose(delete(at)).await;
        let Err(Refusal::Invalid(why)) = refused else { panic!("deleted at {at}: {refused:?}") };
        assert!(why.contains(&at.to_string()), "{why}");
    }
    let deleted = site.propose(delete(Timestamp(now.0 - 60_000))).await;
    assert!(applied(&deleted), "{deleted:?}");
}

#[tokio::test]
async fn a_segment_behind_an_end_that_is_not_settled_cannot_be_read_yet() {
    let mut site = Site::new().await;
    for _ in 0..3 {
        site.append(10);
    }
    let [a, b] = &site.members;
    let members = [(&*a.0, a.1), (&*b.0, b.1)];
    site.writer.roll(&members[..1], Index(0), &members).await;
    let refused = site.trim(2).await.unwrap_err();
    assert!(matches!(refused, Refusal::Unavailable(_)), "{refused}");
}

#[tokio::test]
async fn a_search_ends_with_whoever_waits_for_it_and_only_a_few_run() {
    let (slots, here) = (Semaphore::new(1), Handle::current());
    let (held, ended) = tokio::sync::oneshot::channel::<()>();
    let mut search = Box::pin(owned(&here, &slots, async move {
        std::future::pending::<()>().await;
        drop(held);
    }));
    assert!(futures::poll!(&mut search).is_pending());
    let busy = owned(&here, &slots, async {}).await.unwrap_err();
    assert!(busy.contains("too many"), "{busy}");
    drop(search);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), ended).await;
    assert!(matches!(ended, Ok(Err(_))), "it runs on: {ended:?}");
    assert_eq!(owned(&here, &slots, async { 3 }).await, Ok(3));
}

#[tokio::test]
async fn nothing_is_committed_that_quotes_other_records_than_there_are_at_their_revisions() {
    let mut site = Site::new().await;
    for _ in 0..3 {
        site.append(10);
    }
    site.writer.commit(&[(&*site.shared.core, site.sessions[0])]);
    assert!(applied(&site.trim(2).await));
    let honest = site.seal(site.end(), Index(0)).await;
    let (log, now) = (site.writer.log, site.fixture.snapshot().await);
    let mut read = honest.read.clone();
    read.value.next_base = Offset(1000);
    let takeover = TakeOver { log, read: read.clone(), writer: Nonce(3), holder: Some("me".to_owned()) };
    site.refuses("a takeover", Proposal::TakeOver(takeover)).await;
    let delete = DeleteLog { log, read: read.clone(), writer: Nonce(3), at: wall_clock() };
    site.refuses("a deletion", Proposal::Delete(delete)).await;
    let of_the_log = SealSegment { read, ..honest.clone() };
    site.refuses("a seal, of the log", Proposal::Seal(Box::new(of_the_log))).await;
    let mut of_the_segment = honest.clone();
    of_the_segment.seal.as_mut().unwrap().read.value.base = Offset(1000);
    site.refuses("a seal, of the segment", Proposal::Seal(Box::new(of_the_segment))).await;
    let mut of_members = honest;
    of_members.seal.as_mut().unwrap().read.value.ensemble.reverse();
    site.refuses("a seal, of its members", Proposal::Seal(Box::new(of_members))).await;
    let mut read = now.trim(&Key::Trim(log)).unwrap();
    read.value.trim_offset = Offset(0);
    site.refuses("a trim back", Proposal::Trim(TrimLog { log, read, to: Offset(1) })).await;
    let mut read = now.config(&Key::Config(log)).unwrap();
    read.value.durability = Level::Disk;
    let config = read.value.clone();
    site.refuses("other settings", Proposal::Configure(ConfigureLog { log, read, config })).await;
    let node = site.shared.core.id.clone();
    let life = now.incarnation(&Key::Incarnation(node.clone(), Level::Memory)).unwrap();
    let read = Versioned { revision: life.revision, value: life.value.incarnation.plus(5) };
    let declare = DeclareLost { node, level: Level::Memory, read, nonce: Nonce(3), force: true };
    site.refuses("a life", Proposal::DeclareLost(declare)).await;

    let honest = site.loss().await;
    let mut of_the_log = honest.clone();
    of_the_log.read.value.epoch = of_the_log.read.value.epoch.plus(5);
    site.refuses("a loss, of the log", Proposal::RecordLoss(Box::new(of_the_log))).await;
    let mut of_the_segment = honest.clone();
    of_the_segment.record.value.base = Offset(1000);
    site.refuses("a loss, of the segment", Proposal::RecordLoss(Box::new(of_the_segment))).await;
    let recorded = site.propose(Proposal::RecordLoss(Box::new(honest))).await;
    assert!(applied(&recorded), "{recorded:?}");
}

#[tokio::test]
async fn no_loss_is_recorded_of_a_tombstone() {
    let mut site = Site::new().await;
    let mut loss = site.loss().await;
    site.writer.delete(Timestamp(5)).await;
    loss.read = site.fixture.snapshot().await.log(&Key::Log(site.writer.log)).unwrap();
    assert_eq!(site.propose(Proposal::RecordLoss(Box::new(loss))).await, Err(Refusal::Deleted));
}

#[tokio::test]
async fn a_loss_that_claims_more_to_be_archived_than_is_is_refused() {
    let mut site = Site::new().await;
    let mut loss = site.loss().await;
    loss.archived = Index(1);
    let refused = site.propose(Proposal::RecordLoss(Box::new(loss.clone()))).await.unwrap_err();
    assert!(refused.to_string().contains("is archived up to 0, not 1"), "{refused}");
    loss.archived = Index(0);
    let recorded = site.propose(Proposal::RecordLoss(Box::new(loss))).await;
    assert!(applied(&recorded), "{recorded:?}");
}
