//! Writers on nodes in this process: what is parked, what is replaced, and what they append.

mod flush;
#[cfg(feature = "object")]
mod object;
mod outcomes;
mod park;
mod producers;

use crate::testing::{Cluster, read_all, soon};
use crate::{Append, Client, Error, Headers, LogWriter, ReadOptions, Record, Start};
use piculet_quorum::ids::{LogName, Offset};
use std::time::Duration;

/// Waits for a condition.
async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

async fn everything(client: &Client, name: &LogName) -> Vec<String> {
    let mut reader = soon(client.read(name, Start::Earliest, ReadOptions::default())).await.unwrap();
    let (payloads, error) = read_all(&mut reader).await;
    assert!(error.is_none(), "{error:?}");
    payloads
}

async fn append_all(writer: &LogWriter, payloads: &[String]) {
    for payload in payloads {
        soon(writer.append(payload)).await.unwrap();
    }
}

#[tokio::test]
async fn headers_are_read_as_they_were_written() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    let mut headers = Headers::default();
    headers.push("trace", b"\x00\xff").unwrap();
    headers.push("kind", b"test").unwrap();
    soon(writer.append("plain")).await.unwrap();
    soon(writer.append(Record::new(b"one").headers(&headers))).await.unwrap();
    let batch = [Record::new("two"), Record::new("three").headers(&headers)];
    assert_eq!(soon(writer.append_batch(batch)).await.unwrap(), Offset(2));
    let mut reader = soon(client.read(&name, Start::Earliest, ReadOptions::default())).await.unwrap();
    let mut read = Vec::new();
    while let Some(entry) = soon(reader.next()).await {
        let entry = entry.unwrap();
        read.push((String::from_utf8(entry.payload.to_vec()).unwrap(), entry.headers().count()));
        if entry.headers().next().is_some() {
            assert_eq!(entry.header("trace"), Some(&b"\x00\xff"[..]));
            assert_eq!(entry.header("kind"), Some(&b"test"[..]));
        }
    }
    let expected = [("plain", 0), ("one", 2), ("two", 0), ("three", 2)];
    assert_eq!(read, expected.map(|(payload, headers)| (payload.to_owned(), headers)));
}

#[tokio::test]
async fn headers_count_towards_the_length_of_an_entry() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    let mut headers = Headers::default();
    headers.push("four", &[0; 90]).unwrap();
    let payload = vec![7; (16 << 20) - 100];
    let fits = Record::new(&payload).headers(&headers);
    soon(writer.append(fits)).await.unwrap();
    headers.push("x", b"").unwrap();
    let error = soon(writer.append(Record::new(&payload).headers(&headers))).await.unwrap_err();
    assert!(matches!(error, Error::EntryTooLong(len) if len == (16 << 20) + 7), "{error}");
    assert!(!error.outcome_unknown());
}

#[tokio::test]
async fn a_writer_and_its_appends_can_be_shown() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    let append: Append = writer.append("x");
    let shown = format!("{writer:?} {append:?}");
    assert!(shown.contains("LogName(\"log\")") && shown.contains("first: Offset(0)"), "{shown}");
    soon(append).await.unwrap();
    let empty = format!("{:?}", writer.append_batch(<[&str; 0]>::default()));
    assert!(empty.contains("BatchSize"), "{empty}");
}
