//! What the loss of a member makes urgent.

use super::*;

/// Two members of a log's segment with one small entry, committed at the first: it is not due for long.
struct Site {
    fixture: Fixture,
    core: Arc<Core>,
    other: Arc<Core>,
    members: [Life; 2],
    writer: Writer,
    running: Running,
}

impl Site {
    async fn new() -> (Self, piculet_meta::Lease) {
        let fixture = Fixture::new();
        let (other, other_life) = fixture.core("b").await;
        let lease = fixture.register(&other).await;
        let (core, life, running) = started(&fixture, "a").await;
        let mut writer = Writer::create(&fixture.meta, 1, &[(&*core, life), (&*other, other_life)]).await;
        let session = [(&*core, writer.open(&core).await)];
        writer.append(&session, 10);
        writer.commit(&session);
        let site = Self { fixture, core, other, members: [life, other_life], writer, running };
        assert_eq!(site.lost().await, Vec::<NodeId>::new());
        assert_eq!(site.writer.archived().await.0, Index(0), "it waits for company");
        (site, lease)
    }

    /// Who is lost, as the node sees it once it has seen everything.
    async fn lost(&self) -> Vec<NodeId> {
        let at = self.fixture.snapshot().await.at;
        eventually("everything is seen", || self.core.applied() >= at).await;
        let slot = self.core.logs.get(self.writer.log).expect("it is held");
        let state = slot.lock();
        let record = &state.segments[&self.writer.number].record.value;
        let lives = self.core.lives.lock();
        lives.lost(self.core.clock.now(), &self.core.id, record).cloned().collect()
    }

    async fn archived(self) {
        self.writer.until_archived().await;
        empty(&self.core).await;
        self.writer.check_objects(&self.core.objects).await;
        self.running.stop().await;
    }
}

#[tokio::test]
async fn what_a_reborn_member_held_too_is_archived_at_once() {
    let (site, _registered) = Site::new().await;
    site.fixture.displace(&site.other).await;
    site.archived().await;
}

#[tokio::test]
async fn what_a_member_that_has_gone_holds_too_is_archived_at_once() {
    let (site, registered) = Site::new().await;
    site.fixture.meta.expire(registered.id());
    eventually("it is lost", || {
        let record = &site.core.member(Level::Memory);
        let other = piculet_quorum::meta::Member { node: site.other.id.clone(), ..record.clone() };
        site.core.lives.lock().is_lost(site.core.clock.now(), Level::Memory, &other)
    })
    .await;
    site.archived().await;
}

#[tokio::test]
async fn the_role_of_a_lost_uploader_keeps_nobody_waiting() {
    let (site, registered) = Site::new().await;
    let flush = Key::Flush(site.writer.log, site.writer.number);
    let mut stand = Txn::default().when(flush.clone(), Revision(0));
    let record = FlushRecord { uploader: site.other.member(Level::Memory) };
    stand.writes.push(Write::PutLeased(flush.clone(), Record::Flush(record), registered.id()));
    applied(&site.fixture.meta, &stand).await;
    site.writer.seal(&[(&*site.core, site.members[0]), (&*site.other, site.members[1])], Index(0)).await;
    site.fixture.displace(&site.other).await;
    site.archived().await;
    drop(registered);
}
