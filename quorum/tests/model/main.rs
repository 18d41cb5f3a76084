//! Exhaustive exploration of one log: every order of everything that can happen to the shipped
//! machines, within the bounds of each configuration.
//!
//! `state` says what there is, `actions` what can happen, `nodes`, `writing`, `takeover`, `archive` and
//! `losing` how, `invariants` what must hold in every state, `configurations` within which bounds.
//! With the feature `mutations`, every guard of the machines is switched off in turn (`mutations`),
//! and a named configuration must find that a named invariant is broken. An unoptimised build tries only
//! the smallest bounds; `PICULET_MODEL=deep` adds larger ones, and `PICULET_MODEL=ci` fails when all of it
//! takes longer than it may in continuous integration. An argument runs only the configurations and
//! mutations whose names contain it. The last line says what was tried, on one line that can be quoted.

mod actions;
mod archive;
mod configurations;
mod invariants;
mod losing;
#[cfg(feature = "mutations")]
mod mutations;
mod nodes;
mod panics;
mod shared;
mod state;
mod store;
mod takeover;
mod writing;

use actions::{Action, Bounds};
use state::Invariant;
use stateright::{Checker, HasDiscoveries, Model};
use std::collections::BTreeSet;
use std::process::ExitCode;
#[expect(clippy::disallowed_types, reason = "how long it took is printed, and decides nothing")]
use std::time::Instant;

/// What an exploration found.
struct Found {
    states: usize,
    unique: usize,
    depth: usize,
    seconds: f32,
    /// The invariant that was broken, how, and after how many steps.
    broken: Option<(Invariant, &'static str, usize)>,
    path: Vec<Action>,
    sometimes: BTreeSet<&'static str>,
}

/// What a whole run has tried.
#[derive(Default)]
struct Tried {
    configurations: usize,
    states: usize,
    mutations: usize,
    /// Something was found that should not be, or not found that should.
    unsound: bool,
}

/// How long all configurations and mutations may take in continuous integration, in seconds: a budget of
/// this suite, so that it stays one that is run.
const BUDGET: f32 = 600.0;

/// Tries everything within the bounds, or until one of these invariants is broken; of several that are
/// found broken, the first of these is told.
fn explore(bounds: &Bounds, until: &[Invariant]) -> Found {
    #[expect(clippy::disallowed_types, reason = "see the import")]
    let begun = Instant::now();
    let threads = std::thread::available_parallelism().map_or(2, Into::into);
    let checker = bounds.clone().checker().threads(threads);
    let first = until.iter().map(|invariant| invariant.name()).collect();
    let first = if until.is_empty() { HasDiscoveries::All } else { HasDiscoveries::AnyOf(first) };
    let checker = checker.finish_when(first).spawn_bfs().join();
    let mut found = Found {
        states: checker.state_count(),
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        seconds: 0.0,
        broken: None,
        path: Vec::new(),
        sometimes: BTreeSet::new(),
    };
    for (name, path) in checker.discoveries() {
        match path.last_state().ghost.broken {
            Some((invariant, how)) => {
                let rank = |of| until.iter().position(|wanted| *wanted == of).unwrap_or(usize::MAX);
                if found.broken.is_none_or(|(known, ..)| rank(invariant) < rank(known)) {
                    found.path = path.into_actions();
                    found.broken = Some((invariant, how, found.path.len()));
                }
            }
            None => {
                found.sometimes.insert(name);
            }
        }
    }
    found.seconds = begun.elapsed().as_secs_f32();
    found
}

/// Whether a configuration or mutation of this name is to run.
fn wanted(name: &str) -> bool {
    let mut names = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
    names.peek().is_none() || names.any(|wanted| name.contains(&wanted))
}

/// Whether only some configurations or mutations are to run.
fn narrowed() -> bool {
    std::env::args().skip(1).any(|argument| !argument.starts_with('-'))
}

impl Tried {
    /// Finds out whether every invariant holds within all bounds, and these situations are reached; prints
    /// what was tried.
    fn baseline(&mut self, configurations: &[Bounds], must_reach: &[&'static str]) {
        let mut reached = BTreeSet::new();
        for bounds in configurations.iter().filter(|bounds| wanted(bounds.name)) {
            let found = explore(bounds, &[]);
            println!(
                "{:<16} {:>9} states, {:>8} unique, depth {:>3}, {:>6.1} s",
                bounds.name, found.states, found.unique, found.depth, found.seconds
            );
            if let Some((invariant, how, steps)) = found.broken {
                println!("  {invariant:?} BROKEN: {how}, in {steps} steps: {:?}", found.path);
                self.unsound = true;
            }
            self.configurations += 1;
            self.states += found.states;
            reached.extend(found.sometimes);
        }
        for missed in must_reach.iter().filter(|name| !narrowed() && !reached.contains(*name)) {
            println!("  NEVER: {missed}");
            self.unsound = true;
        }
    }

    /// Prints all of it on one line, and says how it ends.
    fn conclude(&self, seconds: f32) -> ExitCode {
        let Self { configurations, states, mutations, unsound } = self;
        println!(
            "model: {configurations} configurations, {states} states, {mutations} mutations caught, {seconds:.0} s"
        );
        let late = how("ci") && seconds > BUDGET;
        if late {
            println!("  TOO SLOW: it may take {BUDGET:.0} s; make the bounds smaller, or raise the budget");
        }
        if *unsound || late { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// Whether the environment asks for this form of the run.
fn how(form: &str) -> bool {
    std::env::var("PICULET_MODEL").is_ok_and(|how| how == form)
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    #[expect(clippy::disallowed_types, reason = "a budget of this suite, see above")]
    let begun = Instant::now();
    panics::note();
    let mut tried = Tried::default();
    if (how("ci") || how("deep")) && (cfg!(not(feature = "mutations")) || cfg!(debug_assertions)) {
        println!("PICULET_MODEL asks for everything: build it with --release --features mutations");
        return ExitCode::FAILURE;
    }
    if cfg!(debug_assertions) {
        tried.baseline(&configurations::SHORT, &[]);
        return tried.conclude(begun.elapsed().as_secs_f32());
    }
    let all: Vec<&str> = invariants::sometimes().iter().map(|situation| situation.name).collect();
    tried.baseline(&configurations::ALL, &all);
    if how("deep") {
        tried.baseline(&configurations::DEEP, &[]);
    }
    #[cfg(feature = "mutations")]
    mutations::all_are_caught(&mut tried);
    tried.conclude(begun.elapsed().as_secs_f32())
}
