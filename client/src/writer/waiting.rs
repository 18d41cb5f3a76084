//! What the application waits for: acknowledgements, room, and a writer's end.

use super::state::{OpenBatch, Queued, Shared, State};
use crate::error::Error;
use piculet_quorum::ids::Offset;
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;

/// Room that makes a writer ready: a few batches' worth.
const READY_BYTES: u64 = 1 << 20;

impl Shared {
    /// Waits until everything taken before the call is acknowledged, or known to have been appended.
    pub(super) async fn flushed(&self) -> Result<(), Error> {
        let next = self.lock().next;
        self.until(&self.committed, |state| {
            if state.committed >= next {
                return Some(Ok(()));
            }
            state.ending.as_ref().and_then(|ending| ending.of(state.committed, next))
        })
        .await
    }

    /// Whether the entry at `offset` is acknowledged, or what became of it; if that is not known
    /// yet, the task is woken when it is.
    pub(super) fn poll_append(&self, taken: &Queued, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let offset = taken.last;
        let mut state = self.lock();
        if offset < state.committed {
            return Poll::Ready(Ok(()));
        }
        if let Some(result) = state.ending.as_ref().and_then(|ending| ending.of(offset, offset.plus(1))) {
            return Poll::Ready(result);
        }
        if taken.again {
            let waits = |(at, waker): &(Offset, Waker)| *at == offset && waker.will_wake(context.waker());
            if !state.again.iter().any(waits) {
                state.again.push((offset, context.waker().clone()));
            }
            return Poll::Pending;
        }
        let at = (offset.0 - state.committed.0) as usize;
        if state.waiters.len() <= at {
            state.waiters.resize(at + 1, None);
        }
        match &mut state.waiters[at] {
            Some(waker) if waker.will_wake(context.waker()) => {}
            slot => *slot = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Waits for room.
    pub(super) async fn ready(&self) {
        self.until(&self.room, |state| {
            let waiting = state.open.as_ref().map_or(0, OpenBatch::encoded) as u64;
            let room = state.writer.room() >= READY_BYTES + waiting;
            (state.ending.is_some() || room).then_some(())
        })
        .await;
    }

    /// Waits until the writer has closed, or stopped otherwise and all that can be known of its
    /// entries is known.
    pub(super) async fn closed(&self) -> Result<Offset, Error> {
        self.until(&self.committed, |state| {
            let ending = state.ending.as_ref().filter(|ending| ending.unresolved().is_none())?;
            if ending.is_closed() {
                return Some(Ok(state.committed));
            }
            // A writer that broke says why; one that was replaced says that it was.
            Some(Err(ending.refusal()))
        })
        .await
    }

    /// Waits until the writer has stopped.
    pub(super) async fn ended(&self) {
        self.until(&self.committed, |state| state.ending.as_ref().map(|_| ())).await;
    }

    /// Waits until the state says so, being told of changes by `told`.
    async fn until<T>(&self, told: &Notify, ready: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let notified = told.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if let Some(result) = ready(&self.lock()) {
                return result;
            }
            notified.await;
        }
    }
}
