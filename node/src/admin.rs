//! HTTP for operators, on a port of its own: `/healthz`, `/readyz`, `/metrics` and `/status`.

use crate::core::Core;
use crate::metrics;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// Measurements are digested this often.
const DIGEST_INTERVAL: Duration = Duration::from_secs(5);

/// Why there is no admin server.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another process has the port.
    #[error("admin address {address} is in use: stop the process that has it, or choose another for `admin`")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The system refuses.
    #[error("cannot listen on admin address {address}: {source}; expected an address of this machine")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Takes the port. Nothing is answered before [`serve`].
///
/// # Errors
/// When the port is taken, or the address is not this machine's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => AdminError::InUse { address },
        _ => AdminError::Listen { address, source },
    })
}

/// Answers until `stop` is true. Requests under way are not waited for.
pub async fn serve(core: Arc<Core>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(prometheus))
        .route("/status", get(status))
        .with_state(core);
    let mut digests = interval(DIGEST_INTERVAL);
    digests.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let server = async { axum::serve(listener, router).await };
    let mut server = std::pin::pin!(server);
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            ended = &mut server => {
                tracing::error!(?ended, "admin server has ended; the node goes on without it");
                return;
            }
            _ = digests.tick() => metrics::digest(),
        }
    }
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(core): State<Arc<Core>>) -> (StatusCode, String) {
    let mut missing = core.readiness.missing();
    if core.draining() {
        missing.push("the node is about to stop");
    }
    if missing.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, missing.iter().flat_map(|line| [line, "\n"]).collect())
}

async fn prometheus(State(core): State<Arc<Core>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::render(&core))
}

async fn status(State(core): State<Arc<Core>>) -> impl IntoResponse {
    let json = serde_json::to_string_pretty(&core.node_status()).expect("plain fields are always JSON");
    ([(CONTENT_TYPE, "application/json")], json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;
    use crate::local::http;
    use std::sync::atomic::Ordering;

    #[tokio::test]
    async fn operators_are_told_how_the_node_is() {
        let core = Fixture::new().core("node-1").await.0;
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(Arc::clone(&core), listener, stopped));
        let taken = bind(address).await.unwrap_err();
        assert!(matches!(taken, AdminError::InUse { .. }) && taken.to_string().contains("in use"), "{taken}");

        assert_eq!(http::get(address, "/healthz").await.unwrap().status, 200);
        let missing = http::get(address, "/readyz").await.unwrap();
        assert_eq!((missing.status, missing.body.lines().count()), (503, 3), "{}", missing.body);
        for step in [&core.readiness.registered, &core.readiness.informed, &core.readiness.serving] {
            step.store(true, Ordering::Release);
        }
        assert_eq!(http::get(address, "/readyz").await.unwrap().status, 200);
        core.start_draining();
        let draining = http::get(address, "/readyz").await.unwrap();
        assert!(draining.status == 503 && draining.body.contains("stop"), "{}", draining.body);

        let metrics = http::get(address, "/metrics").await.unwrap().body;
        assert!(metrics.contains("\npiculet_draining 1\n"), "{metrics}");
        let status: serde_json::Value =
            serde_json::from_str(&http::get(address, "/status").await.unwrap().body).unwrap();
        assert_eq!(
            (&status["node"], &status["buffers"]["memory"]["incarnation"]),
            (&"node-1".into(), &1.into())
        );
        stop.send_replace(true);
        server.await.unwrap();
    }
}
