use super::*;
use crate::certs;
use crate::fixture::Fixture;
use crate::local::{free_port, http};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_is_ready_and_stops() {
    let fixture = Fixture::new();
    let (listen, port) = (free_port().unwrap(), free_port().unwrap());
    let mut config = fixture.config("node-1");
    config.listen = listen.addr();
    config.admin = port.addr();
    let dir = config.tls.ca.parent().unwrap().to_owned();
    certs::create_ca(&dir, 1).unwrap();
    certs::issue_node(&dir, "node-1", &["127.0.0.1".to_owned()], 1).unwrap();
    let admin = config.admin;

    let node = Node::start(config.clone()).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while http::get(admin, "/readyz").await.unwrap().status != 200 {
        assert!(Instant::now() < deadline, "{}", http::get(admin, "/readyz").await.unwrap().body);
        sleep(Duration::from_millis(5)).await;
    }
    let mut same_port = config.clone();
    same_port.buffer.memory.dir = dir.join("other");
    let error = Node::start(same_port).await.err().unwrap();
    assert!(matches!(error, NodeError::Admin(AdminError::InUse { .. })), "{error}");
    let other_port = free_port().unwrap();
    let same_listen = NodeConfig { admin: other_port.addr(), ..config.clone() };
    let error = Node::start(same_listen).await.err().unwrap();
    assert!(matches!(error, NodeError::Server(ServerError::InUse { .. })), "{error}");
    assert!(error.to_string().contains("`listen`"), "{error}");
    let other_listen = free_port().unwrap();
    let same_dir = NodeConfig { admin: other_port.addr(), listen: other_listen.addr(), ..config };
    let error = Node::start(same_dir).await.err().unwrap();
    assert!(matches!(error, NodeError::Buffer(BufferError::Busy { .. })), "{error}");

    drain(&node.core).await;
    let core = Arc::clone(&node.core);
    node.stop().await;
    assert_eq!(core.lease(), None, "the lease is revoked");
    admin::bind(admin).await.expect("the port is free again");
}

#[tokio::test]
async fn what_cannot_be_used_is_named() {
    let fixture = Fixture::new();
    let config = fixture.config("node-1");
    let error =
        open::open(NodeConfig { store: "s3:///nowhere".to_owned(), ..config.clone() }).await.err().unwrap();
    assert!(error.to_string().contains("s3:///nowhere"), "{error}");
    let error =
        open::open(NodeConfig { metadata: "mysql://x".to_owned(), ..config.clone() }).await.err().unwrap();
    assert!(error.to_string().contains("mysql://x"), "{error}");
    let error = Node::start(config).await.err().unwrap();
    assert!(matches!(error, NodeError::Tls(_)) && error.to_string().contains("ca.pem"), "{error}");
}

#[test]
fn what_is_left_is_named_but_not_all_of_it() {
    let many: Vec<_> = (0..10).map(|n| (LogId(n), SegmentNumber(n))).collect();
    let text = left(&many);
    assert!(text.contains("log 0000000000000007 segment 7 and 2 more"), "{text}");
    assert_eq!(left(&[]), "nothing is left");
}
