//! What operators are told over HTTP.

use piculet_node::local::http;
use piculet_tests::{Appender, Setup, until, with_stage};

#[tokio::test]
async fn a_node_tells_its_operators_how_it_is() {
    with_stage(Setup::default(), async |stage| {
        let admin = stage.cluster.nodes()[0].admin();
        for path in ["/healthz", "/readyz"] {
            assert_eq!(http::get(admin, path).await.expect("it answers").status, 200, "{path}");
        }
        assert_eq!(http::get(admin, "/nothing").await.expect("it answers").status, 404);

        let (client, name) = stage.client_and_log().await;
        let mut appender = Appender::new(client.take_over(&name).await.expect("it is taken over"));
        appender.pump_more(100).await;
        let status = http::get(admin, "/status").await.expect("it answers").body;
        let status: serde_json::Value = serde_json::from_str(&status).expect("it is JSON");
        assert_eq!(status["node"], "node-1");
        assert_eq!(status["ready"], true);
        assert_eq!(status["metadata"]["reachable"], true);
        assert_eq!(status["logs"][0]["segments"][0]["state"], "open");
        assert!(status["buffers"]["memory"]["used"].as_u64() > Some(0), "{status}");
        assert_eq!(status["buffers"]["disk"]["incarnation"], 1, "{status}");
        appender.close().await;
        stage.archived(&client, &name).await;
        stage.buffers_empty(&client).await;

        // Digested every few seconds.
        until("the metrics show the appends", async || {
            let metrics = http::get(admin, "/metrics").await.expect("it answers");
            let values: Vec<(&str, f64)> = metrics
                .body
                .lines()
                .filter(|line| !line.starts_with('#') && !line.is_empty())
                .map(|line| line.rsplit_once(' ').expect("a name and a value"))
                .map(|(name, value)| (name, value.parse().expect("a number")))
                .collect();
            assert!(values.iter().all(|(name, _)| name.starts_with("piculet_")), "{}", metrics.body);
            assert!(metrics.body.contains("# TYPE piculet_"), "{}", metrics.body);
            let appended = values
                .iter()
                .find(|(name, _)| name.starts_with("piculet_append") && name.contains("entries"));
            appended.is_some_and(|(_, value)| *value >= 100.0).then_some(())
        })
        .await;
    })
    .await;
}
