//! Fences at rest: what the replicas raise is handed to the buffer of the log's level, and nothing
//! that rests on a fence is told before it is there.

use super::{Log, LogState};
use crate::core::Core;
use piculet_quorum::ids::{Epoch, Level, LogId};
use piculet_quorum::meta::{Key, Snapshot};
use piculet_quorum::wire::message::Refusal;
use piculet_storage::{Position, Synced};

/// The highest epoch that has fenced or written in a log, as the buffer knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    /// The epoch.
    pub epoch: Epoch,
    /// It is at rest once the buffer has synced so far.
    pub at: Position,
}

impl Log {
    /// Takes in a fence that the replica may just have raised, and says how far the buffer must have
    /// synced before anything is told that rests on it. Called under the lock that it was raised
    /// under.
    ///
    /// # Errors
    /// With a refusal when the buffer cannot take it: then nothing may be told.
    pub fn fence_at(&self, core: &Core, state: &mut LogState) -> Result<Position, Refusal> {
        let epoch = state.replica.fence_epoch();
        if epoch > state.fence.epoch
            && let Some(buffer) = core.buffer(self.level)
        {
            let at = buffer.put_fence(self.id, epoch).map_err(|error| {
                tracing::error!(log = %self.id, %epoch, %error, "a fence cannot be kept, so it is not answered");
                Refusal::Unavailable(error.to_string())
            })?;
            state.fence = Fence { epoch, at };
        }
        Ok(state.fence.at)
    }
}

impl Core {
    /// Waits until a level's buffer has synced so far, and what that makes durable counts. For ever
    /// when it fails: then the node answers nothing more. Cancel-safe.
    pub async fn until_at_rest(&self, level: Level, at: Position) {
        let Some(buffer) = self.buffer(level) else { return };
        if buffer.synced().wait_for(|synced| *synced >= at).await.is_err() {
            std::future::pending::<()>().await;
        }
        self.count_synced(level);
    }

    /// Lets everything count that a level's buffer has synced since the last time, and tells whoever
    /// waits for that.
    pub fn count_synced(&self, level: Level) {
        let Some(buffer) = self.buffer(level) else { return };
        for Synced { log, segment, index } in buffer.take_synced() {
            // One that is gone by now has been archived, or deleted.
            let Some(slot) = self.logs.get(log) else { continue };
            slot.lock().replica.persisted(segment, index);
            slot.synced.notify_waiters();
            slot.grown.notify_waiters();
        }
    }

    /// The logs that were fenced here in a later epoch than a snapshot of everything shows, with the
    /// epochs of those fences. That the log is deleted is no contradiction.
    #[must_use]
    pub fn fenced_beyond(&self, snapshot: &Snapshot) -> Vec<(LogId, Epoch)> {
        let mut fences: Vec<(LogId, Epoch)> =
            self.logs.fences.lock().iter().map(|(log, fence)| (*log, fence.epoch)).collect();
        fences.extend(self.logs.all().iter().map(|log| (log.id, log.lock().replica.fence_epoch())));
        let beyond = |(log, fence): &(LogId, Epoch)| {
            let record = snapshot.log(&Key::Log(*log)).map(|record| record.value);
            record.is_some_and(|record| record.deleted.is_none() && record.epoch < *fence)
        };
        fences.retain(beyond);
        fences
    }

    /// Gives back what is at rest of a log's fence.
    pub(super) fn forget_fence(&self, log: LogId) {
        for (_, live) in self.buffers() {
            live.buffer.forget_log(log);
        }
    }

    /// Keeps the fences of these logs alone.
    pub(super) fn forget_fences_but(&self, mut keep: impl FnMut(LogId) -> bool) {
        let mut gone = Vec::new();
        self.logs.fences.lock().retain(|log, _| {
            let kept = keep(*log);
            if !kept {
                gone.push(*log);
            }
            kept
        });
        for log in gone {
            self.forget_fence(log);
        }
    }
}
