//! The configurations: several small ones rather than a giant one, each with its own dangers.

use crate::actions::Bounds;
use piculet_quorum::ids::Level;

/// Nothing goes wrong, and nothing is done.
const QUIET: Bounds = Bounds {
    name: "",
    nodes: 3,
    level: Level::Memory,
    entries: (1, 0),
    takeovers: 0,
    crashes: 0,
    deaths: false,
    any_falls: false,
    restarts: 0,
    given_up: 0,
    suspicion: false,
    parts: false,
    losses: false,
    allow_loss: false,
    late: 0,
    late_answers: false,
    recoveries: 0,
    slow_acks: false,
};

/// Two takeovers race with the writer, and with each other.
pub(crate) const RACES: Bounds = Bounds { name: "races", entries: (2, 0), takeovers: 2, ..QUIET };
/// A buffer is lost during a takeover, whoever is slow is taken for gone, and the recovery starts over.
pub(crate) const LOSSES: Bounds = Bounds {
    name: "losses",
    entries: (2, 0),
    takeovers: 1,
    crashes: 1,
    deaths: true,
    suspicion: true,
    recoveries: 1,
    ..QUIET
};
/// The same with two takeovers.
pub(crate) const LOSSES_IN_RACES: Bounds =
    Bounds { name: "losses in races", takeovers: 2, crashes: 1, ..QUIET };
/// Two members, of which one is lost.
pub(crate) const PAIRS: Bounds = Bounds {
    name: "pairs",
    nodes: 2,
    takeovers: 2,
    crashes: 1,
    deaths: true,
    suspicion: true,
    recoveries: 1,
    ..QUIET
};
/// Answers to fences, and outcomes of seals, come late or never.
pub(crate) const LATE_ANSWERS: Bounds =
    Bounds { name: "late answers", takeovers: 2, late: 1, late_answers: true, ..QUIET };
/// A live writer gives members up and rolls, while it may be replaced.
pub(crate) const ROLLS: Bounds =
    Bounds { name: "rolls", nodes: 2, entries: (1, 1), takeovers: 1, given_up: 1, slow_acks: true, ..QUIET };
/// A roll whose outcome is not heard lands late.
pub(crate) const LATE_ROLLS: Bounds =
    Bounds { name: "late rolls", nodes: 2, entries: (2, 0), given_up: 1, late: 1, slow_acks: true, ..QUIET };
/// Three members, of which two are given up with entries in flight: a seal that is not settled.
pub(crate) const HASTY_ROLLS: Bounds =
    Bounds { name: "hasty rolls", takeovers: 0, crashes: 1, given_up: 2, slow_acks: true, ..QUIET };
/// Parts are uploaded, also late, and nodes free and drop what is archived; whoever is slow may be taken
/// for gone, and has less than the end.
pub(crate) const PARTS: Bounds = Bounds {
    name: "parts",
    nodes: 2,
    entries: (2, 0),
    takeovers: 1,
    suspicion: true,
    parts: true,
    late: 1,
    ..QUIET
};
/// Segments are dropped under a later takeover.
pub(crate) const DROPS: Bounds =
    Bounds { name: "drops", nodes: 2, entries: (0, 1), takeovers: 2, parts: true, ..QUIET };
/// Entries count once they are synced; a restart loses what was not.
pub(crate) const DISK: Bounds =
    Bounds { name: "disk", level: Level::Disk, takeovers: 1, restarts: 2, ..QUIET };
/// The same with two members.
pub(crate) const DISK_PAIR: Bounds = Bounds { name: "disk pair", nodes: 2, restarts: 1, ..DISK };
/// Nodes restart with all that they held.
pub(crate) const RESTARTS: Bounds = Bounds { name: "restarts", takeovers: 2, restarts: 1, ..QUIET };

/// The sole holder of an end that is not settled is lost, and the others have less.
pub(crate) const LOSS: Bounds = Bounds {
    name: "loss",
    entries: (2, 0),
    takeovers: 1,
    crashes: 1,
    suspicion: true,
    losses: true,
    ..QUIET
};
/// The same after a hasty roll, whose writer's appends arrive late and whose epoch nobody has raised: no
/// loss may be recorded at all.
pub(crate) const LOSS_AFTER_ROLL: Bounds = Bounds { name: "loss after a roll", losses: true, ..HASTY_ROLLS };
/// The sole holder of an end is lost where entries count once they are synced.
pub(crate) const DISK_LOSS: Bounds =
    Bounds { name: "disk loss", level: Level::Disk, entries: (1, 0), ..LOSS };
/// The same with two members, of which the other has some of it, and has not synced that.
pub(crate) const DISK_PAIR_LOSS: Bounds =
    Bounds { name: "disk pair loss", nodes: 2, entries: (2, 0), ..DISK_LOSS };
/// More is lost than the protocol makes up for, and the log allows that.
pub(crate) const ALLOWED: Bounds =
    Bounds { name: "allowed loss", takeovers: 1, crashes: 2, parts: true, allow_loss: true, ..QUIET };

/// Parts are uploaded one entry at a time, and recorded late, while a loss is.
pub(crate) const LOSS_AND_PARTS: Bounds =
    Bounds { name: "loss and parts", nodes: 2, parts: true, late: 1, ..LOSS };
/// A restart and a loss, where entries count once they are synced.
pub(crate) const DISK_RESTART_AND_LOSS: Bounds =
    Bounds { name: "disk restart+loss", entries: (1, 0), restarts: 1, ..DISK_PAIR_LOSS };
/// Parts are uploaded where entries count once they are synced.
pub(crate) const DISK_PARTS: Bounds = Bounds { name: "disk parts", parts: true, late: 1, ..DISK_PAIR };

/// What an unoptimised build has time for.
pub(crate) const SHORT: [Bounds; 3] = [
    Bounds { name: "short races", entries: (1, 0), ..RACES },
    Bounds { name: "short losses", entries: (1, 0), suspicion: false, recoveries: 0, ..LOSSES },
    DISK_PAIR,
];

/// All that run in an optimised one.
pub(crate) const ALL: [Bounds; 19] = [
    RACES,
    LOSSES,
    LOSSES_IN_RACES,
    PAIRS,
    LATE_ANSWERS,
    ROLLS,
    LATE_ROLLS,
    PARTS,
    DROPS,
    DISK,
    RESTARTS,
    LOSS,
    LOSS_AFTER_ROLL,
    DISK_LOSS,
    DISK_PAIR_LOSS,
    LOSS_AND_PARTS,
    DISK_RESTART_AND_LOSS,
    DISK_PARTS,
    ALLOWED,
];

/// Larger ones, for patient machines.
pub(crate) const DEEP: [Bounds; 5] = [
    Bounds { name: "deep races", entries: (2, 0), crashes: 1, any_falls: true, ..RACES },
    Bounds { name: "deep losses", any_falls: true, crashes: 2, ..LOSSES },
    Bounds { name: "deep pairs", entries: (2, 1), crashes: 2, ..PAIRS },
    Bounds { name: "deep rolls", nodes: 3, ..ROLLS },
    Bounds { name: "deep loss after a roll", takeovers: 1, ..LOSS_AFTER_ROLL },
];
