//! Runs seeds, several at a time, and reports the first that fails.

use super::schedule::Schedule;
use super::shorten::shorten;
use super::tally::Tally;
use super::world::World;
use crate::Failure;
use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Seeds that once failed, or that showed a broken machine when few others did. They run first.
pub const KEPT_SEEDS: [u64; 15] =
    [4, 6, 16, 17, 36, 104, 126, 185, 533, 7_098, 10_416, 10_897, 21_774, 35_116, 301_081];
/// Every so many seeds, one is run twice: it must give the same trace.
const TWICE_EVERY: u64 = 50;
/// Events that are shown of a failing run.
const SHOWN_EVENTS: usize = 60;
/// With so many seeds, everything that can happen must have happened.
const EVENTFUL_SEEDS: u64 = 100;

/// Which seeds are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimOptions {
    /// The first of them.
    pub first: u64,
    /// How many follow each other from there.
    pub seeds: u64,
    /// How many are run at a time, each in a thread of its own.
    pub threads: usize,
}

/// Why a run has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// What was said, with the place in the code.
    pub(crate) why: String,
    /// The same for all that fail in the same way: the name of the invariant, or the place.
    pub(crate) class: String,
}

thread_local! {
    /// Whether panics of this thread are results of a run.
    static RUNS: Cell<bool> = const { Cell::new(false) };
    static BROKEN: RefCell<Option<Broken>> = const { RefCell::new(None) };
}

/// Panics inside of runs are kept, not printed, unless the program ends with them.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !RUNS.get() || cfg!(panic = "abort") {
                return before(info);
            }
            let said = info.payload_as_str().unwrap_or("a panic without words");
            let place = info.location().map_or(String::new(), ToString::to_string);
            let said_by_us = said.strip_prefix("assertion `left == right` failed: ").unwrap_or(said);
            let named = said_by_us.split_once(':').map(|(name, _)| name).filter(|name| name.len() <= 8);
            let class = named.map_or_else(|| place.clone(), str::to_owned);
            BROKEN.set(Some(Broken { why: format!("{said} ({place})"), class }));
        }));
    });
}

/// Runs one schedule.
pub(crate) fn attempt(
    schedule: &Schedule,
    recorder: Option<Box<dyn FnMut(String)>>,
) -> Result<Tally, Broken> {
    keep_panics();
    RUNS.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| World::new(schedule.clone(), recorder).run()));
    RUNS.set(false);
    result.map_err(|_| BROKEN.take().expect("the hook has kept why"))
}

/// Runs one seed, and calls `say` with every event of it.
///
/// # Errors
/// With what is broken.
pub fn trace(seed: u64, say: &mut dyn FnMut(&str)) -> Result<String, Failure> {
    let lines = Rc::new(RefCell::new(Vec::new()));
    let keeper = Rc::clone(&lines);
    let schedule = Schedule::of(seed);
    let result = attempt(&schedule, Some(Box::new(move |line| keeper.borrow_mut().push(line))));
    say(&schedule.to_string());
    lines.borrow().iter().for_each(|line| say(line));
    let tally = result.map_err(|broken| Failure(broken.why))?;
    Ok(summary(&tally))
}

/// Runs seeds, those that are kept first, and calls `say` about what goes on.
///
/// # Errors
/// With the seed of the first run that fails, what is broken in it, the shortest schedule found
/// that breaks it in the same way, and its last events.
pub fn run(options: &SimOptions, say: &mut dyn FnMut(&str)) -> Result<String, Failure> {
    let start = Instant::now();
    let wanted = options.first..options.first.saturating_add(options.seeds);
    let kept = KEPT_SEEDS.into_iter().filter(|_| options.seeds > 1);
    let seeds: Vec<u64> = kept.chain(wanted).collect();
    let (next, failed) = (AtomicUsize::new(0), AtomicU64::new(u64::MAX));
    let sum = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| {
                while failed.load(Ordering::Relaxed) == u64::MAX
                    && let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    match run_seed(*seed) {
                        Some(tally) => sum.lock().add(&tally),
                        None => failed.store(*seed, Ordering::Relaxed),
                    }
                }
            });
        }
    });
    match failed.into_inner() {
        u64::MAX => {}
        seed => return Err(Failure(describe(seed, say))),
    }
    let sum = sum.into_inner();
    let missing: Vec<_> = sum.counts().into_iter().filter(|(_, count)| *count == 0).collect();
    if options.seeds >= EVENTFUL_SEEDS && !missing.is_empty() {
        return Err(Failure(format!("no run had any: {missing:?}")));
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = seeds.len() as f64 / seconds;
    Ok(format!("{} seeds in {seconds:.1} s, {rate:.0} a second; {}", seeds.len(), summary(&sum)))
}

/// The first of these seeds that fails, what it breaks (the name of an invariant, or a place in the
/// code), and what was said of it.
#[must_use]
pub fn first_that_fails(seeds: std::ops::Range<u64>) -> Option<(u64, String, String)> {
    seeds.into_iter().find_map(|seed| {
        let Broken { why, class } = attempt(&Schedule::of(seed), None).err()?;
        Some((seed, class, why))
    })
}

/// What it amounted to, or none when it fails. Some are run twice.
fn run_seed(seed: u64) -> Option<Tally> {
    let schedule = Schedule::of(seed);
    let tally = attempt(&schedule, None).ok()?;
    if seed.is_multiple_of(TWICE_EVERY) && attempt(&schedule, None) != Ok(tally) {
        return None;
    }
    Some(tally)
}

fn summary(tally: &Tally) -> String {
    let counts: Vec<String> = tally.counts().iter().map(|(what, count)| format!("{count} {what}")).collect();
    format!("{}; trace {:016x}", counts.join(", "), tally.trace)
}

/// Tells how a seed fails: what is broken, the shortest schedule found, and the last events.
fn describe(seed: u64, say: &mut dyn FnMut(&str)) -> String {
    let whole = Schedule::of(seed);
    let Err(broken) = attempt(&whole, None) else {
        return format!("seed {seed} gives another trace each time");
    };
    say(&format!("seed {seed} fails: {}; making its schedule shorter", broken.class));
    let (short, attempts) =
        shorten(&whole, |schedule| attempt(schedule, None).is_err_and(|other| other.class == broken.class));
    let shown = Rc::new(RefCell::new(VecDeque::new()));
    let keeper = Rc::clone(&shown);
    let record = move |line: String| {
        let mut lines = keeper.borrow_mut();
        if lines.len() == SHOWN_EVENTS {
            lines.pop_front();
        }
        lines.push_back(line);
    };
    let why = match attempt(&short, Some(Box::new(record))) {
        Err(broken) => broken.why,
        Ok(_) => "it does not fail again: not deterministic".to_owned(),
    };
    let events: Vec<String> = shown.borrow().iter().cloned().collect();
    format!(
        "seed {seed} fails: {}\n\n{} of {} faults and hazards are needed ({attempts} runs):\n{short}\n\n\
         the last events of that shorter run, which ends so: {why}\n{}",
        broken.why,
        short.len(),
        whole.len(),
        events.join("\n")
    )
}
