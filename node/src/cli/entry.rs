//! Entries as JSON: what `read --output json` prints and `append --headers` takes.
//!
//! ```json
//! {"offset":3,"timestamp":"2026-11-23T16:44:01.250Z","headers":{"kind":"order"},"payload":"text"}
//! ```
//! A payload that is not UTF-8 stands in `payload_base64` instead. A header's value is text, or
//! `{"base64":"…"}`, or an array of these for a name that occurs more than once. An entry that was
//! appended for a producer has `"producer":{"id":7,"sequence":1}`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use piculet_quorum::headers::{Headers, HeadersError};
use piculet_quorum::ids::{Offset, Timestamp};
use piculet_quorum::producers::Producer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use time::format_description::BorrowedFormatItem;
use time::macros::{datetime, format_description};
use time::{OffsetDateTime, PrimitiveDateTime};

/// The latest moment that RFC 3339 can express.
const LATEST: PrimitiveDateTime = datetime!(9999-12-31 23:59:59.999);
const RFC3339_MILLIS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// An entry to be printed.
#[derive(Serialize)]
pub(super) struct EntryOut<'a> {
    offset: u64,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    producer: Option<ProducerOut>,
    #[serde(skip_serializing_if = "HeadersOut::is_empty")]
    headers: HeadersOut<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

/// Who an entry was appended for.
#[derive(Serialize)]
struct ProducerOut {
    id: u64,
    sequence: u64,
}

/// Values by name, in the order in which the names first occur.
struct HeadersOut<'a>(Vec<(&'a str, Vec<&'a [u8]>)>);

/// One header's value to be printed.
struct ValueOut<'a>(&'a [u8]);

/// An entry to be appended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EntryIn {
    pub(super) payload: Vec<u8>,
    pub(super) headers: Headers,
}

/// Why a line is not an entry.
#[derive(Debug, thiserror::Error)]
pub(super) enum EntryError {
    /// It is not such an object.
    #[error("expected an object such as {{\"payload\":\"text\",\"headers\":{{\"name\":\"value\"}}}}: {0}")]
    Json(#[from] serde_json::Error),
    /// It has no payload, or two.
    #[error("expected either \"payload\" or \"payload_base64\"")]
    Payload,
    /// Its base64 is none.
    #[error("{field} is not base64: {error}")]
    Base64 {
        /// Where it stands.
        field: String,
        /// What is wrong.
        error: base64::DecodeError,
    },
    /// Its headers are outside the limits.
    #[error(transparent)]
    Headers(#[from] HeadersError),
}

/// The object on a line. What `read` adds to an entry is accepted and means nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    headers: HeadersIn,
    payload: Option<String>,
    payload_base64: Option<String>,
    #[serde(rename = "offset", default)]
    _offset: IgnoredAny,
    #[serde(rename = "timestamp", default)]
    _timestamp: IgnoredAny,
    #[serde(rename = "producer", default)]
    _producer: IgnoredAny,
}

/// Headers in the order of the object, which a map would lose.
#[derive(Default)]
struct HeadersIn(Vec<(String, Values)>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    One(ValueIn),
    Many(Vec<ValueIn>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ValueIn {
    Text(String),
    Base64(Base64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Base64 {
    base64: String,
}

impl<'a> EntryOut<'a> {
    /// An entry as it was read.
    pub(super) fn new(
        offset: Offset,
        timestamp: Timestamp,
        producer: Option<Producer>,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        payload: &'a [u8],
    ) -> Self {
        let text = std::str::from_utf8(payload).ok();
        Self {
            offset: offset.0,
            timestamp: rfc3339(timestamp),
            producer: producer.map(|Producer { id, sequence }| ProducerOut { id: id.get(), sequence }),
            headers: HeadersOut::new(headers),
            payload: text,
            payload_base64: text.is_none().then(|| STANDARD.encode(payload)),
        }
    }
}

impl EntryIn {
    /// Parses a line; `headers` come before those of the line.
    pub(super) fn parse(line: &[u8], headers: &Headers) -> Result<Self, EntryError> {
        let line: Line = serde_json::from_slice(line)?;
        let payload = match (line.payload, line.payload_base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(base64)) => decode("payload_base64".to_owned(), &base64)?,
            _ => return Err(EntryError::Payload),
        };
        let mut headers = headers.clone();
        for (name, values) in line.headers.0 {
            let values = match values {
                Values::One(value) => vec![value],
                Values::Many(values) => values,
            };
            for value in values {
                match value {
                    ValueIn::Text(text) => headers.push(&name, text.as_bytes())?,
                    ValueIn::Base64(value) => {
                        headers.push(&name, &decode(format!("header {name:?}"), &value.base64)?)?;
                    }
                }
            }
        }
        Ok(Self { payload, headers })
    }
}

impl<'a> HeadersOut<'a> {
    fn new(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut places = BTreeMap::new();
        let mut grouped: Vec<(&str, Vec<&[u8]>)> = Vec::new();
        for (name, value) in headers {
            let place = *places.entry(name).or_insert(grouped.len());
            match grouped.get_mut(place) {
                Some((_, values)) => values.push(value),
                None => grouped.push((name, vec![value])),
            }
        }
        Self(grouped)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for HeadersOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, values) in &self.0 {
            match values.as_slice() {
                [one] => map.serialize_entry(name, &ValueOut(one))?,
                many => {
                    let many: Vec<ValueOut<'_>> = many.iter().map(|value| ValueOut(value)).collect();
                    map.serialize_entry(name, &many)?;
                }
            }
        }
        map.end()
    }
}

impl Serialize for ValueOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &STANDARD.encode(self.0))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for HeadersIn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = HeadersIn;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("headers as an object of names and values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeadersIn, A::Error> {
                let mut headers = Vec::new();
                while let Some(header) = map.next_entry()? {
                    headers.push(header);
                }
                Ok(HeadersIn(headers))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

fn decode(field: String, base64: &str) -> Result<Vec<u8>, EntryError> {
    STANDARD.decode(base64).map_err(|error| EntryError::Base64 { field, error })
}

/// A moment in RFC 3339 with milliseconds, in UTC; one beyond the year 9999 as the last moment
/// before.
pub(super) fn rfc3339(timestamp: Timestamp) -> String {
    let latest = LATEST.assume_utc();
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(timestamp.0) * 1_000_000);
    let moment = moment.unwrap_or(latest).min(latest);
    moment.format(RFC3339_MILLIS).expect("every year up to 9999 has this form")
}

#[cfg(test)]
mod tests {
    use super::*;
    use piculet_quorum::headers::decode as headers_of;
    use piculet_quorum::producers::ProducerId;
    use proptest::prelude::*;

    fn headers(pairs: &[(&str, &[u8])]) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in pairs {
            headers.push(name, value).expect("they fit");
        }
        headers
    }

    fn printed(entry: &EntryIn) -> String {
        let decoded: Vec<_> =
            headers_of(entry.headers.encoded()).map(|header| header.expect("it is sound")).collect();
        let (offset, timestamp) = (Offset(3), Timestamp(1_763_916_241_250));
        let out = EntryOut::new(offset, timestamp, None, decoded.into_iter(), &entry.payload);
        serde_json::to_string(&out).expect("it is plain data")
    }

    #[test]
    fn golden_lines() {
        let plain = EntryIn { payload: b"text\n".to_vec(), headers: Headers::default() };
        let line = r#"{"offset":3,"timestamp":"2025-11-23T16:44:01.250Z","payload":"text\n"}"#;
        assert_eq!(printed(&plain), line);
        let all = [("b", &b"1"[..]), ("a", b"\xff"), ("b", b"2")];
        let rich = EntryIn { payload: b"\x80".to_vec(), headers: headers(&all) };
        let line = r#"{"offset":3,"timestamp":"2025-11-23T16:44:01.250Z","headers":{"b":["1","2"],"a":{"base64":"/w=="}},"payload_base64":"gA=="}"#;
        assert_eq!(printed(&rich), line);
        let producer = Producer { id: ProducerId::new(7).expect("not 0"), sequence: 1 };
        let out = EntryOut::new(Offset(3), Timestamp(0), Some(producer), std::iter::empty(), b"x");
        let line = r#"{"offset":3,"timestamp":"1970-01-01T00:00:00.000Z","producer":{"id":7,"sequence":1},"payload":"x"}"#;
        assert_eq!(serde_json::to_string(&out).expect("it is plain data"), line);
        let again = EntryIn::parse(line.as_bytes(), &Headers::default()).expect("it is sound");
        assert_eq!(again, EntryIn { payload: b"x".to_vec(), headers: Headers::default() });
    }

    #[test]
    fn what_every_entry_gets_comes_first() {
        let common = headers(&[("source", b"pipe")]);
        let entry = EntryIn::parse(br#"{"payload":"","headers":{"a":"b"}}"#, &common).expect("it is sound");
        assert_eq!(entry.headers, headers(&[("source", b"pipe"), ("a", b"b")]));
        assert!(entry.payload.is_empty());
    }

    #[test]
    fn lines_that_are_no_entries_are_refused() {
        for (line, why) in [
            ("no json", "expected an object such as"),
            ("[]", "expected an object such as"),
            ("{}", "either \"payload\" or \"payload_base64\""),
            (r#"{"payload":"a","payload_base64":"YQ=="}"#, "either"),
            (r#"{"payload":"a","header":{}}"#, "unknown field `header`"),
            (r#"{"payload":"a","headers":{"n":7}}"#, "expected an object such as"),
            (r#"{"payload":"a","headers":{"":"x"}}"#, "header name \"\""),
            (r#"{"payload":"a","headers":{"n":{"base64":"?"}}}"#, "header \"n\" is not base64"),
            (r#"{"payload_base64":"a"}"#, "payload_base64 is not base64"),
        ] {
            let error = EntryIn::parse(line.as_bytes(), &Headers::default()).expect_err("it is no entry");
            assert!(error.to_string().contains(why), "{line}: {error}");
        }
    }

    #[test]
    fn moments_beyond_the_calendar_are_the_last_one_in_it() {
        assert_eq!(rfc3339(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(Timestamp(u64::MAX)), "9999-12-31T23:59:59.999Z");
    }

    proptest! {
        #[test]
        fn what_is_printed_can_be_appended(
            pairs in prop::collection::btree_map("[a-zé]{1,9}", prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 1..3), 0..5),
            payload in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut headers = Headers::default();
            for (name, values) in &pairs {
                for value in values {
                    headers.push(name, value).expect("they fit");
                }
            }
            let entry = EntryIn { payload, headers };
            let line = printed(&entry);
            prop_assert_eq!(EntryIn::parse(line.as_bytes(), &Headers::default()).expect("it is sound"), entry);
        }
    }
}
