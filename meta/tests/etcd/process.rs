//! An etcd process of one's own, with its data in a temporary directory.

use piculet_meta::{MetaOptions, Metadata, connect};
use piculet_quorum::meta::Key;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Bound on a start, and on anything else that a test waits for.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Etcd {
    process: Child,
    ports: [u16; 2],
    data: TempDir,
    /// Arguments beyond the usual.
    more: Vec<String>,
    tls: bool,
}

impl Etcd {
    /// Starts an empty etcd and waits until it serves.
    pub(super) fn start() -> Self {
        Self::start_with(false, &[])
    }

    /// The same with further arguments; with TLS if those say how.
    pub(super) fn start_with(tls: bool, more: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory can be made");
        let more: Vec<String> = more.iter().map(|&argument| argument.to_owned()).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ports = free_ports();
            let mut process = spawn(data.path(), ports, tls, &more);
            if wait_until_serving(&mut process, ports[0]) {
                return Self { process, ports, data, more, tls };
            }
            // Somebody else was faster to take a port.
            assert!(Instant::now() < deadline, "etcd does not start: {}", log(data.path()));
            std::fs::remove_dir_all(data.path().join("data")).expect("etcd made its directory");
        }
    }

    pub(super) fn url(&self) -> String {
        let scheme = if self.tls { "etcds" } else { "etcd" };
        format!("{scheme}://127.0.0.1:{}/tests/meta", self.ports[0])
    }

    pub(super) fn port(&self) -> u16 {
        self.ports[0]
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// A store on it that answers.
    pub(super) async fn connect(&self) -> Arc<dyn Metadata> {
        self.connect_with(&MetaOptions::default()).await
    }

    /// The same, reached with these options.
    pub(super) async fn connect_with(&self, options: &MetaOptions) -> Arc<dyn Metadata> {
        let store = connect(&self.url(), options).await.expect("url and options are fine");
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = store.read(&[Key::Cluster], &[]).await {
            assert!(Instant::now() < deadline, "etcd does not answer: {error}; {}", log(self.data.path()));
        }
        store
    }

    /// Stops it with SIGKILL.
    pub(super) fn kill(&mut self) {
        self.process.kill().expect("it is our own process");
        self.process.wait().expect("it is our own process");
    }

    /// Starts it again, with the same data on the same ports.
    pub(super) fn restart(&mut self) {
        self.process = spawn(self.data.path(), self.ports, self.tls, &self.more);
        assert!(
            wait_until_serving(&mut self.process, self.ports[0]),
            "etcd does not start again: {}",
            log(self.data.path())
        );
    }

    /// Holds it where it is: connections stay, nothing is answered.
    pub(super) fn pause(&self) {
        self.signal(libc::SIGSTOP);
        // The signal is only sent by now; a thread on another core may answer one more request.
        let what = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
        // SAFETY: siginfo_t is plain numbers, for which zeros are a value, and it outlives the call.
        let result = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, self.process.id(), &raw mut info, what)
        };
        assert_eq!(result, 0, "every thread of it stands still");
    }

    /// Lets it go on.
    pub(super) fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.process.id()).expect("a process id fits");
        // SAFETY: kill has no memory effects, and the process is a child that was not waited for.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "it is our own process");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have been killed by the test itself; then there is nothing left to do.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
}

fn spawn(dir: &Path, [client, peer]: [u16; 2], tls: bool, more: &[String]) -> Child {
    let scheme = if tls { "https" } else { "http" };
    let (client, peer) = (format!("{scheme}://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let log = std::fs::File::create(dir.join("log")).expect("the directory is ours");
    let mut command = Command::new(binary());
    command
        .arg("--data-dir")
        .arg(dir.join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        // A short election makes for a quick start, and for leases as short as a second.
        .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
        .arg("--unsafe-no-fsync")
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            // It goes with the thread that started it, however that ends.
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
    command.spawn().expect("etcd can be started")
}

/// Waits until it listens; false when it ended instead.
fn wait_until_serving(process: &mut Child, port: u16) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if process.try_wait().expect("it is our own process").is_some() {
            return false;
        }
        assert!(Instant::now() < deadline, "etcd does not listen within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

fn log(dir: &Path) -> String {
    let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    log.lines().rev().take(20).collect::<Vec<_>>().join("\n")
}

fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("PICULET_ETCD") {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "PICULET_ETCD names {named:?}, which is no file");
        return named;
    }
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/usr/bin/etcd");
    if unpacked.is_file() {
        return unpacked;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("etcd")).find(|file| file.is_file());
    found.expect("etcd not found: run `make setup`")
}
