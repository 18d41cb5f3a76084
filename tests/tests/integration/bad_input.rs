//! Bytes that no client of ours sends. Each gets an error; the node serves on, and what was
//! acknowledged stays as it is.

use piculet_client::transport::{Connection, Endpoint, FrameReader, TransportOptions, request};
use piculet_client::{Client, LogDescription};
use piculet_quorum::batch::{BATCH_HEADER_BYTES, BatchBuilder, BatchEnd, BatchHeader, Place};
use piculet_quorum::entry::{ENTRY_HEADER_BYTES, EntryHeader};
use piculet_quorum::ids::{Chain, Index, LogName, Nonce, Timestamp};
use piculet_quorum::limits::{BATCH_BYTES_MAX, ENTRY_BYTES_MAX, MESSAGE_BYTES_MAX};
use piculet_quorum::wire::codec;
use piculet_quorum::wire::frame::{self, APPEND_HEAD_BYTES, Kind, append_head};
use piculet_quorum::wire::message::{Address, Hello, Open, Refusal, Refused, Request, Response};
use piculet_tests::{Appender, PATIENCE, Setup, Stage, bounded, payload, read_all, with_stage};
use std::time::Duration;

/// A connection of a client that may connect, but says what it likes.
async fn connect(stage: &Stage, at: usize) -> (Endpoint, Connection) {
    let endpoint = Endpoint::client(&stage.identity(), &TransportOptions::default()).expect("an endpoint");
    let address = stage.cluster.nodes()[at].addr().to_string();
    let connection = endpoint.connect(&address).await.expect("the certificate is good");
    (endpoint, connection)
}

/// Says this on a stream of its own, and returns what comes back until the stream ends.
async fn say(connection: &Connection, bytes: &[u8]) -> Vec<(Kind, bytes::Bytes)> {
    let (mut send, receive) = connection.open_bi().await.expect("a stream");
    // The node may have heard enough before the end.
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    let mut frames = FrameReader::new(receive);
    let mut heard = Vec::new();
    while let Ok(Some(frame)) = bounded("the node ends the stream", frames.next()).await {
        heard.push(frame);
    }
    heard
}

async fn refusal(connection: &Connection, what: &str, bytes: &[u8]) -> Refusal {
    let heard = say(connection, bytes).await;
    match &heard[..] {
        [(Kind::Response, body)] => match codec::decode(body) {
            Ok(Response::Refused(refusal)) => refusal,
            other => panic!("{what}: {other:?}"),
        },
        _ => panic!("{what}: {heard:?}"),
    }
}

fn raw_prefix(kind: u8, len: u32) -> Vec<u8> {
    [&[kind, 0, 0, 0][..], &len.to_le_bytes()].concat()
}

/// The node serves on: a fresh question is answered.
async fn serves(connection: &Connection) {
    let answer = request(connection, &Request::Status, PATIENCE).await.expect("the node answers");
    assert!(matches!(answer, Response::Status(_)), "{answer:?}");
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_the_node_serves_on() {
    with_stage(Setup::default(), async |stage| {
        let (client, name) = stage.client_and_log().await;
        let mut appender = Appender::new(client.take_over(&name).await.expect("it is taken over"));
        appender.pump_more(100).await;
        let pids: Vec<u32> = (0..3).map(|at| stage.pid(at)).collect();
        let (_endpoint, connection) = connect(stage, 0).await;
        let garbage = payload(9, 9, 5000);
        let request = |body: &[u8]| [&raw_prefix(Kind::Request as u8, body.len() as u32), body].concat();
        for (what, bytes) in [
            ("garbage", garbage.to_vec()),
            ("ones", vec![0xff; 300]),
            ("a kind that there is not", raw_prefix(99, 0)),
            ("an endless message", raw_prefix(Kind::Request as u8, u32::MAX)),
            (
                "a message that is a little too long",
                raw_prefix(Kind::Request as u8, MESSAGE_BYTES_MAX as u32 + 1),
            ),
            ("an append that is too long", raw_prefix(Kind::Append as u8, (BATCH_BYTES_MAX + 33) as u32)),
            ("half a prefix", vec![1, 0, 0]),
            ("half a message", [raw_prefix(Kind::Request as u8, 100), vec![7; 50]].concat()),
            ("a message that is none", request(&garbage[..200])),
            ("an empty message", request(&[])),
            ("a list of eternal length", request(&[[3, 1, 253].as_slice(), &[0xff; 8]].concat())),
            ("an answer", frame::message(Kind::Response, &Response::Log(None)).expect("it is short")),
            ("a commit mark", frame::commit(&place(&client, &name).await, Index(1)).to_vec()),
        ] {
            let refusal = refusal(&connection, what, &bytes).await;
            assert!(matches!(refusal, Refusal::Invalid(_)), "{what}: {refusal}");
            serves(&connection).await;
            appender.pump().await.expect("appends go on");
        }
        let hello = Hello { version: "1".to_owned(), cluster: Some(Nonce(1)) };
        let hello = frame::message(Kind::Request, &Request::Hello(hello)).expect("it is short");
        let wrong = refusal(&connection, "another cluster", &hello).await;
        assert!(matches!(wrong, Refusal::WrongCluster { .. }), "{wrong}");

        assert_eq!(pids, (0..3).map(|at| stage.pid(at)).collect::<Vec<_>>());
        let status = appender.writer().status();
        assert_eq!((status.rolls, status.members.len()), (0, 3), "no member was given up for it");
        let ledger = appender.close().await;
        ledger.check(&read_all(&client, &name).await);
    })
    .await;
}

async fn describe(client: &Client, name: &LogName) -> LogDescription {
    client.describe_log(name).await.expect("the log is there")
}

/// The place of the log's newest segment.
async fn place(client: &Client, name: &LogName) -> Place {
    let log = describe(client, name).await.view;
    let (number, segment) = log.segments.last_key_value().expect("it has a segment");
    Place { log: log.log, segment: *number, epoch: segment.record.value.epoch }
}

/// The first frames of a stranger that opens the newest segment at its first member, as its writer
/// would; with the place of the segment and the member's node.
async fn opening(client: &Client, name: &LogName) -> (Vec<u8>, Place, String) {
    let (place, log) = (place(client, name).await, describe(client, name).await);
    let member = &log.view.segments[&place.segment].record.value.ensemble[0];
    let at = Address {
        log: place.log,
        segment: place.segment,
        epoch: place.epoch,
        incarnation: member.incarnation,
    };
    let append = frame::message(Kind::Request, &Request::Append(place.log)).expect("it is short");
    let open = frame::message(Kind::Open, &Open { at, repair: false }).expect("it is short");
    ([append, open].concat(), place, member.node.to_string())
}

/// An `Append` frame whose batch, at this index, has this body.
fn append(place: &Place, first: Index, body: &[u8]) -> Vec<u8> {
    let header = BatchHeader { body_len: body.len() as u32, count: 1, first, chain: Chain(1) };
    let batch = [&header.encode(place)[..], body].concat();
    [&append_head(place, Index(0), batch.len())[..], &batch].concat()
}

#[tokio::test]
async fn appends_that_are_none_are_refused_and_change_nothing() {
    // What is archived already is not compared any more, so nothing is before its segment is sealed.
    let late = Duration::from_secs(600);
    let setup = Setup {
        flush_bytes: 32 << 20,
        flush_interval: late,
        flush_max_interval: late,
        provokes: vec!["an append contradicts what is here"],
        ..Setup::default()
    };
    with_stage(setup, async |stage| {
        let (client, name) = stage.client_and_log().await;
        let mut appender = Appender::new(client.take_over(&name).await.expect("it is taken over"));
        appender.pump_more(100).await;
        let garbage = payload(9, 9, 3000);
        let forged = forged();
        let oversized = [&oversized_header()[..], &vec![0; ENTRY_BYTES_MAX + 1]].concat();
        let at = |place: &Place, first, body: &[u8]| append(place, Index(first), body);
        let next_epoch = |place: &Place| Place { epoch: place.epoch.plus(1), ..*place };
        let lying = |place: &Place| [&append_head(place, Index(0), garbage.len())[..], &garbage].concat();
        let long = raw_prefix(Kind::Append as u8, (BATCH_BYTES_MAX + 33) as u32);
        let cases: [(&str, bool, Forgery<'_>); 8] = [
            ("garbage", false, &|_| garbage.to_vec()),
            ("an append over the limit", false, &|_| long.clone()),
            ("an append of garbage", true, &lying),
            ("a batch bound to another epoch", true, &|place| {
                let batch = at(&next_epoch(place), 0, &forged).split_off(APPEND_HEAD_BYTES);
                [&append_head(place, Index(0), batch.len())[..], &batch].concat()
            }),
            ("a batch far beyond the tail", true, &|place| at(place, 1 << 40, &forged)),
            ("a batch over what is there", true, &|place| at(place, 0, &forged)),
            ("an oversized entry over what is there", true, &|place| at(place, 0, &oversized)),
            ("half a batch", false, &|place| at(place, 0, &forged)[..100].to_vec()),
        ];
        for (what, refused, bytes) in cases {
            let (mut said, place, node) = opening(&client, &name).await;
            said.extend_from_slice(&bytes(&place));
            let (_endpoint, connection) = connect(stage, stage.position(&node)).await;
            let heard = say(&connection, &said).await;
            let refusals = heard.iter().filter(|(kind, _)| *kind == Kind::Refused);
            let refusals: Vec<Refused> =
                refusals.map(|(_, body)| codec::decode(body).expect("it is sound")).collect();
            // The writer takes its segment back, and then the stranger may be told that.
            assert!(!refusals.is_empty() || !refused, "{what}: {heard:?}");
            serves(&connection).await;
            appender.pump_more(20).await;
            appender.pump_until("three members", async |a| a.writer().status().members.len() == 3).await;
        }
        let ledger = appender.close().await;
        ledger.check(&read_all(&client, &name).await);
        stage.archived(&client, &name).await;
        stage.buffers_empty(&client).await;
        ledger.check(&read_all(&client, &name).await);
    })
    .await;
}

/// What a stranger says about the segment at a place.
type Forgery<'a> = &'a dyn Fn(&Place) -> Vec<u8>;

/// The body of a batch of one sound entry.
fn forged() -> Vec<u8> {
    let before = BatchEnd { chain: Chain(1), last_timestamp: Timestamp(1) };
    let (mut builder, mut body) = (BatchBuilder::new(before), Vec::new());
    builder.push(&[], b"forged", Timestamp(u64::MAX >> 1), &mut body);
    body
}

/// The header of an entry that is one byte too long.
fn oversized_header() -> [u8; ENTRY_HEADER_BYTES] {
    let payload_len = ENTRY_BYTES_MAX as u32 + 1;
    let timestamp = Timestamp(u64::MAX >> 1);
    EntryHeader { crc: 0, payload_len, headers_len: 0, timestamp, producer: false }.encode()
}

#[tokio::test]
async fn an_oversized_entry_at_the_tail_is_refused_by_the_node() {
    with_stage(Setup::default(), async |stage| {
        let (client, name) = stage.client_and_log().await;
        let writer = client.take_over(&name).await.expect("it is taken over");
        bounded("it is acknowledged", writer.append("one")).await.expect("it is appended");
        let chain = writer_chain("one", &read_all(&client, &name).await[0].timestamp);
        let (mut bytes, place, node) = opening(&client, &name).await;
        let body = [&oversized_header()[..], &vec![0; ENTRY_BYTES_MAX + 1]].concat();
        let header = BatchHeader { body_len: body.len() as u32, count: 1, first: Index(1), chain };
        bytes.extend_from_slice(&append_head(&place, Index(0), BATCH_HEADER_BYTES + body.len()));
        bytes.extend_from_slice(&header.encode(&place));
        bytes.extend_from_slice(&body);
        let (_endpoint, connection) = connect(stage, stage.position(&node)).await;
        let heard = say(&connection, &bytes).await;
        let refused = heard.iter().find(|(kind, _)| *kind == Kind::Refused).expect("it is refused");
        let refused: Refused = codec::decode(&refused.1).expect("it is sound");
        assert!(refused.why.to_string().contains("longer than"), "{}", refused.why);
        serves(&connection).await;
        bounded("it is acknowledged", writer.append("two")).await.expect("the writer goes on");
        bounded("the writer closes", writer.close()).await.expect("it closes");
        let entries = read_all(&client, &name).await;
        let payloads: Vec<&[u8]> = entries.iter().map(|entry| &entry.payload[..]).collect();
        assert_eq!(payloads, [b"one", b"two"]);
    })
    .await;
}

/// The chain of a log that holds one entry.
fn writer_chain(payload: &str, timestamp: &Timestamp) -> Chain {
    Chain::default().extended(&EntryHeader::of(&[], payload.as_bytes(), *timestamp).encode())
}
