//! A child process that cannot outlive its owner.

use super::LocalError;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

/// How often a process is asked whether it has ended or is ready.
const POLL: Duration = Duration::from_millis(10);
/// As much of a log as is searched for its last lines, in bytes.
const LOG_TAIL_BYTES: u64 = 64 << 10;
/// As many lines of a log as an error quotes.
const LOG_LINES: usize = 20;

/// What a process can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: end in good order.
    Terminate,
    /// SIGKILL: end at this instruction.
    Kill,
    /// SIGSTOP: freeze.
    Stop,
    /// SIGCONT: go on.
    Continue,
}

/// A running child process. Dropping it kills it with SIGKILL and waits until it is gone; should
/// this whole process die first, the kernel kills the child. It owns the child alone: a script must
/// `exec` what it ends in, or that lives on.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Owned,
    log: PathBuf,
}

/// A child that is killed and reaped when it is dropped.
#[derive(Debug)]
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // Both fail only when the child was reaped before, and then nothing is left to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until every thread of a child to which SIGSTOP was sent stands still, or it has ended: the
/// signal is only sent when `kill` returns, and a thread on another core may go on for a while.
///
/// # Errors
/// When it is no child of this process.
///
/// # Panics
/// When the process id is negative.
pub fn await_stop(pid: libc::pid_t) -> io::Result<()> {
    let id = libc::id_t::try_from(pid).expect("a process id is not negative");
    // Its end is not collected here: that is for those who watch it.
    let what = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
    loop {
        // SAFETY: siginfo_t is plain numbers, for which zeros are a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a siginfo_t that outlives the call.
        if unsafe { libc::waitid(libc::P_PID, id, &raw mut info, what) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

impl Process {
    /// Starts `command` with no input, its output appended to the file `log`, in a process group
    /// of its own: Ctrl-C on a terminal reaches the owner alone, who then stops its children in
    /// good order. `name` is for messages.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be run.
    pub async fn start(
        name: impl Into<String>,
        mut command: Command,
        log: &Path,
    ) -> Result<Self, LocalError> {
        let name = name.into();
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.map_err(LocalError::io("open the log", log.display()))?;
        let copy = file.try_clone().map_err(LocalError::io("open the log", log.display()))?;
        command.stdin(Stdio::null()).stdout(file).stderr(copy).process_group(0);
        let child = spawn(command).await.map_err(LocalError::io("start", &name))?;
        Ok(Self { name, child, log: log.to_path_buf() })
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// How it has ended, when it has.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, LocalError> {
        self.child.0.try_wait().map_err(LocalError::io("watch", &self.name))
    }

    /// Sends it a signal. After [`Signal::Stop`] it returns when all of its threads stand still.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<(), LocalError> {
        if let Some(status) = self.ended()? {
            return Err(self.ended_error(status));
        }
        let number = match signal {
            Signal::Terminate => libc::SIGTERM,
            Signal::Kill => libc::SIGKILL,
            Signal::Stop => libc::SIGSTOP,
            Signal::Continue => libc::SIGCONT,
        };
        let pid = libc::pid_t::try_from(self.pid()).expect("a process id is a pid_t");
        // SAFETY: no memory is involved. The pid is our child's: it has not been reaped, so the
        // kernel has not given the number to another process.
        if unsafe { libc::kill(pid, number) } != 0 {
            return Err(LocalError::io("signal", &self.name)(io::Error::last_os_error()));
        }
        if signal == Signal::Stop {
            await_stop(pid).map_err(LocalError::io("stop", &self.name))?;
        }
        Ok(())
    }

    /// Waits until it has ended by itself. Cancel-safe.
    ///
    /// # Errors
    /// When it has not within `limit`; it goes on then.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus, LocalError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out("end", limit));
            }
            sleep(POLL).await;
        }
    }

    /// Asks it to end and waits until it has; nothing happens when it has already.
    ///
    /// # Errors
    /// When it has not within `limit`; it is killed then.
    pub async fn stop(&mut self, limit: Duration) -> Result<ExitStatus, LocalError> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(Signal::Terminate)?;
        let ended = self.wait(limit).await;
        if ended.is_err() {
            self.kill()?;
        }
        ended
    }

    /// Kills it with SIGKILL, if it is running, and waits for its end, which is a matter of
    /// milliseconds. Blocks.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<ExitStatus, LocalError> {
        self.send_kill()?;
        self.child.0.wait().map_err(LocalError::io("reap", &self.name))
    }

    /// Sends it SIGKILL, and does not wait for its end.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn send_kill(&mut self) -> Result<(), LocalError> {
        self.child.0.kill().map_err(LocalError::io("kill", &self.name))
    }

    /// Asks `probe` again and again until it says yes. `awaited` completes the message "it did
    /// not …". Cancel-safe.
    ///
    /// # Errors
    /// When the process ends, or `limit` passes; with the last lines of its log.
    pub async fn until<F>(
        &mut self,
        awaited: &'static str,
        limit: Duration,
        mut probe: impl FnMut() -> F,
    ) -> Result<(), LocalError>
    where
        F: Future<Output = bool>,
    {
        let deadline = Instant::now() + limit;
        while !probe().await {
            if let Some(status) = self.ended()? {
                return Err(self.ended_error(status));
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out(awaited, limit));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// The last `n` lines of its log, of the last 64 KiB; or why they cannot be read.
    #[must_use]
    pub fn last_lines(&self, n: usize) -> String {
        last_lines(&self.log, n).unwrap_or_else(|error| format!("(it cannot be read: {error})"))
    }

    fn ended_error(&self, status: ExitStatus) -> LocalError {
        let (process, log) = (self.name.clone(), self.log.clone());
        LocalError::Ended { process, status, log, lines: self.last_lines(LOG_LINES) }
    }

    fn timed_out(&self, awaited: &'static str, limit: Duration) -> LocalError {
        let (process, log) = (self.name.clone(), self.log.clone());
        LocalError::TimedOut { process, awaited, limit, log, lines: self.last_lines(LOG_LINES) }
    }
}

fn last_lines(log: &Path, n: usize) -> io::Result<String> {
    let mut file = File::open(log)?;
    let start = file.metadata()?.len().saturating_sub(LOG_TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(n)..].join("\n"))
}

/// A child to be started, and where to hand it over.
struct Job {
    command: Command,
    started: oneshot::Sender<io::Result<Owned>>,
}

/// Starts a child that the kernel kills when this process dies.
///
/// The kernel does so when the *thread* ends that started the child, and a runtime's threads come
/// and go. So one thread starts them all, and lives as long as the process.
async fn spawn(mut command: Command) -> io::Result<Owned> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, mut queue) = mpsc::channel::<Job>(16);
        let work = move || {
            while let Some(mut job) = queue.blocking_recv() {
                // Nobody waits for it any more: the child is dropped, and so killed.
                let _ = job.started.send(job.command.spawn().map(Owned));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("spawner".to_owned()).spawn(work) {
            tracing::error!(%error, "cannot start the thread that starts processes");
        }
        jobs
    });
    die_with_parent(&mut command);
    let (started, child) = oneshot::channel();
    let gone = || io::Error::other("the thread that starts processes is not running");
    spawner.send(Job { command, started }).await.map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let between_fork_and_exec = move || {
        // SAFETY: plain system calls without pointers.
        let (set, now) =
            unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong), libc::getppid()) };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have died before the call.
        if u32::try_from(now) != Ok(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: the closure makes two system calls, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(between_fork_and_exec) };
}

#[cfg(test)]
mod tests {
    use super::super::ScratchDir;
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    async fn start(dir: &Path, script: &str) -> Process {
        Process::start("sh", shell(script), &dir.join("log")).await.expect("a shell starts")
    }

    #[tokio::test]
    async fn its_end_and_its_output_are_seen() {
        let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        let mut process = start(dir.path(), "echo one; echo two >&2; echo three; exit 3").await;
        assert_eq!(process.wait(LIMIT).await.expect("it ends").code(), Some(3));
        assert_eq!(process.last_lines(2), "two\nthree");
        let error = process.signal(Signal::Stop).expect_err("it has ended").to_string();
        assert!(error.contains("three"), "{error}");
        let error = process.until("appear", LIMIT, async || false).await.expect_err("it has ended");
        assert!(matches!(error, LocalError::Ended { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_is_none_is_an_error() {
        let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        let result = Process::start("ghost", Command::new("/no/such"), &dir.path().join("log")).await;
        let error = result.expect_err("no such program").to_string();
        assert!(error.contains("ghost"), "{error}");
    }

    #[tokio::test]
    async fn it_is_stopped_and_killed_when_it_does_not_listen() {
        let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        let mut deaf = start(dir.path(), "trap '' TERM; echo deaf; while :; do sleep 1; done").await;
        let log = dir.path().join("log");
        let heard = || async { last_lines(&log, 1).is_ok_and(|line| line == "deaf") };
        deaf.until("speak", LIMIT, heard).await.expect("it speaks");
        let error = deaf.stop(Duration::ZERO).await.expect_err("it does not listen");
        assert!(matches!(error, LocalError::TimedOut { .. }), "{error}");
        assert!(deaf.ended().expect("it is watched").is_some());
    }

    #[tokio::test]
    async fn nothing_is_left_when_it_is_dropped_even_frozen() {
        let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        let mut process = start(dir.path(), "exec sleep 1000").await;
        process.signal(Signal::Stop).expect("it is frozen");
        let proc = PathBuf::from(format!("/proc/{}", process.pid()));
        assert!(proc.exists());
        drop(process);
        assert!(!proc.exists());
    }

    /// The thread that asks for a child may end, as a runtime's threads do.
    #[test]
    fn it_outlives_the_thread_that_asked_for_it() {
        let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        let path = dir.path().to_path_buf();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async { start(&path, "exec sleep 1000").await })
        });
        let mut process = thread.join().expect("the thread ends");
        assert!(process.ended().expect("it is watched").is_none());
        process.signal(Signal::Terminate).expect("it still runs");
    }

    /// Run by the test below in a process of its own, which it kills.
    #[test]
    #[ignore = "waits to be killed"]
    fn parent() {
        let Ok(dir) = std::env::var("PICULET_TEST_DIR") else { return };
        let dir = Path::new(&dir);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let child = runtime.block_on(start(dir, "exec sleep 1000"));
        std::fs::write(dir.join("new"), child.pid().to_string()).expect("it can be written");
        std::fs::rename(dir.join("new"), dir.join("pid")).expect("it can be renamed");
        std::thread::sleep(Duration::from_secs(1000));
    }

    #[tokio::test]
    async fn it_dies_with_a_parent_that_is_killed() {
        let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--ignored", "--exact", "local::process::tests::parent"]);
        command.env("PICULET_TEST_DIR", dir.path());
        let log = dir.path().join("parent.log");
        let mut parent = Process::start("parent", command, &log).await.expect("it starts");
        let file = dir.path().join("pid");
        parent.until("start a child", LIMIT, || async { file.exists() }).await.expect("it does");
        let pid = std::fs::read_to_string(&file).expect("it is there");
        let child = PathBuf::from(format!("/proc/{pid}/cmdline"));
        let runs = || std::fs::read_to_string(&child).is_ok_and(|line| line.starts_with("sleep"));
        parent.until("have a sleeping child", LIMIT, || async { runs() }).await.expect("it has");
        parent.kill().expect("it is killed");
        let deadline = Instant::now() + LIMIT;
        while runs() {
            assert!(Instant::now() < deadline, "child {pid} lives on");
            sleep(POLL).await;
        }
    }
}
