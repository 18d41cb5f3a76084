//! Whether the things that a node depends on answer.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// One thing that the node depends on, as its last use showed it. An outage is logged when it
/// begins and when it ends, not at every attempt in between.
#[derive(Debug)]
pub struct Health {
    what: &'static str,
    down: AtomicBool,
}

impl Health {
    /// Something that is taken to work until it fails.
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        Self { what, down: AtomicBool::new(false) }
    }

    /// It failed while the node was `trying` something.
    pub fn failed(&self, trying: &str, error: &dyn fmt::Display) {
        if self.down.swap(true, Ordering::Relaxed) {
            tracing::debug!(trying, %error, "{} still fails", self.what);
        } else {
            tracing::warn!(trying, %error, "{} failed, trying again until it works", self.what);
        }
    }

    /// It did what it was asked.
    pub fn works(&self) {
        // Read first: this is called far more often than there are outages.
        if self.down.load(Ordering::Relaxed) && self.down.swap(false, Ordering::Relaxed) {
            tracing::info!("{} works again", self.what);
        }
    }

    /// Whether its last use succeeded.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }
}
