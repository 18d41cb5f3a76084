//! The table of producers in the parts, whoever uploads them.

use super::*;
use crate::producers::for_writer;
use piculet_quorum::ids::Offset;
use piculet_quorum::meta::{Loss, Range};
use piculet_quorum::producers::{Producer, ProducerId, Producers};
use piculet_quorum::wire::message::ProducersFrom;
use piculet_storage::PartName;

/// Two members that upload when they are told to, and a log.
struct Site {
    fixture: Fixture,
    a: (Arc<Core>, Life),
    b: (Arc<Core>, Life),
    writer: Writer,
    /// What the entries so far say.
    table: Producers,
    /// Offset of the newest segment.
    base: u64,
}

impl Site {
    async fn new() -> Self {
        let fixture = Fixture::new();
        let (a, b) = (fixture.core("a").await, fixture.core("b").await);
        let writer = Writer::create(&fixture.meta, 1, &[(&*a.0, a.1), (&*b.0, b.1)]).await;
        Self { fixture, a, b, writer, table: Producers::default(), base: 0 }
    }

    /// Appends an entry for a producer, or for none, at both members. Returns the index behind it.
    async fn append(&mut self, producer: Option<(u64, u64)>) -> Index {
        let producer = producer.map(|(id, sequence)| Producer { id: ProducerId::new(id).unwrap(), sequence });
        let sessions = [
            (&*self.a.0, self.writer.open(&self.a.0).await),
            (&*self.b.0, self.writer.open(&self.b.0).await),
        ];
        let end = self.writer.append_for(producer, &sessions, 100);
        self.writer.commit(&sessions);
        if let Some(producer) = producer {
            self.table.fold(producer, Offset(self.base + end.0 - 1));
        }
        end
    }

    /// Uploads everything up to `end` as one part.
    async fn upload(&self, core: &Core, segment: u64, end: Index) -> bool {
        let number = SegmentNumber(segment);
        // What others did is known here.
        core.refresh_segment(self.writer.log, number).await.unwrap();
        let upload = {
            let slot = core.logs.get(self.writer.log).unwrap();
            let state = slot.lock();
            let local = &state.segments[&number];
            Upload::plan(core, local, local.row.archived(), end).expect("there is something to upload")
        };
        upload.run(core, self.writer.log, number).await.unwrap()
    }

    async fn roll(&mut self) {
        let members = [(&*self.a.0, self.a.1), (&*self.b.0, self.b.1)];
        let (archived, end) = (self.writer.archived().await.0, self.writer.end());
        self.writer.roll(&members, archived, &members).await;
        self.base += end.0;
    }

    /// The tables at the ends of a segment's parts.
    async fn tables(&self, segment: u64) -> Vec<Producers> {
        let (log, segment) = (self.writer.log, SegmentNumber(segment));
        let now = self.fixture.meta.read(&[], &[Range::Parts(log, segment)]).await.unwrap();
        let mut tables = Vec::new();
        for (first, part) in now.row(log, segment).unwrap().parts {
            let (end, chain) = (part.value.at.end, part.value.at.chain);
            let name = PartName {
                log,
                segment,
                first,
                end,
                chain,
                encoder: part.value.encoder,
                skip: part.value.skip,
            };
            tables.push(self.a.0.objects.get_producers(&name, part.value.bytes).await.unwrap());
        }
        tables
    }
}

async fn begin(site: &Site) -> ProducersFrom {
    for_writer(&site.b.0, site.writer.log).await.unwrap().expect("the log is there")
}

#[tokio::test]
async fn parts_end_with_the_same_table_whoever_uploads_them() {
    let mut site = Site::new().await;
    begin(&site).await;
    let mut expected = Vec::new();
    for (sequence, uploader) in [0, 0, 1, 1, 0].into_iter().enumerate() {
        site.append(Some((7, sequence as u64))).await;
        let end = site.append((sequence % 2 == 0).then_some((8 + sequence as u64, 1))).await;
        let (first, second) = if uploader == 0 { (&site.a.0, &site.b.0) } else { (&site.b.0, &site.a.0) };
        // The other one has planned the same part: it writes the same bytes, or it would be told.
        let late = {
            second.refresh_segment(site.writer.log, site.writer.number).await.unwrap();
            let slot = second.logs.get(site.writer.log).unwrap();
            let state = slot.lock();
            let local = &state.segments[&site.writer.number];
            Upload::plan(second, local, local.row.archived(), end).unwrap()
        };
        assert!(site.upload(first, 0, end).await);
        late.run(second, site.writer.log, site.writer.number).await.unwrap();
        expected.push(site.table.clone());
        assert_eq!(site.tables(0).await, expected);
    }
}

#[tokio::test]
async fn the_first_part_of_a_segment_waits_for_the_segment_before_if_the_log_has_producers() {
    for used in [false, true] {
        let mut site = Site::new().await;
        if used {
            begin(&site).await;
        }
        let end = site.append(used.then_some((7, 1))).await;
        let before = site.table.clone();
        site.roll().await;
        let next = site.append(used.then_some((8, 1))).await;
        assert_eq!(site.upload(&site.a.0, 1, next).await, !used);
        assert_eq!(site.tables(1).await.len(), usize::from(!used));
        assert!(site.upload(&site.b.0, 0, end).await);
        assert_eq!(site.tables(0).await, [before]);
        if used {
            // An empty segment in between has nothing to wait for, nor to say.
            assert!(site.upload(&site.a.0, 1, next).await);
            site.roll().await;
            site.roll().await;
            let last = site.append(None).await;
            assert!(site.upload(&site.b.0, 3, last).await);
            assert_eq!(site.tables(3).await, [site.table.clone()]);
        }
        assert_eq!(site.tables(1).await, [site.table.clone()]);
    }
}

#[tokio::test]
async fn a_recorded_loss_ends_the_wait_for_the_segment_before() {
    let mut site = Site::new().await;
    begin(&site).await;
    let kept = site.append(Some((7, 1))).await;
    assert!(site.upload(&site.a.0, 0, kept).await);
    let table = site.table.clone();
    let end = site.append(Some((8, 1))).await;
    site.roll().await;
    // What the segment before had of producer 8 is forgotten with it.
    site.table = table.clone();
    let next = site.append(Some((9, 1))).await;
    assert!(!site.upload(&site.a.0, 1, next).await, "the segment before may yet come to its end");

    let (log, key) = (site.writer.log, Key::Segment(site.writer.log, SegmentNumber(0)));
    let read = site.fixture.snapshot().await.segment(&key).unwrap();
    let mut lost = read.value.clone();
    let SegmentState::Sealed(seal) = &mut lost.state else { panic!("{:?}", lost.state) };
    seal.settled = false;
    lost.loss = Some(Loss { from: kept, acknowledged: false, beyond: false });
    let record = Txn::default().when(key.clone(), read.revision).put(key, Record::Segment(lost));
    applied(&site.fixture.meta, &record).await;
    assert_eq!(complete(&site.b.0, log, SegmentNumber(0)).await, Worked::Yes);
    assert_eq!(
        site.tables(0).await,
        [table.clone(), table],
        "up to {kept}, and what stands for it up to {end}"
    );
    assert!(site.upload(&site.a.0, 1, next).await);
    assert_eq!(site.tables(1).await, [site.table.clone()]);
}

#[tokio::test]
async fn a_writer_begins_with_the_table_of_the_newest_part() {
    let mut site = Site::new().await;
    let end = site.append(None).await;
    assert!(site.upload(&site.a.0, 0, end).await);
    assert_eq!(begin(&site).await, ProducersFrom { from: None, table: vec![] }, "there were none so far");
    let at = |site: &Site, segment, index| ProducersFrom {
        from: Some((SegmentNumber(segment), index)),
        table: site.table.encode(),
    };
    assert_eq!(begin(&site).await, at(&site, 0, end));
    let before = at(&site, 0, end);
    let end = site.append(Some((7, 1))).await;
    assert_eq!(begin(&site).await, before, "what is not archived is for the writer to read");
    assert!(site.upload(&site.a.0, 0, end).await);
    assert_eq!(begin(&site).await, at(&site, 0, end));
    site.roll().await;
    site.roll().await;
    assert_eq!(begin(&site).await, at(&site, 0, end), "empty segments have no part");
    assert!(for_writer(&site.a.0, LogId(99)).await.unwrap().is_none(), "there is no such log");
    site.writer.delete(piculet_quorum::ids::Timestamp(1)).await;
    assert!(for_writer(&site.a.0, site.writer.log).await.unwrap().is_none(), "it was deleted");
}

#[tokio::test]
async fn a_log_that_has_no_part_yet_is_read_from_its_beginning() {
    let mut site = Site::new().await;
    begin(&site).await;
    site.append(Some((7, 1))).await;
    let start = ProducersFrom { from: Some((SegmentNumber(0), Index(0))), table: vec![] };
    assert_eq!(begin(&site).await, start);
}
