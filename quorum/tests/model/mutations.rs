//! Every guard is switched off in turn, and some configuration must notice.

use crate::actions::Bounds;
use crate::configurations::{
    ALLOWED, DISK, DISK_LOSS, DISK_PAIR, DISK_PAIR_LOSS, DROPS, HASTY_ROLLS, LATE_ROLLS, LOSS,
    LOSS_AFTER_ROLL, LOSS_AND_PARTS, LOSSES, PAIRS, PARTS, RACES, RESTARTS, ROLLS,
};
use crate::state::Invariant;
use crate::{Tried, explore};
use piculet_quorum::mutation::{Mutation, without};
use std::collections::BTreeSet;

/// Those that the model cannot reach: it has no trims, and asks what can happen, not what must. The
/// simulator finds them.
const ONLY_SIMULATED: [Mutation; 3] =
    [Mutation::DeletesUntrimmed, Mutation::LossBelowTrim, Mutation::ProposesOnce];

/// Each mutation, with a configuration that notices it, and the invariant that it breaks there; some of
/// them break several.
const CAUGHT_BY: [(Mutation, Bounds, Invariant); 33] = [
    (Mutation::TailUnfenced, RACES, Invariant::I1),
    (Mutation::AmnesiacAppends, LOSSES, Invariant::I9),
    (Mutation::AmnesiacFences, LOSSES, Invariant::I9),
    (Mutation::SmallestTail, RACES, Invariant::I1),
    (Mutation::SecondTail, RACES, Invariant::I1),
    (Mutation::OneCopySettles, LOSSES, Invariant::I11),
    (Mutation::SilentIsGone, LOSSES, Invariant::I11),
    (Mutation::HoldersByTail, DISK, Invariant::I12),
    (Mutation::HoldersUnguarded, LOSSES, Invariant::I9),
    (Mutation::EndsBelowArchive, ALLOWED, Invariant::I5),
    (Mutation::LossUnfenced, LOSS, Invariant::I1),
    (Mutation::LossByTail, DISK_PAIR_LOSS, Invariant::I12),
    (Mutation::LossInOwnEpoch, LOSS_AFTER_ROLL, Invariant::I1),
    (Mutation::UploadsOwnTail, PARTS, Invariant::I5),
    (Mutation::UploadsUncommitted, PARTS, Invariant::I5),
    (Mutation::FreesCommitted, PARTS, Invariant::I8),
    (Mutation::LossIgnoresParts, LOSS_AND_PARTS, Invariant::I1),
    (Mutation::FenceDropped, DROPS, Invariant::I7),
    (Mutation::FenceNotKept, RESTARTS, Invariant::I7),
    (Mutation::FenceUnsynced, DISK_PAIR, Invariant::I1),
    (Mutation::ReaderTrustsOneTail, RACES, Invariant::I2),
    (Mutation::ReaderTrustsUnsettled, LOSS, Invariant::I1),
    (Mutation::StaleRepairsCount, RACES, Invariant::I2),
    (Mutation::SealsBlindly, RACES, Invariant::I4),
    (Mutation::SealsTwice, RACES, Invariant::I3),
    (Mutation::RollsBlindly, ROLLS, Invariant::I4),
    (Mutation::SealsUndrained, ROLLS, Invariant::I1),
    (Mutation::GoesOnAfterSeal, LATE_ROLLS, Invariant::I2),
    (Mutation::TakesOthersSuccess, ROLLS, Invariant::I6),
    (Mutation::AcksUnsettled, HASTY_ROLLS, Invariant::I11),
    (Mutation::OutcomeUnsettled, PAIRS, Invariant::I11),
    (Mutation::CountsUnsynced, DISK, Invariant::I7),
    (Mutation::AcksAfterFence, DISK_LOSS, Invariant::I1),
];

/// Finds out whether every mutation breaks its invariant; prints how. Another invariant proves that something is
/// wrong, but not that this guard is what stands between it and us.
pub(crate) fn all_are_caught(tried: &mut Tried) {
    let mut caught = BTreeSet::new();
    for mutation in Mutation::ALL {
        let listed = CAUGHT_BY.iter().any(|(by, ..)| by == mutation);
        if listed == ONLY_SIMULATED.contains(mutation) {
            println!("{mutation:?} must be in CAUGHT_BY or in ONLY_SIMULATED, and not in both");
            tried.unsound = true;
        }
    }
    for (mutation, bounds, invariant) in CAUGHT_BY.iter().filter(|(m, ..)| crate::wanted(&format!("{m:?}"))) {
        let _missing = without(Some(*mutation));
        let found = explore(bounds, &[Invariant::Model, *invariant]);
        tried.states += found.states;
        match &found.broken {
            Some((broken, how, steps)) if broken == invariant => {
                println!(
                    "{:<22} caught by {broken:?} in {:<16} {:>9} states, {:>7} unique, {steps:>3} steps, {:>5.1} s: {how}",
                    format!("{mutation:?}"),
                    bounds.name,
                    found.states,
                    found.unique,
                    found.seconds
                );
                caught.insert(*mutation as u8);
            }
            other => {
                println!(
                    "{mutation:?} NOT CAUGHT by {invariant:?} in {} after {} states, but: {other:?}",
                    bounds.name, found.states
                );
                tried.unsound = true;
            }
        }
    }
    tried.mutations = caught.len();
}
