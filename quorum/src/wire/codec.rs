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
