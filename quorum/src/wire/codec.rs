//! bincode, the only place where it is used: always with a limit, and all bytes must be consumed.

use crate::limits::MESSAGE_BYTES_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a control message could not be encoded or decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// It is longer than [`MESSAGE_BYTES_MAX`].
    #[error("a control message of {0} bytes is longer than the {MESSAGE_BYTES_MAX} allowed")]
    TooLong(usize),
    /// Its bytes are not a message of this version.
    #[error("not a control message of this version: {0}")]
    Malformed(String),
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MESSAGE_BYTES_MAX>()
}

/// Encodes a control message.
///
/// # Errors
/// When it is longer than [`MESSAGE_BYTES_MAX`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let bytes =
        bincode::serde::encode_to_vec(message, config()).map_err(|e| CodecError::Malformed(e.to_string()))?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(CodecError::TooLong(bytes.len()));
    }
    Ok(bytes)
}

/// Decodes a control message.
///
/// # Errors
/// When the bytes are not exactly one message, or claim to need more than [`MESSAGE_BYTES_MAX`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(CodecError::TooLong(bytes.len()));
    }
    let (message, used) = bincode::serde::decode_from_slice(bytes, config())
        .map_err(|e| CodecError::Malformed(e.to_string()))?;
    if used != bytes.len() {
        return Err(CodecError::Malformed(format!("{} bytes behind it", bytes.len() - used)));
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{
        Chain, Epoch, Incarnation, Index, LogId, LogName, Nonce, Offset, SegmentNumber, Timestamp,
    };
    use crate::limits::MESSAGE_BYTES_MAX;
    use crate::meta::{LogRecord, TxnOutcome};
    use crate::wire::message::{Address, Hello, Open, Opened, Refusal, Refused, Request, Response};
    use proptest::prelude::*;

    fn hex<T: Serialize>(message: &T) -> String {
        encode(message).expect("it is short").iter().map(|byte| format!("{byte:02x}")).collect()
    }

    const AT: Address =
        Address { log: LogId(1), segment: SegmentNumber(2), epoch: Epoch(3), incarnation: Incarnation(4) };

    /// The first byte is the variant's number: it is part of the wire format and never reused.
    #[test]
    fn the_bytes_of_requests_are_fixed() {
        let name = || LogName::new("a").expect("a valid name");
        let hello = Hello { version: "v".to_owned(), cluster: Some(Nonce(5)) };
        let (log, segment) = (LogId(1), SegmentNumber(2));
        for (request, bytes) in [
            (
                Request::Hello(hello),
                "00017601203030303030303030303030303030303030303030303030303030303030303035",
            ),
            (Request::Nodes, "01"),
            (Request::FindLog(name()), "020161"),
            (Request::ListLogs { after: Some(name()), limit: 7 }, "0301016107"),
            (Request::ViewLog { log, from: Some(segment) }, "04010102"),
            (Request::Fence(AT), "0601020304"),
            (Request::Fetch { at: AT, from: Index(5), to: Index(6) }, "07010203040506"),
            (Request::Append(log), "0801"),
            (Request::Subscribe { log, segment, from: Index(5) }, "09010205"),
            (Request::Watermarks { log, segment }, "0a0102"),
            (Request::Status, "0b"),
        ] {
            assert_eq!(hex(&request), bytes, "{request:?}");
        }
    }

    #[test]
    fn the_bytes_of_answers_are_fixed() {
        let numbered = [
            Refusal::WrongIncarnation { current: Incarnation(1) },
            Refusal::Fenced { epoch: Epoch(1) },
            Refusal::Draining,
            Refusal::OutOfOrder { tail: Index(1) },
            Refusal::Sealed { end: Index(1) },
            Refusal::Overloaded { bytes: 1 },
            Refusal::Conflict { index: Index(1) },
            Refusal::NotHere,
            Refusal::WrongCluster { cluster: Nonce(1) },
            Refusal::Unavailable(String::new()),
            Refusal::Unknown(String::new()),
            Refusal::Invalid(String::new()),
            Refusal::Superseded,
        ];
        for (number, refusal) in numbered.into_iter().enumerate() {
            assert_eq!(encode(&refusal).expect("it is short")[0] as usize, number, "{refusal:?}");
        }
        let opened =
            Opened { segment: SegmentNumber(2), incarnation: Incarnation(4), tail: Index(6), held: Index(5) };
        assert_eq!(hex(&opened), "02040605");
        assert_eq!(hex(&Open { at: AT, repair: true }), "0102030401");
        assert_eq!(hex(&Refused { segment: SegmentNumber(2), why: Refusal::Draining }), "0202");
        assert_eq!(hex(&Response::Log(Some(LogId(1)))), "020101");
        assert_eq!(hex(&Response::Outcome(TxnOutcome::Refused)), "0501");
        assert_eq!(hex(&Response::Refused(Refusal::NotHere)), "0807");
    }

    /// A record of the metadata has the same fields on the wire whatever is in them: nothing says
    /// which one was left out.
    #[test]
    fn a_record_travels_whole_when_parts_of_it_are_missing() {
        for (holder, deleted) in [(None, None), (Some("me".to_owned()), None), (None, Some(Timestamp(3)))] {
            let record = LogRecord {
                name: LogName::new("a").expect("a valid name"),
                epoch: Epoch(1),
                writer: Nonce(2),
                holder,
                next_segment: SegmentNumber(0),
                next_base: Offset(0),
                chain: Chain(0),
                last_timestamp: Timestamp(0),
                deleted,
            };
            let bytes = encode(&record).expect("it is short");
            assert_eq!(decode::<LogRecord>(&bytes).expect("it is a record"), record);
        }
    }

    #[test]
    fn what_is_too_long_or_has_something_behind_it_is_refused() {
        let long = Refusal::Invalid("x".repeat(MESSAGE_BYTES_MAX));
        assert!(encode(&long).is_err());
        assert!(decode::<Request>(&[1, 0]).is_err());
        // A length of almost 2^64: without a limit it would be allocated.
        assert!(decode::<Request>(&[2, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>) {
            if let Ok(request) = decode::<Request>(&bytes) {
                let again = encode(&request).expect("what was decoded is short");
                prop_assert_eq!(decode::<Request>(&again).expect("it is a message"), request);
            }
            // Only that it does not panic is of interest here.
            drop(decode::<Response>(&bytes));
        }
    }
}
