//! Panics inside a step: whose assertion it was, and where.

use crate::state::Invariant;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Mutex, PoisonError};

thread_local! {
    /// Whether this thread is inside a step, whose panics are told and not printed.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// Where this thread panicked last.
    static PLACE: Cell<(Invariant, &'static str)> = const { Cell::new((Invariant::Model, "nowhere")) };
}

/// From here on, panics inside [`caught`] are noted instead of being printed.
pub(crate) fn note() {
    let print = take_hook();
    set_hook(Box::new(move |panic| {
        if !INSIDE.get() {
            return print(panic);
        }
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let what = panic.payload_as_str().unwrap_or("a panic");
        // A panic of the model itself proves nothing about the machines.
        let own = std::path::Path::new(file!()).parent().and_then(std::path::Path::to_str);
        let machine = own.is_some_and(|own| !place.starts_with(own));
        let invariant = if machine { Invariant::Assertion } else { Invariant::Model };
        PLACE.set((invariant, kept(format!("{place}: {what}"))));
    }));
}

/// Does one step; or says what panicked in it, and where.
pub(crate) fn caught<R>(step: impl FnOnce() -> R) -> Result<R, (Invariant, &'static str)> {
    INSIDE.set(true);
    let done = catch_unwind(AssertUnwindSafe(step));
    INSIDE.set(false);
    done.map_err(|_| PLACE.get())
}

/// One copy of each text, for as long as the process lives: states are many, places few.
fn kept(text: String) -> &'static str {
    static TEXTS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = texts.get(text.as_str()) {
        return known;
    }
    let text: &'static str = Box::leak(text.into_boxed_str());
    texts.insert(text);
    text
}
