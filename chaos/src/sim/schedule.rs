//! What is to go wrong in a run, drawn from its seed before it starts: faults at moments, and
//! hazards that may strike any message. Each can be left out without a change to the others, so
//! that a failing run can be shortened.

use super::rng::Rng;
use super::world::MS;
use std::fmt;

/// Faults happen up to this moment, counted from the start.
pub(crate) const FAULTS_END: u64 = 5_000 * MS;

/// Something that goes wrong at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// One stream breaks.
    BreakLink,
    /// A node's process is killed; what it holds survives it.
    KillNode,
    /// All node processes are killed at one moment.
    KillAllNodes,
    /// A node's machine crashes: at `memory` its buffer is gone, at `disk` what was not synced.
    CrashMachine,
    /// All machines lose power. At `memory`, where that is not survived, the processes are killed.
    PowerCut,
    /// A node comes back without its disk or its machine's memory.
    LoseBuffer,
    /// A node's process stands still.
    PauseNode,
    /// A node's uploads stand still.
    StallUploads,
    /// The network does not reach a node.
    Isolate,
    /// Everything to and from a node is slow.
    Lag,
    /// A client stands still.
    PauseClient,
    /// A client is gone, and often another comes.
    CrashClient,
    /// A client that takes over is gone, and another comes.
    CrashTaker,
    /// A client takes over although the writer is there.
    Rival,
    /// Two clients take over at one moment.
    TwoRivals,
    /// The metadata store does not answer.
    MetaAway,
    /// The metadata store forgets its history: watches must start over.
    Compact,
    /// A node's lease ends although its process runs.
    LeaseEnds,
    /// The object store fails in most cases.
    ObjectsAway,
}

/// Each fault with its weight.
const WEIGHTS: [(Fault, u64); 19] = [
    (Fault::BreakLink, 16),
    (Fault::KillNode, 10),
    (Fault::KillAllNodes, 2),
    (Fault::CrashMachine, 9),
    (Fault::PowerCut, 2),
    (Fault::LoseBuffer, 7),
    (Fault::PauseNode, 11),
    (Fault::StallUploads, 3),
    (Fault::Isolate, 8),
    (Fault::Lag, 6),
    (Fault::PauseClient, 8),
    (Fault::CrashClient, 5),
    (Fault::CrashTaker, 4),
    (Fault::Rival, 6),
    (Fault::TwoRivals, 2),
    (Fault::MetaAway, 5),
    (Fault::Compact, 4),
    (Fault::LeaseEnds, 5),
    (Fault::ObjectsAway, 4),
];

/// A fault with its moment and its particulars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Planned {
    /// When, counted from the start, in microseconds.
    pub(crate) at: u64,
    pub(crate) fault: Fault,
    /// Which node, client or stream, modulo how many there are.
    pub(crate) pick: u64,
    /// How long it lasts, in thousandths of what is usual at most.
    pub(crate) span: u64,
}

macro_rules! hazards {
    ($($(#[$doc:meta])* $name:ident = $rate:literal,)*) => {
        /// Something that may strike any message of its kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Hazard {
            $($(#[$doc])* $name,)*
        }

        /// Each hazard, with how many of a thousand messages it strikes.
        const HAZARDS: &[(Hazard, u64)] = &[$((Hazard::$name, $rate),)*];
    };
}

hazards! {
    /// A message takes long.
    LongDelay = 20,
    /// A request to a node is lost.
    CallLost = 20,
    /// A node's answer is lost.
    AnswerLost = 20,
    /// A metadata request is lost.
    MetaLost = 40,
    /// A metadata request is carried out long after it was given up.
    MetaLate = 50,
    /// A metadata request is carried out and its answer lost.
    MetaAnswerLost = 60,
    /// The watch of a node tells late.
    WatchLate = 20,
    /// An upload fails, and nothing was stored.
    PutFails = 40,
    /// An upload is refused because of another one at that moment.
    PutConflicts = 25,
    /// An upload times out, and was stored all the same.
    PutUntold = 60,
    /// An upload times out, and is stored long after.
    PutLate = 30,
    /// An upload is slow.
    PutSlow = 30,
    /// The transaction of a part lands long after.
    PartLate = 60,
    /// The answer to the transaction of a part is lost.
    PartUntold = 40,
    /// A sync takes long.
    SyncSlow = 40,
    /// The answer to the transaction of a node's start is lost.
    StartUntold = 150,
    /// The transaction of a node's start is lost.
    StartLost = 80,
    /// The deletion of a trimmed segment lands late.
    TrimLate = 150,
    /// The transaction of a loss lands late.
    LossLate = 150,
    /// At level `memory`, a node's process is killed between two stores.
    KilledStoring = 12,
    /// Somebody who is counted as a holder loses its buffer while the transaction that says so is late.
    HolderLost = 600,
}

/// Everything that is to go wrong in one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    pub(crate) faults: Vec<Planned>,
    /// Which hazards strike, by their place in [`HAZARDS`].
    pub(crate) hazards: Vec<bool>,
}

/// The hazards of one run, each with a generator of its own.
pub(crate) struct Hazards(Vec<(bool, Rng)>);

impl Hazards {
    pub(crate) fn strikes(&mut self, hazard: Hazard) -> bool {
        let (on, rng) = &mut self.0[hazard as usize];
        *on && rng.chance(HAZARDS[hazard as usize].1)
    }
}

impl Schedule {
    /// What the seed brings.
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = Rng::stream(seed, 1);
        let total: u64 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        // Some runs are calm, in others one fault comes upon the other.
        let gap = rng.between(60, 400) * MS;
        let mut faults = Vec::new();
        let mut at = 50 * MS;
        while at < FAULTS_END {
            let mut drawn = rng.between(0, total);
            let fault = WEIGHTS.iter().find(|(_, weight)| {
                let found = drawn < *weight;
                drawn = drawn.saturating_sub(*weight);
                found
            });
            let fault = fault.expect("drawn below the sum of the weights").0;
            faults.push(Planned { at, fault, pick: rng.next() >> 32, span: rng.between(20, 1000) });
            at += rng.between(MS, gap);
        }
        let hazards = HAZARDS.iter().map(|_| rng.chance(850)).collect();
        Self { seed, faults, hazards }
    }

    /// The generators of its hazards.
    pub(crate) fn hazards(&self) -> Hazards {
        let stream = |(at, on): (usize, &bool)| (*on, Rng::stream(self.seed, 100 + at as u64));
        Hazards(self.hazards.iter().enumerate().map(stream).collect())
    }

    /// How many things can be left out.
    pub(crate) fn len(&self) -> usize {
        self.faults.len() + self.hazards.iter().filter(|on| **on).count()
    }

    /// The schedule with only those of its things, by place, that are to be kept.
    pub(crate) fn only(&self, keep: impl Fn(usize) -> bool) -> Self {
        let mut place = 0;
        let mut kept = || {
            place += 1;
            keep(place - 1)
        };
        let faults = self.faults.iter().copied().filter(|_| kept()).collect();
        let hazards = self.hazards.iter().map(|on| *on && kept()).collect();
        Self { seed: self.seed, faults, hazards }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Planned { at, fault, pick, span } in &self.faults {
            writeln!(f, "{:>9.3} ms {fault:?}, pick {pick}, span {span}", *at as f64 / MS as f64)?;
        }
        let on = HAZARDS.iter().zip(&self.hazards).filter(|(_, on)| **on);
        let on: Vec<String> = on.map(|((hazard, _), _)| format!("{hazard:?}")).collect();
        write!(f, "hazards: {}", if on.is_empty() { "none".to_owned() } else { on.join(", ") })
    }
}
