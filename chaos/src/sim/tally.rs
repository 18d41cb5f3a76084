//! What a run amounted to: a simulation in which something never happens shows nothing about it.

macro_rules! tally {
    ($($name:ident: $what:literal,)*) => {
        /// How often things happened in one run, or in many together.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct Tally {
            $(pub(crate) $name: u64,)*
            /// Hash of all events; of several runs, of all of them.
            pub(crate) trace: u64,
        }

        impl Tally {
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
                self.trace ^= other.trace;
            }

            /// Everything that is counted, with its name.
            pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
                vec![$(($what, self.$name),)*]
            }
        }
    };
}

tally! {
    events: "events",
    acked: "acknowledged entries",
    segments: "segments",
    takeovers: "takeovers",
    crashed_takeovers: "takeovers that were abandoned half-way",
    rolls: "rolls",
    abandoned: "logs that nodes took for abandoned",
    guarded: "logs sealed by nodes",
    parks: "idle logs parked",
    kills: "processes killed",
    torn: "processes killed between two stores",
    killed_starts: "processes killed while they started",
    crashes: "buffers lost",
    power_cuts: "machines crashed at level disk",
    unsynced_losses: "restarts that found less than was written",
    rotten: "turned bits that a start would notice",
    unsettled: "ends with one holder",
    fenced: "writers fenced",
    overloads: "appends refused for want of memory",
    full: "appends refused for want of a chunk",
    copies: "copies",
    lost_members: "members given up",
    no_room: "appends put off for want of room",
    parts: "parts",
    repeated_puts: "objects put again",
    resignations: "uploaders that resigned",
    rereads: "watches that started over",
    trims: "trims",
    deletions: "segments deleted",
    trimmed_readers: "readers that were told of a trim",
    found: "appends of fenced writers that were found",
    losses: "losses of acknowledged entries",
    given_up: "acknowledged entries given up",
    t6: "losses recorded of sealed segments",
    told_of_loss: "readers told of a possible loss",
    skips: "parts that stand for a loss",
    tails: "answers where the tail is",
    cut_off: "appends of fenced writers that were cut off",
}
