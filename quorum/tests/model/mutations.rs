//! Every guard is switched off in turn, and some configuration must notice.

use crate::actions::Bounds;
use crate::configurations::{
    ALLOWED, DISK, DISK_LOSS, DROPS, HASTY_ROLLS, LATE_ROLLS, LOSS, LOSS_AFTER_ROLL, LOSSES, PAIRS, PARTS,
    RACES, RESTARTS, ROLLS,
};
use crate::explore;
use piculet_quorum::mutation::{Mutation, without};

/// Each mutation with the configuration that notices it soonest.
const CAUGHT_BY: [(Mutation, Bounds); 28] = [
    (Mutation::TailUnfenced, RACES),
    (Mutation::AmnesiacAppends, LOSSES),
    (Mutation::AmnesiacFences, LOSSES),
    (Mutation::SmallestTail, RACES),
    (Mutation::SecondTail, RACES),
    (Mutation::OneCopySettles, LOSSES),
    (Mutation::SilentIsGone, LOSSES),
    (Mutation::HoldersByTail, DISK),
    (Mutation::HoldersUnguarded, LOSSES),
    (Mutation::EndsBelowArchive, ALLOWED),
    (Mutation::LossUnfenced, LOSS),
    (Mutation::LossInOwnEpoch, LOSS_AFTER_ROLL),
    (Mutation::UploadsOwnTail, PARTS),
    (Mutation::UploadsUncommitted, PARTS),
    (Mutation::FenceDropped, DROPS),
    (Mutation::FenceNotKept, RESTARTS),
    (Mutation::ReaderTrustsOneTail, RACES),
    (Mutation::ReaderTrustsUnsettled, LOSS),
    (Mutation::StaleRepairsCount, RACES),
    (Mutation::SealsBlindly, RACES),
    (Mutation::RollsBlindly, ROLLS),
    (Mutation::SealsUndrained, ROLLS),
    (Mutation::GoesOnAfterSeal, LATE_ROLLS),
    (Mutation::TakesOthersSuccess, ROLLS),
    (Mutation::AcksUnsettled, HASTY_ROLLS),
    (Mutation::OutcomeUnsettled, PAIRS),
    (Mutation::CountsUnsynced, DISK),
    (Mutation::AcksAfterFence, DISK_LOSS),
];

/// Whether every mutation is caught; prints by what.
pub(crate) fn all_are_caught() -> bool {
    // Machines that lack a guard stop at their assertions, which counts, and need not be shown.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut caught = true;
    for (mutation, bounds) in CAUGHT_BY.iter().filter(|(m, _)| crate::wanted(&format!("{m:?}"))) {
        let _missing = without(Some(*mutation));
        let found = explore(bounds, false);
        match &found.broken {
            Some((invariant, how, steps)) => println!(
                "{:<22} caught by {invariant:?} in {:<16} {:>9} states, {:>7} unique, {steps:>3} steps, {:>5.1} s: {how}",
                format!("{mutation:?}"),
                bounds.name,
                found.states,
                found.unique,
                found.seconds
            ),
            None => {
                println!("{mutation:?} NOT CAUGHT in {} after {} states", bounds.name, found.states);
                caught = false;
            }
        }
    }
    std::panic::set_hook(hook);
    caught
}
