//! What is appended: a payload, and headers if there are any; and what is asked for with it.

use piculet_quorum::headers::Headers;
use piculet_quorum::ids::Offset;
use piculet_quorum::producers::Producer;

/// An entry to append: bytes, and headers if it has any. It borrows both.
///
/// Whatever is a reference to bytes is a record without headers: `&[u8]`, `&str`, `&Vec<u8>`,
/// `&[u8; N]`, `&String`, `&bytes::Bytes`. [`headers`](Self::headers) adds headers.
///
/// ```
/// use piculet_client::{Headers, Record};
///
/// let mut headers = Headers::default();
/// headers.push("content-type", b"text/plain")?;
/// let record = Record::new("hello").headers(&headers);
/// assert_eq!(record.payload(), b"hello");
/// # Ok::<(), piculet_client::HeadersError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    payload: &'a [u8],
    headers: Option<&'a Headers>,
}

impl<'a> Record<'a> {
    /// A record of these bytes, without headers.
    #[must_use]
    pub fn new(payload: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { payload: payload.as_ref(), headers: None }
    }

    /// The same with these headers, in place of those that it had.
    #[must_use]
    pub fn headers(self, headers: &'a Headers) -> Self {
        Self { headers: Some(headers), ..self }
    }

    /// Its payload.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Its headers, encoded; nothing when it has none.
    pub(crate) fn encoded_headers(&self) -> &'a [u8] {
        self.headers.map_or(&[], Headers::encoded)
    }

    /// Length of payload and encoded headers, which the limit of an entry is about.
    pub(crate) fn len(&self) -> usize {
        self.payload.len() + self.encoded_headers().len()
    }
}

/// What an append asks for, beyond its records.
///
/// ```
/// use piculet_client::{AppendOptions, Offset, Producer, ProducerId};
///
/// let id = ProducerId::new(7).expect("not 0");
/// let options = AppendOptions { producer: Some(Producer { id, sequence: 1 }), ..AppendOptions::default() };
/// let at_the_start = AppendOptions { expected_offset: Some(Offset(0)), ..options };
/// # assert!(at_the_start.producer.is_some());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendOptions {
    /// The offset that the first record must get; else nothing is appended, and the append fails with
    /// [`Error::OffsetMismatch`](crate::Error::OffsetMismatch). Default: any.
    pub expected_offset: Option<Offset>,
    /// The producer that it is appended for, and which of its appends this is: when it was appended
    /// before it is not appended again. Default: none.
    pub producer: Option<Producer>,
}

impl<'a, T: AsRef<[u8]> + ?Sized> From<&'a T> for Record<'a> {
    fn from(payload: &'a T) -> Self {
        Self::new(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn payload<'a>(record: impl Into<Record<'a>>) -> Vec<u8> {
        let record = record.into();
        assert_eq!(record.encoded_headers(), b"");
        record.payload().to_vec()
    }

    #[test]
    fn whatever_refers_to_bytes_is_a_record() {
        let slice: &[u8] = b"x";
        let (vec, string, bytes) = (b"x".to_vec(), "x".to_owned(), Bytes::from_static(b"x"));
        let all = [
            payload(slice),
            payload(b"x"),
            payload("x"),
            payload(&vec),
            payload(&string),
            payload(&bytes),
            payload(Record::new("x")),
        ];
        assert!(all.iter().all(|payload| payload == b"x"), "{all:?}");
    }

    #[test]
    fn headers_count_towards_its_length() {
        let mut headers = Headers::default();
        headers.push("id", b"7").unwrap();
        let record = Record::new("four").headers(&headers);
        assert_eq!((record.len(), record.encoded_headers()), (13, headers.encoded()));
    }
}
