//! Nodes are killed at random moments, one at a time or all at once, while a writer appends and
//! readers follow.
//!
//! A process that is killed loses nothing of what its buffers held, so all may be killed at any
//! moment; one at a time is killed when three nodes hold the newest segment.

use crate::Failure;
use crate::check::{Summary, check};
use crate::clients::{Appending, follow, read_all, within};
use crate::history::{Event, Recorder};
use crate::random::Random;
use crate::site::{PATIENCE, Site};
use piculet_client::{Client, LogOptions};
use piculet_quorum::ids::{Level, LogName, Offset};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// The longest time from a whole cluster to a kill, and from a kill to a restart.
const MOMENT: Duration = Duration::from_millis(1500);
const READERS: usize = 2;

/// What is to happen.
#[derive(Clone, Debug)]
pub struct KillOptions {
    /// How often nodes are killed.
    pub rounds: u32,
    /// Whether all are killed at once, not one at a time.
    pub all: bool,
    /// The durability of the log.
    pub durability: Level,
    /// What all random choices come from.
    pub seed: u64,
    /// Directory that the history is written to, as `kill-SEED.jsonl`; it is made if it is missing.
    pub out: Option<PathBuf>,
}

/// Runs the scenario, and checks all that was seen. `say` is told what happens.
///
/// # Errors
/// When anything that is promised does not hold, or the processes cannot be started.
pub async fn run(options: &KillOptions, say: &mut dyn FnMut(&str)) -> Result<Summary, Failure> {
    let file = history_file(options)?;
    say(&format!(
        "seed {}, {} round(s): starting etcd, an S3 server and three nodes",
        options.seed, options.rounds
    ));
    let site = Site::start().await?;
    let recorder = Recorder::new(file.as_deref())?;
    if let Some(file) = &file {
        say(&format!("the history goes to {}", file.display()));
    }
    recorder.record(Event::Started { scenario: "kill".to_owned(), seed: options.seed })?;
    let mut scenario = Scenario::start(site, recorder, options).await?;
    for round in 1..=options.rounds {
        if options.all {
            scenario.round_of_all(round, options.rounds, say).await?;
        } else {
            scenario.round(round, options.rounds, say).await?;
        }
    }
    scenario.finish(say).await
}

fn history_file(options: &KillOptions) -> Result<Option<PathBuf>, Failure> {
    let Some(dir) = &options.out else { return Ok(None) };
    std::fs::create_dir_all(dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    Ok(Some(dir.join(format!("kill-{}.jsonl", options.seed))))
}

struct Scenario {
    site: Site,
    log: LogName,
    recorder: Recorder,
    random: Random,
    progress: watch::Receiver<Offset>,
    stop: watch::Sender<bool>,
    writer: JoinHandle<Result<(Offset, u32), Failure>>,
    readers: JoinSet<Result<(), Failure>>,
    end: watch::Sender<Option<Offset>>,
}

impl Scenario {
    async fn start(site: Site, recorder: Recorder, options: &KillOptions) -> Result<Self, Failure> {
        let KillOptions { seed, durability, .. } = *options;
        let log = LogName::new("chaos/kill")?;
        site.client.create_log_with(&log, LogOptions { durability, ..LogOptions::default() }).await?;
        let (progress, acknowledged) = watch::channel(Offset(0));
        let (stop, stopped) = watch::channel(false);
        let client = Client::connect(site.options()?).await?;
        let (name, notes) = (log.clone(), recorder.clone());
        let appending = Appending { client, log: name, seed, recorder: notes, progress, stop: stopped };
        let writer = tokio::spawn(appending.run());
        let (end, mut readers) = (watch::Sender::new(None), JoinSet::new());
        for number in 1..=READERS {
            let client = Client::connect(site.options()?).await?;
            let reader = format!("reader-{number}");
            readers.spawn(follow(client, log.clone(), recorder.clone(), reader, end.subscribe()));
        }
        let random = Random::new(seed, 2);
        Ok(Self { site, log, recorder, random, progress: acknowledged, stop, writer, readers, end })
    }

    /// One node is killed, and comes back.
    async fn round(&mut self, round: u32, rounds: u32, say: &mut dyn FnMut(&str)) -> Result<(), Failure> {
        self.site.whole(&self.log).await?;
        sleep(self.random.up_to(MOMENT)).await;
        let at = self.random.below(self.site.cluster.nodes().len() as u64) as usize;
        let node = self.site.name(at);
        self.site.cluster.kill_node(at)?;
        self.recorder.record(Event::Killed { node: node.clone() })?;
        let acknowledged = *self.progress.borrow();
        say(&format!("round {round} of {rounds}: killed {node} at offset {acknowledged}"));
        self.appends_go_on().await?;
        sleep(self.random.up_to(MOMENT)).await;
        self.site.cluster.start_node(at).await?;
        self.recorder.record(Event::Restarted { node: node.clone() })?;
        let more = self.progress.borrow().0 - acknowledged.0;
        say(&format!(
            "round {round} of {rounds}: restarted {node}; {more} appends were acknowledged meanwhile"
        ));
        Ok(())
    }

    /// All nodes are killed at once, and come back in the lives that they were in.
    async fn round_of_all(
        &mut self,
        round: u32,
        rounds: u32,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), Failure> {
        self.appends_go_on().await?;
        sleep(self.random.up_to(MOMENT)).await;
        let before = self.site.lives().await?;
        self.site.cluster.kill_all()?;
        let names: Vec<String> = (0..self.site.cluster.nodes().len()).map(|at| self.site.name(at)).collect();
        for node in &names {
            self.recorder.record(Event::Killed { node: node.clone() })?;
        }
        say(&format!("round {round} of {rounds}: killed all at offset {}", *self.progress.borrow()));
        sleep(self.random.up_to(MOMENT)).await;
        self.site.cluster.start_all().await?;
        for node in names {
            self.recorder.record(Event::Restarted { node })?;
        }
        let after = self.site.lives().await?;
        if after != before {
            return Err(format!("a life has ended: {before:?} before, {after:?} now").into());
        }
        self.appends_go_on().await?;
        say(&format!("round {round} of {rounds}: restarted all, in the same lives; appends go on"));
        Ok(())
    }

    /// Waits until appends that began after this call are acknowledged.
    async fn appends_go_on(&mut self) -> Result<(), Failure> {
        // More than can have been on their way.
        let wanted = self.progress.borrow().plus(200);
        let grown = async { self.progress.wait_for(|acknowledged| *acknowledged >= wanted).await.map(drop) };
        if within("appends go on", grown).await?.is_ok() {
            return Ok(());
        }
        let ended = (&mut self.writer).await?;
        Err(ended.err().unwrap_or_else(|| Failure("the writer has ended before its time".to_owned())))
    }

    /// Everything is whole again: the writer closes, the readers come to the end, the nodes' memory
    /// empties. Then the whole history is checked.
    async fn finish(mut self, say: &mut dyn FnMut(&str)) -> Result<Summary, Failure> {
        self.site.whole(&self.log).await?;
        self.stop.send_replace(true);
        let (end, takeovers) = within("the writer ends", &mut self.writer).await???;
        say(&format!("the writer has closed the log at offset {end}, after {takeovers} takeover(s)"));
        self.end.send_replace(Some(end));
        while let Some(ended) = within("the readers see the end", self.readers.join_next()).await? {
            ended??;
        }
        let log = self.site.archived(&self.log).await?;
        say(&format!("the readers have seen everything; all {} segments are archived", log.segments.len()));
        self.site.empty().await?;
        say("the memory of all nodes is empty; reading everything back from object storage");
        read_all(&self.site.client, &self.log, &self.recorder).await?;
        let complaints = self.site.complaints()?;
        if !complaints.is_empty() {
            return Err(format!("nodes complain:\n{}", complaints.join("\n")).into());
        }
        let checked = check(&self.recorder.history()?);
        let summary = checked.map_err(|violations| {
            let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
            Failure(format!("{} violation(s):\n{}", lines.len(), lines.join("\n")))
        })?;
        if summary.entries != end.0 {
            return Err(format!(
                "the log was closed at offset {end}, and {} entries were read",
                summary.entries
            )
            .into());
        }
        within("the nodes stop", self.site.cluster.stop()).await??;
        Ok(summary)
    }
}

const _: () = assert!(MOMENT.as_secs() < PATIENCE.as_secs(), "a moment passes before patience ends");
