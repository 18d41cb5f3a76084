//! Settings of commands that talk to nodes.

use super::*;
use piculet_client::transport::Identity;
use piculet_client::{ClientOptions, S3Options, StoreOptions};
use piculet_quorum::writer::WriterOptions;

fn client_options(place: &Place) -> ClientOptions {
    let certs = place.dir.path().join("certs");
    crate::certs::create_ca(&certs, 1).unwrap();
    crate::certs::issue_client(&certs, "client", 1).unwrap();
    let config = ClientConfig::load(&place.sources).unwrap_or_else(|error| panic!("{error}"));
    config.options().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_defaults_of_clients_are_those_of_the_library() {
    let place = Place::new("nodes = [\"a:1\", \"b:2\"]\ncerts = \"certs\"");
    let options = client_options(&place);
    let certs = place.dir.path().join("certs");
    let file = |name: &str| certs.join(name);
    let identity = Identity::load(&file("ca.pem"), &file("client.pem"), &file("client.key")).unwrap();
    let usual = ClientOptions::new(vec!["a:1".to_owned(), "b:2".to_owned()], identity);
    assert_eq!(options.nodes, usual.nodes);
    assert_eq!(options.transport, usual.transport);
    assert_eq!(options.writer, usual.writer);
    assert_eq!(options.recovery, usual.recovery);
    assert_eq!((options.read_ahead, &options.store), (usual.read_ahead, &None));
    let times =
        |options: &ClientOptions| [options.call_timeout, options.takeover_timeout, options.read_timeout];
    assert_eq!(times(&options), times(&usual));
}

#[test]
fn every_setting_reaches_the_client() {
    let place = Place::new(
        r#"
nodes = ["a:1"]
certs = "certs"
identity = "nobody"
name = "me"
store = "s3://bucket/prefix"
store_options = { endpoint = "https://s3:9000", region = "r", allow_http = true, part_bytes = "1KiB", linger = "3ms" }
max_datagram = "1400B"
keep_alive = "300ms"
call_timeout = "1s"
takeover_timeout = "2s"
writer_timeout = "8s"
read_timeout = "3s"
read_ahead = "1MiB"
writer = { idle_after = "9s", segment_bytes = "2MiB", segment_age = "4s", member_timeout = "50ms", retransmit_bytes = "3MiB" }
recovery = { grace = "6ms", silence = "7s" }
"#,
    )
    .set("nodes", "b:1, c:2")
    .variable("PICULET_IDENTITY", "client");
    let config = ClientConfig::load(&place.sources).unwrap();
    let rows = config.settings().rows();
    assert!(rows.iter().all(|row| row.source != "default"), "this test forgets some: {rows:?}");
    let options = client_options(&place);
    assert_eq!(options.nodes, ["b:1", "c:2"]);
    let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
    assert_eq!((options.transport.max_datagram, options.transport.keep_alive), (1400, millis(300)));
    assert_eq!((options.name.as_str(), options.writer_timeout), ("me", seconds(8)));
    assert_eq!(Duration::from(options.writer.idle_after), seconds(9));
    assert_eq!((options.call_timeout, options.takeover_timeout), (seconds(1), seconds(2)));
    assert_eq!((options.read_timeout, options.read_ahead), (seconds(3), 1 << 20));
    let s3 = S3Options {
        endpoint: Some("https://s3:9000".to_owned()),
        region: Some("r".to_owned()),
        allow_http: true,
        ..S3Options::default()
    };
    let store = StoreOptions {
        s3,
        part_bytes: 1 << 10,
        linger: millis(3),
        ..StoreOptions::new("s3://bucket/prefix")
    };
    assert_eq!(options.store, Some(store));
    let writer = WriterOptions {
        idle_after: seconds(9).into(),
        segment_bytes: 2 << 20,
        segment_age: seconds(4).into(),
        member_timeout: millis(50).into(),
        retransmit_bytes: 3 << 20,
        ..WriterOptions::default()
    };
    assert_eq!(options.writer, writer);
    assert_eq!(options.recovery, RecoveryOptions { grace: millis(6).into(), silence: seconds(7).into() });
}

#[test]
fn a_store_has_no_credentials_in_its_url_and_is_no_memory() {
    let refused = |store: &str| {
        let place = Place::new("nodes = [\"a:1\"]").set("store", store);
        ClientConfig::load(&place.sources).expect_err(store).to_string()
    };
    assert!(refused("s3://me:hush@bucket/prefix").contains("no credentials in the URL"));
    assert!(refused("memory:").contains("keeps nothing"));
}

#[test]
fn a_variable_that_is_almost_a_setting_of_clients_is_warned_about() {
    let warnings = |names: &[&str]| {
        let place =
            names.iter().fold(Place::new("nodes = [\"a:1\"]"), |place, name| place.variable(name, "x"));
        ClientConfig::load(&place.sources).unwrap().settings().warnings().to_vec()
    };
    let told = warnings(&["PICULET_NODE", "PICULET_READ_AHAED", "PICULET_WRITER_SEGMENT_BITES"]);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].contains("PICULET_NODE ") && told[0].contains("PICULET_NODES?"), "{told:?}");
    let others = [
        "PICULET_LOG",
        "PICULET_BIN",
        "PICULET_ETCD",
        "PICULET_WEED",
        "PICULET_CLIENT_CONFIG",
        "PICULET_SIM_SEEDS",
        "PICULET_NODE_LISTEN",
        "PICULET_TEST_DIR",
        "OTHER_NODES",
    ];
    assert_eq!(warnings(&others), Vec::<String>::new());
}
