//! What bad input, and surroundings that are not as they should be, get from the programs: a message
//! that names the value, what was expected and what to do. No node stops serving for it.

use piculet_node::certs;
use piculet_node::local::{ScratchDir, free_port, http};
use piculet_quorum::limits::ENTRY_BYTES_MAX;
use piculet_tests::{Ran, Setup, Stage, StoreKind, command, run_piculet, with_stage};
use rcgen::{CertificateParams, Issuer, KeyPair};
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};

async fn run(stage: &Stage, args: &[&str], input: &[u8]) -> Ran {
    let mut command = command(args);
    command.env("PICULET_NODES", stage.addresses().join(","));
    command.env("PICULET_CERTS", stage.cluster.certs());
    run_piculet(command, input).await
}

/// Every node serves, and `orders` holds what it held.
async fn all_is_well(stage: &Stage) {
    for node in stage.cluster.nodes() {
        assert_eq!(http::get(node.admin(), "/readyz").await.expect("it answers").status, 200);
    }
    assert_eq!(run(stage, &["read", "orders"], b"").await.ok(), "one\n");
}

#[tokio::test]
async fn what_a_client_asks_for_wrongly_is_refused_with_its_remedy() {
    with_stage(Setup { store: StoreKind::Directory, ..Setup::default() }, async |stage| {
        run(stage, &["append", "orders", "--create"], b"one\n").await.ok();
        let long = vec![b'x'; ENTRY_BYTES_MAX + 1];
        let max = ENTRY_BYTES_MAX.to_string();
        run(stage, &["append", "orders"], &long).await.failed(1, &["line 1", &max, "--record-bytes"]);
        run(stage, &["log", "tail", "nobody"], b"").await.failed(3, &["nobody", "create it first"]);
        run(stage, &["log", "create", "a b"], b"").await.failed(2, &["\"a b\"", "A-Z a-z 0-9"]);
        run(stage, &["read", "orders", "--from", "9"], b"").await.failed(6, &["9", "1"]);
        run(stage, &["log", "truncate", "orders", "--before", "9"], b"").await.failed(6, &["9", "1"]);
        let header = format!("a={}", "v".repeat(70_000));
        run(stage, &["append", "orders", "--header", &header], b"x").await.failed(2, &["65536"]);
        run(stage, &["append", "orders", "--header", "novalue"], b"x")
            .await
            .failed(2, &["novalue", "NAME=VALUE"]);
        run(stage, &["read", "orders", "--set", "read_ahed=1MiB"], b"")
            .await
            .failed(2, &["read_ahed", "read_ahead"]);
        run(stage, &["read", "orders", "--set", "read_ahead=lots"], b"")
            .await
            .failed(2, &["read_ahead", "lots"]);
        let json = run(stage, &["log", "tail", "nobody", "--output", "json"], b"").await;
        let error: serde_json::Value = serde_json::from_str(&json.err).expect("it is JSON");
        assert_eq!(error["error"]["code"], "not-found", "{}", json.err);
        all_is_well(stage).await;
    })
    .await;
}

/// Certificates of a client that expired an hour ago, of the cluster's own CA.
fn expired(stage: &Stage) -> PathBuf {
    let own = stage.cluster.certs();
    let dir = stage.dir().join("expired");
    fs::create_dir(&dir).expect("a directory");
    let read = |file: &str| fs::read_to_string(own.join(file)).expect("it is there");
    let ca = KeyPair::from_pem(&read("ca.key")).expect("a key");
    let ca = Issuer::from_ca_cert_pem(&read("ca.pem"), ca).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 2, 1);
    let cert = params.signed_by(&key, &ca).expect("it is signed");
    fs::write(dir.join("ca.pem"), read("ca.pem")).expect("it can be written");
    fs::write(dir.join("client.pem"), cert.pem()).expect("it can be written");
    fs::write(dir.join("client.key"), key.serialize_pem()).expect("it can be written");
    dir
}

#[tokio::test]
async fn certificates_that_do_not_fit_are_told_apart() {
    with_stage(Setup { store: StoreKind::Directory, ..Setup::default() }, async |stage| {
        run(stage, &["append", "orders", "--create"], b"one\n").await.ok();
        let read = async |certs: &Path| {
            run(stage, &["read", "orders", "--certs", &certs.display().to_string()], b"").await
        };
        read(&expired(stage)).await.failed(8, &["expired"]);
        let foreign = stage.dir().join("foreign");
        certs::create_ca(&foreign, 1).expect("a CA");
        certs::issue_client(&foreign, "client", 1).expect("a client");
        read(&foreign).await.failed(8, &["CA"]);
        read(&stage.dir().join("nowhere")).await.failed(8, &["nowhere/ca.pem"]);
        let other = stage.dir().join("other");
        certs::create_ca(&other, 1).expect("a CA");
        fs::copy(stage.cluster.certs().join("client.pem"), other.join("client.pem")).expect("it is there");
        fs::copy(foreign.join("client.key"), other.join("client.key")).expect("it is there");
        read(&other).await.failed(8, &["client.key", "client.pem"]);
        all_is_well(stage).await;
    })
    .await;
}

#[tokio::test]
async fn ping_tells_a_closed_port_from_one_that_is_blocked() {
    with_stage(Setup { store: StoreKind::Directory, ..Setup::default() }, async |stage| {
        let said = run(stage, &["ping"], b"").await.ok();
        for node in stage.cluster.nodes() {
            assert!(said.contains(node.name()), "{said}");
        }
        let closed = free_port().expect("a port").addr().to_string();
        run(stage, &["ping", "--nodes", &closed], b"").await.failed(7, &[]);
        let said = run(stage, &["ping", "--nodes", &closed], b"").await;
        assert!(String::from_utf8_lossy(&said.out).contains("listens"), "{said:?}");
        // A firewall swallows what is sent: nothing ever comes back.
        let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let blocked = silent.local_addr().expect("an address").to_string();
        let said = run(stage, &["ping", "--nodes", &blocked], b"").await;
        assert_eq!(said.code, Some(7), "{said:?}");
        assert!(String::from_utf8_lossy(&said.out).contains("UDP"), "{said:?}");
        let nowhere = run(stage, &["ping", "--nodes", "no-such-host.invalid:7781"], b"").await;
        assert_eq!(nowhere.code, Some(7), "{nowhere:?}");
        assert!(String::from_utf8_lossy(&nowhere.out).contains("no-such-host.invalid"), "{nowhere:?}");
    })
    .await;
}

/// The settings of a node of the cluster, changed, as those of another that is started on its own.
struct Spare {
    settings: toml::Table,
    file: PathBuf,
    memory: ScratchDir,
}

impl Spare {
    fn of(stage: &Stage) -> Self {
        let text = fs::read_to_string(stage.dir().join("node-1/node.toml")).expect("a node has settings");
        let mut settings: toml::Table = text.parse().expect("they are TOML");
        let memory = ScratchDir::create(Path::new("/dev/shm")).expect("a directory");
        settings.insert("name".to_owned(), "spare".into());
        settings["buffer"]["memory"]["dir"] = memory.path().join("memory").display().to_string().into();
        settings["buffer"]["disk"]["dir"] = memory.path().join("disk").display().to_string().into();
        for key in ["listen", "admin"] {
            let port = free_port().expect("a port").addr().to_string();
            settings.insert(key.to_owned(), port.into());
        }
        settings.remove("advertise");
        Self { settings, file: stage.dir().join("spare.toml"), memory }
    }

    async fn refused(&self, change: impl FnOnce(&mut toml::Table), code: i32, parts: &[&str]) {
        let mut settings = self.settings.clone();
        change(&mut settings);
        fs::write(&self.file, settings.to_string()).expect("it can be written");
        let mut command = command(["node", "--config"]);
        command.arg(&self.file);
        run_piculet(command, b"").await.failed(code, parts);
    }
}

#[tokio::test]
async fn a_node_that_cannot_start_says_why() {
    let setup = Setup { store: StoreKind::Directory, ..Setup::default() };
    with_stage(setup, async |stage| {
        run(stage, &["append", "orders", "--create"], b"one\n").await.ok();
        let spare = Spare::of(stage);
        let memory = |settings: &mut toml::Table, key: &str, value: toml::Value| {
            settings["buffer"]["memory"][key] = value;
        };
        let taken = fs::read_to_string(stage.dir().join("node-1/node.toml")).expect("a node has settings");
        let taken: toml::Table = taken.parse().expect("they are TOML");
        let dir = taken["buffer"]["memory"]["dir"].clone();
        let named = dir.as_str().expect("a path").to_owned();
        spare.refused(|s| memory(s, "dir", dir), 1, &[&named, "in use by another process"]).await;
        spare.refused(|s| memory(s, "bytes", "15TiB".into()), 1, &["no room", "buffer.memory.bytes"]).await;
        let listen = taken["listen"].clone();
        let named = listen.as_str().expect("an address").to_owned();
        spare.refused(|s| s["listen"] = listen, 1, &[&named, "in use"]).await;
        let admin = taken["admin"].clone();
        let named = admin.as_str().expect("an address").to_owned();
        spare.refused(|s| s["admin"] = admin, 1, &[&named, "in use"]).await;
        spare.refused(|s| drop(s.insert("bufer".to_owned(), 1.into())), 2, &["bufer", "spare.toml"]).await;
        spare.refused(|s| s["metadata"] = "zookeeper://a".into(), 1, &["zookeeper://a", "etcd://"]).await;
        let nowhere = stage.dir().join("file");
        fs::write(&nowhere, "").expect("it can be written");
        let store = format!("file://{}/objects", nowhere.display());
        spare.refused(|s| s["store"] = store.clone().into(), 1, &[&store]).await;
        assert!(fs::read_dir(spare.memory.path()).is_ok(), "the spare's own directory is untouched");
        all_is_well(stage).await;
    })
    .await;
}

/// Metadata or a store that nobody serves: the start waits for a while, then says so.
#[tokio::test]
async fn a_node_whose_metadata_or_store_are_unreachable_says_so() {
    with_stage(Setup { store: StoreKind::Directory, ..Setup::default() }, async |stage| {
        let (spare, other) = (Spare::of(stage), Spare::of(stage));
        let other = Spare { file: stage.dir().join("other.toml"), ..other };
        let nobody = free_port().expect("a port").addr();
        let (etcd, s3) = (format!("etcd://{nobody}/x"), format!("http://{nobody}"));
        let store = |settings: &mut toml::Table| {
            settings["store"] = "s3://bucket/x".into();
            let options =
                [("endpoint", s3.as_str().into()), ("region", "a".into()), ("allow_http", true.into())];
            let options: toml::Table = options
                .map(|(key, value): (&str, toml::Value)| (key.to_owned(), value))
                .into_iter()
                .collect();
            settings.insert("store_options".to_owned(), options.into());
        };
        let away = [etcd.as_str(), "cannot join the cluster"];
        tokio::join!(
            spare.refused(|s| s["metadata"] = etcd.clone().into(), 1, &away),
            other.refused(store, 1, &["s3://bucket/x", "cannot be used"]),
        );
    })
    .await;
}

/// Random datagrams are no reason to stop, nor to say anything at length.
#[tokio::test]
async fn a_node_takes_no_notice_of_datagrams_that_are_no_quic() {
    with_stage(Setup { store: StoreKind::Directory, ..Setup::default() }, async |stage| {
        run(stage, &["append", "orders", "--create"], b"one\n").await.ok();
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let before = stage.log(0).len();
        for n in 0..500_u32 {
            let datagram = piculet_tests::payload(n.into(), 1, 20 + n as usize * 2);
            socket.send_to(&datagram, &stage.addresses()[0]).expect("it is sent");
        }
        all_is_well(stage).await;
        assert!(stage.log(0).len() < before + 2000, "the log is not flooded");
    })
    .await;
}
