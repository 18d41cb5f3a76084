//! Several real processes on one file. A second one is this test program, started again with a task
//! in its environment.

use super::{OnSqlite, PATIENCE, everything, key, life, open, put};
use piculet_meta::{Metadata, WatchEvent};
use piculet_quorum::ids::{Incarnation, Revision};
use piculet_quorum::meta::{Range, Txn, TxnOutcome, Write};
use rusqlite::Connection;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

const TASK: &str = "PICULET_TEST_TASK";
const FILE: &str = "PICULET_TEST_FILE";
/// What the child's own output starts with, as against that of the test harness.
const SAYS: &str = "child: ";
/// Increments that each of two processes makes.
const INCREMENTS: u64 = 100;

/// Another process; killed when dropped.
struct Other {
    process: Child,
    output: std::io::Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(task: &str, file: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("this program has a path"))
            .args(["--exact", "sqlite::processes::does_its_task_when_it_is_the_other_process", "--nocapture"])
            .env(TASK, task)
            .env(FILE, file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        let output = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        Self { process, output }
    }

    /// The next number that it says.
    fn says(&mut self) -> u64 {
        let said = self.output.by_ref().find_map(|line| {
            let line = line.expect("its output is text");
            // The harness may have begun the line.
            line.split_once(SAYS).map(|(_, number)| number.parse().expect("it says numbers"))
        });
        said.expect("it goes on saying numbers")
    }

    /// With SIGKILL.
    fn kill(mut self) {
        self.process.kill().expect("it is our own process");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing left to do.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn say(number: u64) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{SAYS}{number}").expect("the parent listens");
    output.flush().expect("the parent listens");
}

/// Not a test of its own: without a task it does nothing.
#[tokio::test]
async fn does_its_task_when_it_is_the_other_process() {
    let (Ok(task), Some(file)) = (std::env::var(TASK), std::env::var_os(FILE)) else { return };
    let store = open(&PathBuf::from(file)).await;
    match task.as_str() {
        "put" => put_pairs(&*store).await,
        "increment" => {
            increment(&*store).await;
            say(INCREMENTS);
        }
        "lease" => hold_a_lease(&*store).await,
        other => panic!("no such task: {other}"),
    }
}

/// Puts pairs without end, and says which have been put.
async fn put_pairs(store: &dyn Metadata) {
    let from = everything(store).await.incarnation(&key("a")).map_or(0, |read| read.value.incarnation.0);
    for n in from + 1.. {
        store.commit(&put("a", n).put(key("z"), life(n))).await.expect("it is put");
        say(n);
    }
}

/// Increments by compare and swap.
async fn increment(store: &dyn Metadata) {
    let mut done = 0;
    while done < INCREMENTS {
        let read = everything(store).await.incarnation(&key("a"));
        let (n, at) = read.map_or((0, Revision(0)), |read| (read.value.incarnation.0, read.revision));
        match store.commit(&put("a", n + 1).when(key("a"), at)).await.expect("nobody holds it for long") {
            TxnOutcome::Applied(_) => done += 1,
            TxnOutcome::Refused => {}
        }
    }
}

async fn hold_a_lease(store: &dyn Metadata) {
    let lease = store.grant(Duration::from_secs(1)).await.expect("a lease is granted");
    let writes = vec![Write::PutLeased(key("a"), life(1), lease.id())];
    store.commit(&Txn { compares: vec![], writes }).await.expect("it is put");
    say(1);
    lease.lost().await;
}

/// Whatever was said to be put is there, nothing is there by half, and the file is sound.
#[tokio::test]
async fn a_process_killed_in_the_middle_of_commits_leaves_a_sound_database() {
    const ROUNDS: u64 = 8;
    let subject = OnSqlite::start().await;
    let path = subject.dir.path().join("meta.db");
    drop(subject.store);
    let mut last = 0;
    for round in 0..ROUNDS {
        let mut other = Other::start("put", &path);
        // Not always at the same distance from a checkpoint.
        let until = last + 5 + 37 * round;
        while last < until {
            last = other.says();
        }
        other.kill();
        let store = open(&path).await;
        let now = everything(&*store).await;
        let [a, z] = ["a", "z"].map(|name| now.incarnation(&key(name)).expect("it was put"));
        assert_eq!(a, z, "they were put together");
        assert!(a.value.incarnation >= Incarnation(last), "{last} was put, and {:?} is there", a.value);
        assert_eq!(a.revision.0, now.at.0, "the last thing that was done is the last that is there");
        let raw = Connection::open(&path).unwrap();
        let sound: String = raw.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
        last = a.value.incarnation.0;
    }
}

#[tokio::test]
async fn processes_do_not_undo_each_other() {
    let subject = OnSqlite::start().await;
    let mut other = Other::start("increment", &subject.dir.path().join("meta.db"));
    increment(&*subject.store).await;
    assert_eq!(other.says(), INCREMENTS);
    let now = everything(&*subject.store).await.incarnation(&key("a")).expect("it was put");
    assert_eq!(now.value.incarnation, Incarnation(2 * INCREMENTS));
}

/// Its records go, and those who watch see it.
#[tokio::test]
async fn a_killed_process_loses_its_leases() {
    let subject = OnSqlite::start().await;
    let mut watch = subject.store.watch(Range::All).await.expect("it can be watched");
    let mut next = async || tokio::time::timeout(PATIENCE, watch.next()).await.expect("an event comes");
    assert!(matches!(next().await, WatchEvent::Reset(_)));
    let mut other = Other::start("lease", &subject.dir.path().join("meta.db"));
    other.says();
    let WatchEvent::Changed { changes, .. } = next().await else { panic!("nothing was missed") };
    assert_eq!(changes[0].1.as_ref().map(|record| record.value.clone()), Some(life(1)));
    other.kill();
    let WatchEvent::Changed { changes, .. } = next().await else { panic!("nothing was missed") };
    assert_eq!(changes, [(key("a"), None)]);
}
