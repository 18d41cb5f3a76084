//! Exhaustive exploration of one log: every order of everything that can happen to the shipped
//! machines, within the bounds of each configuration.
//!
//! `state` says what there is, `actions` what can happen, `nodes`, `writing`, `takeover`, `archive` and
//! `losing` how, `invariants` what must hold in every state, `configurations` within which bounds.
//! With the feature `mutations`, every guard of the machines is switched off in turn (`mutations`),
//! and some configuration must find a counterexample. An unoptimised build tries only the
//! smallest bounds; `PICULET_MODEL=deep` adds larger ones. An argument runs only the configurations
//! and mutations whose names contain it.

mod actions;
mod archive;
mod configurations;
mod invariants;
mod losing;
#[cfg(feature = "mutations")]
mod mutations;
mod nodes;
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

/// Tries everything within the bounds, or until the first invariant is broken.
fn explore(bounds: &Bounds, whole: bool) -> Found {
    #[expect(clippy::disallowed_types, reason = "see the import")]
    let begun = Instant::now();
    let threads = std::thread::available_parallelism().map_or(2, Into::into);
    let checker = bounds.clone().checker().threads(threads);
    let until = if whole { HasDiscoveries::All } else { HasDiscoveries::AnyFailures };
    let checker = checker.finish_when(until).spawn_bfs().join();
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
                found.path = path.into_actions();
                found.broken = Some((invariant, how, found.path.len()));
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

/// Whether every invariant holds within all bounds, and these situations are reached; prints what was
/// tried.
fn baseline(configurations: &[Bounds], must_reach: &[&'static str]) -> bool {
    let mut sound = true;
    let mut reached = BTreeSet::new();
    for bounds in configurations.iter().filter(|bounds| wanted(bounds.name)) {
        let found = explore(bounds, true);
        println!(
            "{:<16} {:>9} states, {:>8} unique, depth {:>3}, {:>6.1} s",
            bounds.name, found.states, found.unique, found.depth, found.seconds
        );
        if let Some((invariant, how, steps)) = found.broken {
            println!("  {invariant:?} BROKEN: {how}, in {steps} steps: {:?}", found.path);
            sound = false;
        }
        reached.extend(found.sometimes);
    }
    let named = std::env::args().skip(1).any(|argument| !argument.starts_with('-'));
    for missed in must_reach.iter().filter(|name| !named && !reached.contains(*name)) {
        println!("  NEVER: {missed}");
        sound = false;
    }
    sound
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    if cfg!(debug_assertions) {
        return if baseline(&configurations::SHORT, &[]) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let all: Vec<&str> = invariants::sometimes().iter().map(|situation| situation.name).collect();
    let mut sound = baseline(&configurations::ALL, &all);
    if std::env::var("PICULET_MODEL").is_ok_and(|how| how == "deep") {
        sound &= baseline(&configurations::DEEP, &[]);
    }
    #[cfg(feature = "mutations")]
    {
        sound &= mutations::all_are_caught();
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
