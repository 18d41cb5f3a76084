//! What commands print: text for people, JSON for programs.

use clap::ValueEnum;
use serde::Serialize;
use std::io::{self, Write};

/// The form of what a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people; its form may change.
    #[default]
    #[value(alias = "raw")]
    Text,
    /// For programs: one document, or one object per line where results come one by one.
    Json,
}

/// Something that a command prints in either form. Its fields are the JSON schema, which
/// docs/CLI.md describes.
pub(crate) trait Show: Serialize {
    /// Writes it for people.
    ///
    /// # Errors
    /// When it cannot be written.
    fn text(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// Says something to a person, on the standard error.
pub(crate) fn say(text: &str) {
    // There is nobody to tell when the standard error is gone; the exit code is left.
    let _ = writeln!(io::stderr(), "{text}");
}

impl Output {
    /// Prints a result, or one of several.
    ///
    /// # Errors
    /// When the standard output takes no more.
    pub(crate) fn show(self, what: &impl Show) -> io::Result<()> {
        let mut out = io::stdout().lock();
        self.write(what, &mut out)?;
        out.flush()
    }

    /// Writes a result, or one of several.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(self, what: &impl Show, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Text => what.text(out),
            Self::Json => {
                serde_json::to_writer(&mut *out, what)?;
                out.write_all(b"\n")
            }
        }
    }
}
