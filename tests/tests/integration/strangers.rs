//! Clients that must not get in.

use piculet_client::transport::{Alert, ConnectError, Endpoint, HandshakeError, Identity, TransportOptions};
use piculet_client::{Client, ClientOptions, Error};
use piculet_node::certs;
use piculet_node::local::http;
use piculet_tests::{Appender, Setup, read_all, with_stage};
use std::fs;
use std::path::Path;

#[tokio::test]
async fn a_foreign_certificate_gets_nobody_in() {
    with_stage(Setup::default(), async |stage| {
        let (client, name) = stage.client_and_log().await;
        let mut appender = Appender::new(client.take_over(&name).await.expect("it is taken over"));
        appender.pump_more(50).await;
        let foreign = stage.dir().join("foreign");
        certs::create_ca(&foreign, 1).expect("a CA");
        certs::issue_client(&foreign, "client", 1).expect("a client");

        // It trusts nobody but its own CA: it does not talk to our nodes.
        let error = Client::connect(options(stage.addresses(), &foreign.join("ca.pem"), &foreign)).await;
        let error = error.expect_err("the nodes are of another CA");
        assert!(matches!(error, Error::Connect(_)) && error.to_string().contains("another CA"), "{error}");

        // It trusts our nodes too; they do not trust it.
        let both = stage.dir().join("both.pem");
        let cas = [foreign.join("ca.pem"), stage.cluster.certs().join("ca.pem")];
        fs::write(&both, cas.map(|ca| fs::read_to_string(ca).expect("a CA")).concat())
            .expect("it can be written");
        let options = options(stage.addresses(), &both, &foreign);
        let error = Client::connect(options.clone()).await.expect_err("the nodes do not trust it");
        assert!(matches!(error, Error::Connect(_)) && !error.is_retryable(), "{error}");
        let endpoint =
            Endpoint::client(&options.identity, &TransportOptions::default()).expect("an endpoint");
        for address in stage.addresses() {
            let error = endpoint.connect(&address).await.expect_err("the node does not trust it");
            let ConnectError::Handshake { error: HandshakeError::TheyRefused { alert }, .. } = &error else {
                panic!("{error}");
            };
            assert_eq!(*alert, Alert::UnknownCa, "{error}");
        }
        for node in stage.cluster.nodes() {
            assert_eq!(http::get(node.admin(), "/readyz").await.expect("it answers").status, 200);
        }
        appender.pump_more(50).await;
        let ledger = appender.close().await;
        ledger.check(&read_all(&client, &name).await);
    })
    .await;
}

fn options(nodes: Vec<String>, ca: &Path, own: &Path) -> ClientOptions {
    let identity = Identity::load(ca, &own.join("client.pem"), &own.join("client.key"));
    ClientOptions::new(nodes, identity.expect("the files belong together"))
}
