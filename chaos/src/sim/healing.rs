//! How a run ends: the faults stop, and everything must come to its end by itself. Each seed draws who
//! is left to bring it about.

use super::events::Event;
use super::loss::Losses;
use super::reader::Reader;
use super::rng::Rng;
use super::world::{MS, World};

/// So many appends a writer makes once the faults have stopped, before it closes.
pub(crate) const LAST_APPENDS: u64 = 200;

/// Who is left when the faults stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Healing {
    /// One last writer takes the log over, whatever the others are doing, appends, and closes.
    Replaced,
    /// Writers and takeovers that are under way go on: whoever is not fenced appends, and closes.
    GoesOn,
    /// Nobody: the nodes look after what was left behind.
    Abandoned,
}

impl Healing {
    /// What a seed draws.
    pub(crate) fn of(seed: u64) -> Self {
        match Rng::stream(seed, 4).between(0, 10) {
            0..4 => Self::Replaced,
            4..8 => Self::GoesOn,
            _ => Self::Abandoned,
        }
    }
}

impl World {
    /// The faults stop.
    pub(crate) fn heal(&mut self) {
        self.healing = true;
        self.store.away = false;
        for at in 0..self.nodes.len() {
            self.nodes[at].lag = 0;
            self.nodes[at].isolated = false;
        }
        self.faults.objects_away = false;
        let reader = self.readers.len();
        self.readers.push(Reader::new());
        self.schedule(0, Event::ReaderTick { reader });
        for at in 0..self.clients.len() {
            let client = &self.clients[at];
            let ends = match self.ends {
                // Whoever still takes over might do so after the last writer, and then crash no more.
                Healing::Replaced => client.takes_over(),
                Healing::GoesOn => false,
                Healing::Abandoned => !client.gone(),
            };
            if ends {
                self.end_client(at);
            }
        }
        match self.ends {
            Healing::Replaced => self.schedule(1_000 * MS, Event::LastWriter),
            Healing::GoesOn | Healing::Abandoned => self.schedule(50 * MS, Event::Verdict),
        }
    }

    pub(crate) fn last_writer(&mut self) {
        // Nobody forgets what the last writer has others hold.
        if self.losses == Losses::Any && self.nodes.iter().any(|node| !node.up) {
            return self.schedule(100 * MS, Event::LastWriter);
        }
        self.start_client();
        self.schedule(50 * MS, Event::Verdict);
    }
}
