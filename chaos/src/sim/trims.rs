//! Old entries that nobody wants any more: T4, T5, and the objects afterwards.

use super::events::Event;
use super::schedule::Hazard;
use super::store::LOG;
use super::upload::{ObjectName, name};
use super::world::{MS, World};
use piculet_quorum::ids::Offset;
use piculet_quorum::meta::trim::{TrimLog, delete_first_segment};
use piculet_quorum::meta::{Txn, TxnOutcome};

impl World {
    /// Trims to somewhere below what is visible.
    pub(crate) fn trim_tick(&mut self) {
        let period = self.rng.between(100 * MS, 900 * MS);
        self.schedule(period, Event::TrimTick);
        let (read, visible) = (self.store.now.trim(), self.truth.seen_to());
        if self.store.away || visible <= read.value.trim_offset.0 {
            return;
        }
        let to = Offset(self.rng.between(read.value.trim_offset.0, visible) + 1);
        let txn = TrimLog { log: LOG, read, to }.txn();
        let delay = self.cleaning_takes();
        self.schedule(delay, Event::TrimLands { txn });
    }

    fn cleaning_takes(&mut self) -> u64 {
        let late = self.strikes(Hazard::TrimLate);
        self.rng.between(MS, if late { 1_500 * MS } else { 5 * MS })
    }

    pub(crate) fn trim_lands(&mut self, txn: &Txn) {
        if !self.store.away && self.apply(txn) != TxnOutcome::Refused {
            self.run.trims += 1;
        }
    }

    /// Deletes the first segment, when it lies wholly below the trim offset.
    pub(crate) fn clean_tick(&mut self) {
        let period = self.rng.between(20 * MS, 200 * MS);
        self.schedule(period, Event::CleanTick);
        if self.store.away {
            return;
        }
        let now = &self.store.now;
        let first = now.first();
        let number = first.value.first_segment;
        let Some(segment) = now.segment(number) else { return };
        let Some(txn) = delete_first_segment(LOG, &first, &now.trim(), &segment) else { return };
        let parts = now.row(number).parts;
        let objects = parts.iter().map(|(first, part)| name(number, *first, part)).collect();
        let delay = self.cleaning_takes();
        self.schedule(delay, Event::CleanLands { txn, objects });
    }

    pub(crate) fn clean_lands(&mut self, txn: &Txn, objects: Vec<ObjectName>) {
        if !self.store.away && self.apply(txn) != TxnOutcome::Refused {
            self.run.deletions += 1;
            let delay = self.rng.between(MS, 50 * MS);
            self.schedule(delay, Event::ObjectsDeleted { objects });
        }
    }

    pub(crate) fn objects_deleted(&mut self, objects: &[ObjectName]) {
        for object in objects {
            self.objects.remove(object);
        }
    }
}
