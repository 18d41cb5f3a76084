//! Progress of long work: a bar on a terminal, nothing in a pipe.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// A bar on the standard error, if that is a terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// No bar.
    #[must_use]
    pub(crate) fn hidden() -> Self {
        Self { bar: ProgressBar::hidden() }
    }

    /// Progress in bytes, out of `total` where that is known.
    #[must_use]
    pub(crate) fn bytes(what: &'static str, total: Option<u64>) -> Self {
        let template = match total {
            Some(_) => "{msg} {bytes} of {total_bytes} [{wide_bar}] {bytes_per_sec}, {eta} left",
            None => "{spinner} {msg} {bytes}, {bytes_per_sec}",
        };
        Self::new(what, total, template)
    }

    /// Progress in entries, of which there is no telling yet how many there will be.
    #[must_use]
    pub(crate) fn entries(what: &'static str) -> Self {
        Self::new(what, None, "{spinner} {msg} {human_pos} entries, {per_sec}")
    }

    /// It is known now how many entries there will be.
    pub(crate) fn out_of(&self, total: u64) {
        let template = "{msg} {human_pos} of {human_len} entries [{wide_bar}] {per_sec}, {eta} left";
        self.bar.set_style(ProgressStyle::with_template(template).expect("the template is fixed"));
        self.bar.set_length(total);
    }

    fn new(what: &'static str, total: Option<u64>, template: &'static str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::hidden();
        }
        let style = ProgressStyle::with_template(template).expect("the template is fixed");
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        Self { bar: bar.with_style(style).with_message(what) }
    }

    /// Whether anybody sees it.
    #[must_use]
    pub(crate) fn is_seen(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// So much is done.
    pub(crate) fn set(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Does something that writes to the terminal, with the bar out of the way.
    pub(crate) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// Removes the bar.
    pub(crate) fn done(&self) {
        self.bar.finish_and_clear();
    }
}

/// A number of bytes as people read it.
#[must_use]
pub(crate) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_readable() {
        let cases =
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (64 << 20, "64.0 MiB"), (3 << 30, "3.0 GiB")];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }
}
