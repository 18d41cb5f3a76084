//! The little HTTP that it takes to ask a process on this machine how it is.

use super::LocalError;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// A request is given up after this.
const LIMIT: Duration = Duration::from_secs(5);

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

/// Asks for `path`.
///
/// # Errors
/// When no answer of at most 4 MiB comes within 5 seconds; any status is an answer.
pub async fn get(server: SocketAddr, path: &str) -> Result<Answer, LocalError> {
    request("GET", server, path, "").await
}

/// Sends one HTTP/1.0 request with `body` and reads the answer.
///
/// # Errors
/// As [`get`].
pub async fn request(method: &str, server: SocketAddr, path: &str, body: &str) -> Result<Answer, LocalError> {
    let from = || format!("{server}{path}");
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let head =
            format!("{method} {path} HTTP/1.0\r\nHost: {server}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        Ok(answer)
    };
    let late = |_| LocalError::Http { from: from(), why: format!("silent for {} s", LIMIT.as_secs()) };
    let answer = tokio::time::timeout(LIMIT, exchange).await.map_err(late)?;
    let answer = answer.map_err(LocalError::io("reach", from()))?;
    let parsed = parse(&String::from_utf8_lossy(&answer));
    parsed.ok_or_else(|| LocalError::Http { from: from(), why: "it does not speak HTTP".to_owned() })
}

fn parse(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    Some(Answer { status: status.parse().ok()?, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn answering(answer: &'static str) -> Result<Answer, LocalError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("it is bound");
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("a request");
            let mut asked = [0; 1024];
            let len = stream.read(&mut asked).await.expect("the request is read");
            assert!(asked[..len].starts_with(b"GET /readyz HTTP/1.0\r\n"));
            stream.write_all(answer.as_bytes()).await.expect("the answer is taken");
        };
        let (answer, ()) = tokio::join!(get(addr, "/readyz"), server);
        answer
    }

    #[tokio::test]
    async fn status_and_body_are_read() {
        let answer = answering("HTTP/1.1 503 Service Unavailable\r\nX: y\r\n\r\nno\r\n\r\nyet").await;
        assert_eq!(answer.expect("an answer"), Answer { status: 503, body: "no\r\n\r\nyet".to_owned() });
    }

    #[tokio::test]
    async fn what_is_not_http_is_an_error() {
        for bad in ["", "SSH-2.0\r\n\r\n", "HTTP/1.1 many\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            let error = answering(bad).await.expect_err(bad);
            assert!(matches!(error, LocalError::Http { .. }), "{bad:?}: {error}");
        }
    }
}
