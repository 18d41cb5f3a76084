//! S3 requests with the signature in the query (AWS Signature Version 4), so that the little HTTP
//! of this module can make them.

use super::S3Access;
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use time::OffsetDateTime;
use time::macros::format_description;

/// `path` with a query that lets `access` use it with `method` on `server` for a minute from `now`
/// on. The path must consist of unreserved characters and slashes.
pub(super) fn presigned(
    access: &S3Access,
    server: SocketAddr,
    method: &str,
    path: &str,
    now: OffsetDateTime,
) -> String {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let moment = now.to_offset(time::UtcOffset::UTC).format(format).expect("a date can be written");
    let (day, region) = (&moment[..8], &access.region);
    let query = format!(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}%2F{day}%2F{region}%2Fs3%2Faws4_request\
         &X-Amz-Date={moment}&X-Amz-Expires=60&X-Amz-SignedHeaders=host",
        access.access_key
    );
    let request = format!("{method}\n{path}\n{query}\nhost:{server}\n\nhost\nUNSIGNED-PAYLOAD");
    let request = hex(&Sha256::digest(request));
    let to_sign = format!("AWS4-HMAC-SHA256\n{moment}\n{day}/{region}/s3/aws4_request\n{request}");
    let secret = format!("AWS4{}", access.secret_key).into_bytes();
    let key = [day, region, "s3", "aws4_request"].iter().fold(secret, |key, part| hmac(&key, part));
    format!("{path}?{query}&X-Amz-Signature={}", hex(&hmac(&key, &to_sign)))
}

/// HMAC-SHA256 (RFC 2104) with a key of at most one block.
fn hmac(key: &[u8], message: &str) -> Vec<u8> {
    let padded =
        |pad: u8| -> [u8; 64] { std::array::from_fn(|at| key.get(at).copied().unwrap_or_default() ^ pad) };
    assert!(key.len() <= 64, "a key of {} bytes", key.len());
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test case 2 of RFC 4231.
    #[test]
    fn hmac_is_as_published() {
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex(&hmac(b"Jefe", "what do ya want for nothing?")), expected);
    }
}
