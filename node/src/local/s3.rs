//! One S3 server on loopback, and how a node is told about an object store.

use super::presign::presigned;
use super::{LocalError, Port, Process, free_port, http, tools};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use time::OffsetDateTime;

const BUCKET: &str = "piculet";
/// SeaweedFS serves any region; clients must name one.
const REGION: &str = "us-east-1";
/// As long as the server may take to start. On an idle machine it takes about four seconds.
const LIMIT: Duration = Duration::from_secs(120);
/// The parts of SeaweedFS, each with a port for HTTP and one for gRPC. The last serves clients.
const PARTS: [&str; 4] = ["master", "volume", "filer", "s3"];

/// An object store as nodes are told about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// `file:///path` or `s3://bucket/prefix`.
    pub url: String,
    /// How an S3 store is reached, unless the environment says it.
    pub s3: Option<S3Access>,
}

/// How an S3 server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Access {
    /// `http://host:port`.
    pub endpoint: String,
    /// The region that clients name.
    pub region: String,
    /// The access key.
    pub access_key: String,
    /// The secret that goes with it.
    pub secret_key: String,
}

impl Store {
    /// A directory of this machine.
    #[must_use]
    pub fn directory(path: &Path) -> Self {
        Self { url: format!("file://{}", path.display()), s3: None }
    }
}

/// SeaweedFS with one bucket and one identity, its data in one directory. Dropping it kills it;
/// the data stay.
#[derive(Debug)]
pub struct S3Server {
    process: Process,
    // Behind `process`: the sockets are removed when the server is gone.
    _sockets: Sockets,
    ports: [Ports; PARTS.len()],
    access: S3Access,
}

#[derive(Debug)]
struct Ports {
    http: Port,
    grpc: Port,
}

impl Ports {
    fn reserve() -> Result<Self, LocalError> {
        Ok(Self { http: free_port()?, grpc: free_port()? })
    }
}

/// The sockets that SeaweedFS leaves in /tmp, whatever it is told, when it is killed.
#[derive(Debug)]
struct Sockets(Vec<PathBuf>);

impl Drop for Sockets {
    fn drop(&mut self) {
        for socket in &self.0 {
            // One that the server has not made, or has removed itself, is not there.
            let _ = fs::remove_file(socket);
        }
    }
}

impl S3Server {
    /// Starts the server on free ports, with fresh keys, and with data and log in `dir`; makes the
    /// bucket and waits until objects can be put there.
    ///
    /// # Errors
    /// When there is no `weed` on this machine, or it does not answer within two minutes.
    pub async fn start(dir: &Path) -> Result<Self, LocalError> {
        let program = tools::weed()?;
        let ports = [Ports::reserve()?, Ports::reserve()?, Ports::reserve()?, Ports::reserve()?];
        let access = S3Access {
            endpoint: format!("http://{}", ports[PARTS.len() - 1].http.addr()),
            region: REGION.to_owned(),
            access_key: random_key()?,
            secret_key: random_key()?,
        };
        let data = dir.join("seaweedfs");
        prepare(&data, &access).map_err(LocalError::io("prepare", data.display()))?;
        let socket = |(name, ports): (&str, &Ports)| {
            PathBuf::from(format!("/tmp/seaweedfs-{name}-grpc-{}.sock", ports.grpc.number()))
        };
        let sockets = Sockets(PARTS.into_iter().zip(&ports).map(socket).collect());
        let command = command(&program, &data, &ports);
        let process = Process::start("weed", command, &dir.join("weed.log")).await?;
        let mut server = Self { process, _sockets: sockets, ports, access };
        server.ready().await?;
        Ok(server)
    }

    /// How it is reached.
    #[must_use]
    pub fn access(&self) -> &S3Access {
        &self.access
    }

    /// Its bucket.
    #[must_use]
    pub fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// The store of one cluster: what lies under `prefix` in the bucket.
    #[must_use]
    pub fn store(&self, prefix: &str) -> Store {
        Store { url: format!("s3://{BUCKET}/{prefix}"), s3: Some(self.access.clone()) }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until the bucket is made and an object has been put there and deleted again.
    async fn ready(&mut self) -> Result<(), LocalError> {
        let (server, access) = (self.addr(), &self.access);
        let bucket = format!("/{BUCKET}");
        let probe = format!("{bucket}/probe");
        let done = |method, path| async move { succeeds(access, server, method, path).await };
        self.process.until("make a bucket", LIMIT, || done("PUT", &bucket)).await?;
        self.process.until("take an object", LIMIT, || done("PUT", &probe)).await?;
        self.process.until("delete an object", LIMIT, || done("DELETE", &probe)).await
    }

    fn addr(&self) -> SocketAddr {
        self.ports[PARTS.len() - 1].http.addr()
    }
}

async fn succeeds(access: &S3Access, server: SocketAddr, method: &str, path: &str) -> bool {
    let target = presigned(access, server, method, path, OffsetDateTime::now_utc());
    let answer = http::request(method, server, &target, "").await;
    // A bucket that is there already: made by a request whose answer was lost, or before a restart.
    answer.is_ok_and(|answer| (200..300).contains(&answer.status) || answer.body.contains("BucketAlready"))
}

/// Makes the data directory and the file that names the one identity.
fn prepare(data: &Path, access: &S3Access) -> io::Result<()> {
    fs::create_dir_all(data)?;
    let identities = serde_json::json!({ "identities": [{
        "name": "piculet",
        "credentials": [{ "accessKey": access.access_key, "secretKey": access.secret_key }],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }]});
    let file = data.join("s3.json");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    file.write_all(identities.to_string().as_bytes())
}

fn command(program: &Path, data: &Path, ports: &[Ports; PARTS.len()]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(data);
    command.args(["-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir=."]);
    for (part, ports) in PARTS.iter().zip(ports) {
        command.arg(format!("-{part}.port={}", ports.http.number()));
        command.arg(format!("-{part}.port.grpc={}", ports.grpc.number()));
    }
    // Small volumes, made on demand; no further listeners, and nothing reported to its makers.
    command.args(["-volume.max=50", "-master.volumeSizeLimitMB=256", "-master.telemetry=false"]);
    command.args(["-filer", "-filer.localSocket=filer.sock"]);
    command.args(["-s3", "-s3.localSocket=s3.sock", "-s3.config=s3.json"]);
    command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
    command
}

fn random_key() -> Result<String, LocalError> {
    let mut bytes = [0; 16];
    let filled = getrandom::fill(&mut bytes);
    filled.map_err(|error| {
        LocalError::io("get random bytes from", "the kernel")(io::Error::other(error.to_string()))
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::super::ScratchDir;
    use super::*;

    #[tokio::test]
    async fn local_s3_serves_its_bucket_to_its_identity_only_and_leaves_nothing_behind() {
        let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        let server = S3Server::start(dir.path()).await.expect("the server starts");
        let store = server.store("cluster");
        assert_eq!(store.url, format!("s3://{}/cluster", server.bucket()));
        assert_eq!(store.s3.as_ref(), Some(server.access()));

        let sign = |access: &S3Access, method| {
            presigned(access, server.addr(), method, "/piculet/object", OffsetDateTime::now_utc())
        };
        let put = http::request("PUT", server.addr(), &sign(server.access(), "PUT"), "bytes").await;
        assert_eq!(put.expect("an answer").status, 200);
        let found = http::get(server.addr(), &sign(server.access(), "GET")).await.expect("an answer");
        assert_eq!((found.status, found.body.as_str()), (200, "bytes"));
        let forger = S3Access { secret_key: "guessed".to_owned(), ..server.access().clone() };
        for target in ["/piculet/object".to_owned(), sign(&forger, "GET")] {
            assert_eq!(http::get(server.addr(), &target).await.expect("an answer").status, 403);
        }

        let running = PathBuf::from(format!("/proc/{}", server.pid()));
        let sockets = server._sockets.0.clone();
        assert!(running.exists() && sockets.iter().all(|socket| socket.exists()));
        drop(server);
        assert!(!running.exists() && !sockets.iter().any(|socket| socket.exists()));
    }
}
