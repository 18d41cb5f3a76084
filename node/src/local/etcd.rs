//! One etcd on loopback.

use super::{LocalError, Port, Process, Signal, free_port, http, tools};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// As long as etcd may take to start or to stop. On an idle machine each takes about a second.
const LIMIT: Duration = Duration::from_secs(60);

/// A single etcd with its data in one directory. Dropping it kills it; the data stay.
#[derive(Debug)]
pub struct Etcd {
    process: Process,
    program: PathBuf,
    dir: PathBuf,
    client: Port,
    peer: Port,
}

impl Etcd {
    /// Starts etcd on free ports, with data and log in `dir`, and waits until it answers.
    ///
    /// # Errors
    /// When there is no etcd on this machine, or it does not answer within a minute.
    pub async fn start(dir: &Path) -> Result<Self, LocalError> {
        let program = tools::etcd()?;
        let (client, peer) = (free_port()?, free_port()?);
        let process = launch(&program, dir, &client, &peer).await?;
        let mut etcd = Self { process, program, dir: dir.to_path_buf(), client, peer };
        etcd.ready().await?;
        Ok(etcd)
    }

    /// Where it serves, as Piculet is told it: `etcd://127.0.0.1:PORT`. A path may follow, the
    /// prefix of a cluster's keys.
    #[must_use]
    pub fn url(&self) -> String {
        format!("etcd://{}", self.client.addr())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Stops it. Ports and data are kept.
    ///
    /// # Errors
    /// When it does not end within a minute; it is killed then.
    pub async fn stop(&mut self) -> Result<(), LocalError> {
        self.process.stop(LIMIT).await.map(drop)
    }

    /// Stops it if it runs, starts it again on the same ports and data, and waits until it answers.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`stop`](Self::stop).
    pub async fn restart(&mut self) -> Result<(), LocalError> {
        self.stop().await?;
        self.process = launch(&self.program, &self.dir, &self.client, &self.peer).await?;
        self.ready().await
    }

    /// Freezes it: its connections stay open and nothing answers.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pause(&mut self) -> Result<(), LocalError> {
        self.process.signal(Signal::Stop)
    }

    /// Lets it go on after [`pause`](Self::pause).
    ///
    /// # Errors
    /// When it is not running.
    pub fn resume(&mut self) -> Result<(), LocalError> {
        self.process.signal(Signal::Continue)
    }

    async fn ready(&mut self) -> Result<(), LocalError> {
        let server = self.client.addr();
        let healthy = || async move {
            http::get(server, "/health").await.is_ok_and(|answer| answer.body.contains(r#""health":"true""#))
        };
        self.process.until("answer that it is healthy", LIMIT, healthy).await
    }
}

async fn launch(program: &Path, dir: &Path, client: &Port, peer: &Port) -> Result<Process, LocalError> {
    let (client, peer) = (format!("http://{}", client.addr()), format!("http://{}", peer.addr()));
    let mut command = Command::new(program);
    command.arg("--name=local").arg("--data-dir").arg(dir.join("etcd"));
    command.args(["--logger=zap", "--log-level=warn"]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.arg(format!("--initial-cluster=local={peer}"));
    Process::start("etcd", command, &dir.join("etcd.log")).await
}

#[cfg(test)]
mod tests {
    use super::super::ScratchDir;
    use super::*;

    /// etcd's own JSON gateway, with key and value in base64.
    async fn etcd_call(etcd: &Etcd, path: &str, body: &str) -> Result<String, LocalError> {
        Ok(http::request("POST", etcd.client.addr(), path, body).await?.body)
    }

    #[tokio::test]
    async fn local_etcd_keeps_its_data_and_ports_over_a_restart() {
        let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        let mut etcd = Etcd::start(dir.path()).await.expect("etcd starts");
        let (url, first) = (etcd.url(), etcd.pid());
        etcd_call(&etcd, "/v3/kv/put", r#"{"key":"a2V5","value":"dmFsdWU="}"#).await.expect("a put");
        etcd.restart().await.expect("etcd starts again");
        assert_eq!(etcd.url(), url);
        assert_ne!(etcd.pid(), first);
        let found = etcd_call(&etcd, "/v3/kv/range", r#"{"key":"a2V5"}"#).await.expect("a get");
        assert!(found.contains("dmFsdWU="), "{found}");

        let stat = PathBuf::from(format!("/proc/{}/stat", etcd.pid()));
        let frozen = || async { std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T ")) };
        etcd.pause().expect("it runs");
        etcd.process.until("freeze", LIMIT, frozen).await.expect("it is frozen");
        etcd.resume().expect("it is there");
        etcd.ready().await.expect("it goes on");

        let running = PathBuf::from(format!("/proc/{}", etcd.pid()));
        assert!(running.exists());
        etcd.stop().await.expect("it stops");
        assert!(!running.exists());
    }
}
