//! Frames over real streams: whole, in pieces, and broken.

use super::{Pair, pair, soon};
use crate::transport::{
    CLOSE_DONE, Frame, FrameReader, ReadError, ReadFrameError, RequestError, SendStream, TransportOptions,
    VarInt, request, send_message,
};
use bytes::Bytes;
use futures::FutureExt;
use piculet_quorum::ids::LogId;
use piculet_quorum::limits::{DATA_BYTES_TARGET, MESSAGE_BYTES_MAX};
use piculet_quorum::wire::codec;
use piculet_quorum::wire::frame::{FrameError, Kind, PREFIX_BYTES, prefix};
use piculet_quorum::wire::message::{Refusal, Request, Response};
use std::time::Duration;

/// A time-out that does not strike in these tests.
const LONG: Duration = super::PATIENCE;

async fn connected() -> Pair {
    pair(&TransportOptions::default(), &TransportOptions::default()).await
}

/// A stream from the client, with the server's reader of it. The client's end is `SendStream`.
async fn stream(pair: &Pair) -> (SendStream, FrameReader) {
    let (mut send, _) = pair.connection.open_bi().await.unwrap();
    // The other side learns of a stream with its first bytes.
    send_message(&mut send, Kind::Request, &Request::Nodes).await.unwrap();
    let (_, receive) = soon(pair.accepted.connection.accept_bi()).await.unwrap();
    let mut reader = FrameReader::new(receive);
    let (kind, body) = soon(reader.next()).await.unwrap().unwrap();
    assert_eq!((kind, codec::decode(&body)), (Kind::Request, Ok(Request::Nodes)));
    (send, reader)
}

fn framed(kind: Kind, body: &[u8]) -> Vec<u8> {
    [&prefix(kind, body.len())[..], body].concat()
}

/// Bytes that differ from place to place.
fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[tokio::test]
async fn frames_come_whole_whatever_pieces_they_are_sent_in() {
    let pair = connected().await;
    let (mut send, mut reader) = stream(&pair).await;
    let mut frames: Vec<Frame> = Vec::new();
    let (mut total, mut seed) = (0, 1_u64);
    while total < 20_000_000 {
        seed += 1;
        let (kind, len) = match seed % 5 {
            0 => (Kind::Data, 32 + (seed as usize * 77_777) % (2 * DATA_BYTES_TARGET)),
            1 => (Kind::Response, (seed as usize * 9_973) % MESSAGE_BYTES_MAX),
            2 => (Kind::Response, 0),
            3 => (Kind::Ack, 48),
            _ => (Kind::Mark, 72),
        };
        total += PREFIX_BYTES + len;
        frames.push((kind, noise(len, seed).into()));
    }
    let bytes: Bytes = frames.iter().flat_map(|(kind, body)| framed(*kind, body)).collect::<Vec<_>>().into();
    assert_eq!(bytes.len(), total);
    let write = async {
        let (mut rest, mut nth) = (bytes, 0_usize);
        while !rest.is_empty() {
            nth += 1;
            let piece = [1, 3, 7, 8, 13, 1451, 64 * 1024 + 1, 999_983][nth % 8].min(rest.len());
            send.write_chunk(rest.split_to(piece)).await.unwrap();
        }
        send.finish().unwrap();
    };
    let read = async {
        for (nth, expected) in frames.iter().enumerate() {
            let frame = reader.next().await.unwrap().expect("the stream goes on");
            assert!(frame == *expected, "frame {nth}: {:?} of {} bytes", frame.0, frame.1.len());
        }
        assert_eq!(reader.next().await, Ok(None));
        assert_eq!(reader.next().await, Ok(None), "the end stays the end");
    };
    soon(async { tokio::join!(write, read) }).await;
}

#[tokio::test]
async fn a_frame_that_is_half_there_survives_its_reader_being_dropped() {
    let pair = connected().await;
    let (mut send, mut reader) = stream(&pair).await;
    let frame = framed(Kind::Response, &noise(100, 1));
    for piece in frame[..107].chunks(9) {
        let before = pair.accepted.connection.stats().frame_rx.stream;
        send.write_all(piece).await.unwrap();
        super::until("the piece comes", || pair.accepted.connection.stats().frame_rx.stream > before).await;
        // Polled once, and dropped.
        assert!(reader.next().now_or_never().is_none());
        assert_eq!(reader.next_buffered(), Ok(None));
    }
    send.write_all(&frame[107..]).await.unwrap();
    let (kind, body) = soon(reader.next()).await.unwrap().unwrap();
    assert_eq!((kind, &body[..]), (Kind::Response, &frame[PREFIX_BYTES..]));
}

#[tokio::test]
async fn frames_that_have_come_are_taken_without_waiting() {
    let pair = connected().await;
    let (mut send, mut reader) = stream(&pair).await;
    let acks: Vec<u8> = (0..1000_u64).flat_map(|n| framed(Kind::Ack, &noise(48, n))).collect();
    send.write_all(&acks).await.unwrap();
    send.write_all(&prefix(Kind::Ack, 48)).await.unwrap();
    let mut count = 0;
    while count < 1000 {
        let (kind, body) = soon(reader.next()).await.unwrap().unwrap();
        assert_eq!((kind, body.len()), (Kind::Ack, 48));
        count += 1;
        while let Some((_, body)) = reader.next_buffered().unwrap() {
            assert_eq!(body, noise(48, count));
            count += 1;
        }
    }
    assert_eq!(count, 1000);
    assert_eq!(reader.next_buffered(), Ok(None), "the last is not whole");
    send.write_all(&noise(48, 1)).await.unwrap();
    send.finish().unwrap();
    assert!(soon(reader.next()).await.unwrap().is_some());
    assert_eq!(soon(reader.next()).await, Ok(None));
    assert_eq!(reader.next_buffered(), Ok(None));
}

#[tokio::test]
async fn what_is_not_taken_as_frames_goes_to_the_next_reader() {
    let pair = connected().await;
    let (mut send, mut reader) = stream(&pair).await;
    let bytes = [framed(Kind::Ack, &noise(48, 1)), framed(Kind::Ack, &noise(48, 2)), vec![1, 2, 3]].concat();
    send.write_all(&bytes).await.unwrap();
    send.finish().unwrap();
    assert_eq!(soon(reader.next()).await.unwrap().unwrap().1, noise(48, 1));
    let (mut receive, taken) = reader.into_parts();
    let rest = [taken.concat(), soon(receive.read_to_end(1 << 20)).await.unwrap()].concat();
    assert_eq!(rest, bytes[PREFIX_BYTES + 48..]);
}

#[tokio::test]
async fn what_is_not_a_frame_is_an_error_and_nothing_more() {
    let pair = connected().await;
    let too_long = (MESSAGE_BYTES_MAX + 1) as u32;
    let oversized = [&[Kind::Request as u8, 0, 0, 0], &too_long.to_le_bytes()[..]].concat();
    let huge = [Kind::Data as u8, 0, 0, 0, 255, 255, 255, 255].to_vec();
    let mut reserved = prefix(Kind::Request, 0);
    reserved[2] = 1;
    let unknown = ReadFrameError::Malformed(FrameError::Unknown(*b"GET / HT"));
    for (what, bytes, expected) in [
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Some(unknown)),
        ("a reserved byte", reserved.to_vec(), None),
        ("a message beyond its limit", oversized, None),
        ("a length beyond any", huge, None),
        ("an ack of no bytes", vec![Kind::Ack as u8, 0, 0, 0, 0, 0, 0, 0], None),
    ] {
        // In one piece, and byte by byte.
        for piece in [bytes.len(), 1] {
            let (mut send, mut reader) = stream(&pair).await;
            for piece in bytes.chunks(piece) {
                send.write_all(piece).await.unwrap();
            }
            let error = soon(reader.next()).await.unwrap_err();
            assert!(matches!(error, ReadFrameError::Malformed(_)), "{what}: {error}");
            assert!(expected.as_ref().is_none_or(|expected| *expected == error), "{what}: {error}");
        }
    }
    // The connection is as good as before.
    stream(&pair).await;
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_told_from_one_that_ends() {
    let pair = connected().await;
    let frame = framed(Kind::Ack, &noise(48, 1));
    for (sent, expected) in [(3, PREFIX_BYTES), (8, 56), (55, 56)] {
        let (mut send, mut reader) = stream(&pair).await;
        send.write_all(&frame[..sent]).await.unwrap();
        send.finish().unwrap();
        let truncated = ReadFrameError::Truncated { arrived: sent, expected };
        assert_eq!(soon(reader.next()).await, Err(truncated));
    }
    let (mut send, mut reader) = stream(&pair).await;
    send.reset(VarInt::from_u32(7)).unwrap();
    let reset = ReadFrameError::Stream(ReadError::Reset(VarInt::from_u32(7)));
    assert_eq!(soon(reader.next()).await, Err(reset));
    let (_send, mut reader) = stream(&pair).await;
    pair.client.close();
    let error = soon(reader.next()).await.unwrap_err();
    assert!(matches!(error, ReadFrameError::Stream(ReadError::ConnectionLost(_))), "{error}");
}

/// Serves one request with `answer`; returns it.
async fn serve(pair: &Pair, answer: &[u8]) -> Request {
    let (mut send, receive) = pair.accepted.connection.accept_bi().await.unwrap();
    let (_, body) = FrameReader::new(receive).next().await.unwrap().unwrap();
    send.write_all(answer).await.unwrap();
    send.finish().unwrap();
    codec::decode(&body).unwrap()
}

#[tokio::test]
async fn a_request_has_its_answer() {
    let pair = connected().await;
    let asked = Request::ViewLog { log: LogId(7), from: None };
    let response = Response::Refused(Refusal::Draining);
    let answer = framed(Kind::Response, &codec::encode(&response).unwrap());
    for _ in 0..100 {
        let exchange = async { tokio::join!(request(&pair.connection, &asked, LONG), serve(&pair, &answer)) };
        assert_eq!(soon(exchange).await, (Ok(response.clone()), asked.clone()));
    }
}

#[tokio::test]
async fn an_answer_that_is_none_is_an_error() {
    let pair = connected().await;
    for (what, answer) in [
        ("nothing", vec![]),
        ("half a frame", prefix(Kind::Response, 10).to_vec()),
        ("another kind", framed(Kind::Ack, &[0; 48])),
        ("garbage in a frame", framed(Kind::Response, &[255; 40])),
    ] {
        let exchange =
            async { tokio::join!(request(&pair.connection, &Request::Status, LONG), serve(&pair, &answer)) };
        let error = soon(exchange).await.0.unwrap_err();
        assert!(matches!(error, RequestError::Protocol(_)), "{what}: {error}");
    }
    let long = Request::Propose(piculet_quorum::wire::message::Proposal::Create(
        piculet_quorum::meta::create::CreateLog {
            name: piculet_quorum::ids::LogName::new("x").unwrap(),
            log: LogId(1),
            durability: piculet_quorum::ids::Level::Memory,
            allow_loss: false,
        },
    ));
    let exchange = async { tokio::join!(request(&pair.connection, &long, LONG), reset_next(&pair)) };
    let error = soon(exchange).await.0.unwrap_err();
    assert_eq!(error, RequestError::Abandoned(VarInt::from_u32(9)));
}

async fn reset_next(pair: &Pair) {
    let (mut send, _receive) = pair.accepted.connection.accept_bi().await.unwrap();
    send.reset(VarInt::from_u32(9)).unwrap();
}

#[tokio::test]
async fn a_request_that_nobody_answers_ends() {
    let pair = connected().await;
    let brief = Duration::from_millis(50);
    let error = soon(request(&pair.connection, &Request::Status, brief)).await.unwrap_err();
    assert_eq!(error, RequestError::TimedOut(brief));
    // The node learns of it: its answer's stream is stopped.
    let (mut send, _receive) = soon(pair.accepted.connection.accept_bi()).await.unwrap();
    assert!(soon(send.stopped()).await.unwrap().is_some());
    assert!(send.write_all(b"too late").await.is_err());
    let lost = async {
        tokio::join!(request(&pair.connection, &Request::Status, LONG), async {
            pair.accepted.connection.accept_bi().await.unwrap();
            pair.accepted.connection.close(CLOSE_DONE, b"");
        })
    };
    let error = soon(lost).await.0.unwrap_err();
    assert!(matches!(error, RequestError::Lost(_)), "{error}");
}
