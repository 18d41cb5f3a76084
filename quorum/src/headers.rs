//! An entry's headers: short named values that travel with the payload.
//!
//! Encoded, they follow each other in the order in which they were added, each as
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | length of the name, 1 to 255 |
//! | 2..6 | length of the value |
//! | 6.. | the name in UTF-8, then the value |
//!
//! All numbers are little-endian. A name may occur more than once.

use crate::limits::HEADERS_BYTES_MAX;

/// What precedes name and value.
const LENGTHS_BYTES: usize = 6;
/// Longest name, in bytes.
pub const HEADER_NAME_BYTES_MAX: usize = 255;

/// Headers of an entry, encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Headers {
    encoded: Vec<u8>,
}

/// Why headers are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadersError {
    /// The name is empty or too long.
    #[error("header name {0:?} is not 1 to {HEADER_NAME_BYTES_MAX} bytes long")]
    Name(String),
    /// All headers together are too long.
    #[error("headers of {0} bytes, encoded, are longer than the {HEADERS_BYTES_MAX} allowed for one entry")]
    TooLong(usize),
    /// The bytes are not encoded headers.
    #[error("byte {at} of the encoded headers: {what}")]
    Form {
        /// Where.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
}

impl Headers {
    /// Adds a header behind those that are there.
    ///
    /// # Errors
    /// When the name is empty or longer than [`HEADER_NAME_BYTES_MAX`], or all headers together are
    /// longer than [`HEADERS_BYTES_MAX`] when encoded. Nothing is added then.
    pub fn push(&mut self, name: &str, value: &[u8]) -> Result<(), HeadersError> {
        if !(1..=HEADER_NAME_BYTES_MAX).contains(&name.len()) {
            return Err(HeadersError::Name(name.to_owned()));
        }
        let len = self.encoded.len() + LENGTHS_BYTES + name.len() + value.len();
        if len > HEADERS_BYTES_MAX {
            return Err(HeadersError::TooLong(len));
        }
        self.encoded.extend_from_slice(&(name.len() as u16).to_le_bytes());
        self.encoded.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.encoded.extend_from_slice(name.as_bytes());
        self.encoded.extend_from_slice(value);
        Ok(())
    }

    /// The encoded form.
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }
}

/// The headers in an encoded form, in order.
///
/// # Errors
/// At the first byte that has no place in it; nothing follows an error.
pub fn decode(mut encoded: &[u8]) -> impl Iterator<Item = Result<(&str, &[u8]), HeadersError>> {
    let total = encoded.len();
    std::iter::from_fn(move || {
        if encoded.is_empty() {
            return None;
        }
        let at = total - encoded.len();
        let decoded = decode_one(encoded).map_err(|what| HeadersError::Form { at, what });
        encoded = decoded.as_ref().map_or(&[], |(_, _, rest)| *rest);
        Some(decoded.map(|(name, value, _)| (name, value)))
    })
}

fn decode_one(encoded: &[u8]) -> Result<(&str, &[u8], &[u8]), &'static str> {
    let (lengths, rest) = encoded.split_first_chunk::<LENGTHS_BYTES>().ok_or("no room for the lengths")?;
    let name_len = usize::from(u16::from_le_bytes([lengths[0], lengths[1]]));
    let value_len = u32::from_le_bytes([lengths[2], lengths[3], lengths[4], lengths[5]]) as usize;
    if !(1..=HEADER_NAME_BYTES_MAX).contains(&name_len) {
        return Err("a name that is not 1 to 255 bytes long");
    }
    let (name, rest) = rest.split_at_checked(name_len).ok_or("the name is cut off")?;
    let (value, rest) = rest.split_at_checked(value_len).ok_or("the value is cut off")?;
    let name = std::str::from_utf8(name).map_err(|_| "the name is not UTF-8")?;
    Ok((name, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(&str, &[u8])]) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in pairs {
            headers.push(name, value).expect("they fit");
        }
        headers
    }

    #[test]
    fn golden_bytes() {
        let encoded = headers(&[("id", b"7"), ("id", b"")]).encoded;
        assert_eq!(encoded, b"\x02\0\x01\0\0\0id7\x02\0\0\0\0\0id");
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let mut some = headers(&[("a", b"b")]);
        let before = some.clone();
        assert_eq!(some.push("", b""), Err(HeadersError::Name(String::new())));
        assert!(matches!(some.push(&"x".repeat(256), b""), Err(HeadersError::Name(_))));
        assert!(matches!(some.push("x", &[0; HEADERS_BYTES_MAX]), Err(HeadersError::TooLong(_))));
        assert_eq!(some, before);
    }

    #[test]
    fn damage_is_an_error_with_its_place() {
        let mut bytes = headers(&[("a", b"b"), ("c", b"d")]).encoded;
        bytes.pop();
        let all: Vec<_> = decode(&bytes).collect();
        assert_eq!(all[0], Ok(("a", &b"b"[..])));
        assert_eq!(all[1], Err(HeadersError::Form { at: 8, what: "the value is cut off" }));
        assert_eq!(all.len(), 2);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(pairs in prop::collection::vec(("[a-zé]{1,9}", prop::collection::vec(any::<u8>(), 0..20)), 0..8)) {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
            let headers = headers(&pairs);
            let decoded: Result<Vec<_>, _> = decode(headers.encoded()).collect();
            prop_assert_eq!(decoded, Ok(pairs));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(decode(&bytes).count() <= 64);
        }
    }
}
