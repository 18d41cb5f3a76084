//! Bugs on demand: each mutation switches one guard of the machines off, so that a test can show
//! that somebody notices. Every one of them is a bug that some real system has shipped.
//!
//! Without the feature `mutations` there is nothing here to switch, and [`on`] is a constant.

macro_rules! mutations {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A guard that is missing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Mutation {
            $($(#[$doc])* $name,)*
        }

        impl Mutation {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

mutations! {
    /// A tail is reported to a takeover without fencing.
    TailUnfenced,
    /// An append is stored by a buffer that forgot what it held.
    AmnesiacAppends,
    /// A fence is answered by a buffer that forgot what it held.
    AmnesiacFences,
    /// A takeover takes the smallest tail.
    SmallestTail,
    /// A takeover takes the second largest tail.
    SecondTail,
    /// An end that one member holds is published as settled.
    OneCopySettles,
    /// A member that does not answer is counted as one that has forgotten.
    SilentIsGone,
    /// The holders of an end are counted by tails that may not be durable.
    HoldersByTail,
    /// The incarnations of the holders are not compared when an end is published.
    HoldersUnguarded,
    /// An uploader of a sealed segment takes its own tail for the end.
    UploadsOwnTail,
    /// A takeover that may lose entries ends a segment below what is archived.
    EndsBelowArchive,
    /// A takeover that may lose entries ends a segment below the trim offset.
    LossBelowTrim,
    /// A member of a sealed segment says what it holds, for a loss, without fencing.
    LossUnfenced,
    /// A loss is counted by tails that may not be durable.
    LossByTail,
    /// A loss is recorded in the epoch of the segment itself, whose writer may still append.
    LossInOwnEpoch,
    /// Parts of an open segment are uploaded beyond the commit.
    UploadsUncommitted,
    /// What is committed is freed, archived or not.
    FreesCommitted,
    /// A loss does not compare what is archived.
    LossIgnoresParts,
    /// A segment is deleted that the log is not trimmed to.
    DeletesUntrimmed,
    /// The fence is forgotten when a segment is dropped.
    FenceDropped,
    /// The fence does not survive a restart.
    FenceNotKept,
    /// A fence is answered before it is synced, so that a restart forgets it.
    FenceUnsynced,
    /// A reader is shown what one member has.
    ReaderTrustsOneTail,
    /// A reader is shown what lies below an end that is not settled.
    ReaderTrustsUnsettled,
    /// Repairs of an older takeover are accepted, and copies count as the writer's appends.
    StaleRepairsCount,
    /// A seal does not compare the records that it changes.
    SealsBlindly,
    /// A seal compares neither the records that it changes nor the one that it creates.
    SealsTwice,
    /// A roll does not compare the log's record.
    RollsBlindly,
    /// A roll seals at the commit, while entries are in flight.
    SealsUndrained,
    /// A writer goes on in a segment whose seal has an unknown outcome.
    GoesOnAfterSeal,
    /// A roll whose transaction failed is not proposed again.
    ProposesOnce,
    /// A writer takes a log for its own that has another's nonce.
    TakesOthersSuccess,
    /// A writer acknowledges what lies below an end that is not settled.
    AcksUnsettled,
    /// An outcome is read from an end that is not settled.
    OutcomeUnsettled,
    /// Entries that are not durable count as held.
    CountsUnsynced,
    /// An acknowledgement leaves after the fence.
    AcksAfterFence,
}

/// Whether this guard is missing. Only ever so in a test that asked for it.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
#[must_use]
pub const fn on(_: Mutation) -> bool {
    false
}

#[cfg(feature = "mutations")]
pub use switch::{Missing, on, without};

#[cfg(feature = "mutations")]
mod switch {
    use super::Mutation;
    use std::sync::atomic::{AtomicU8, Ordering};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    const NONE: u8 = u8::MAX;
    static ACTIVE: AtomicU8 = AtomicU8::new(NONE);
    static TURN: Mutex<()> = Mutex::new(());

    /// Whether this guard is missing now.
    #[must_use]
    pub fn on(mutation: Mutation) -> bool {
        ACTIVE.load(Ordering::Relaxed) == mutation as u8
    }

    /// As long as this lives, a guard is missing in the whole process, or none is; nobody else can
    /// change that meanwhile.
    #[derive(Debug)]
    pub struct Missing(#[expect(dead_code, reason = "held for its drop")] MutexGuard<'static, ()>);

    /// Switches one guard off, or none, once whoever did so before has finished.
    #[must_use]
    pub fn without(mutation: Option<Mutation>) -> Missing {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        ACTIVE.store(mutation.map_or(NONE, |mutation| mutation as u8), Ordering::SeqCst);
        Missing(turn)
    }

    impl Drop for Missing {
        fn drop(&mut self) {
            ACTIVE.store(NONE, Ordering::SeqCst);
        }
    }
}
