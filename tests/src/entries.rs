//! Entries that can be told apart.

use bytes::Bytes;

/// The `n`th entry of a stream, `len` bytes long: another content for every other pair of numbers,
/// as far as the length allows.
#[must_use]
pub fn payload(stream: u64, n: u64, len: usize) -> Bytes {
    let mut state = (stream << 40) ^ n ^ 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(len + 16);
    bytes.extend_from_slice(&n.to_le_bytes());
    bytes.extend_from_slice(&stream.to_le_bytes());
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}
