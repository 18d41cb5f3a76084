//! `piculet version`.

use super::output::Show;
use super::{Failure, Output};
use clap::Args;
use piculet_quorum::meta::RECORD_FORMAT;
use piculet_quorum::wire::ALPN;
use piculet_storage::part::{PART_ENCODER, PART_FORMAT};
use serde::Serialize;
use std::io::{self, Write};

#[derive(Debug, Args)]
#[command(after_help = "\
Nodes and clients work together when their protocols are the same. A node reads what others have
written when its formats are the same.

Examples:
  piculet version
  piculet version --output json")]
pub(super) struct VersionArgs {}

/// What this program is, and what it speaks, writes and reads.
#[derive(Serialize)]
struct Version {
    version: &'static str,
    protocol: String,
    part_format: u32,
    part_encoder: u32,
    record_format: u32,
    target: String,
}

pub(super) fn run(_: &VersionArgs, output: Output) -> Result<(), Failure> {
    output.show(&Version {
        version: env!("CARGO_PKG_VERSION"),
        protocol: String::from_utf8_lossy(ALPN).into_owned(),
        part_format: PART_FORMAT,
        part_encoder: PART_ENCODER,
        record_format: RECORD_FORMAT,
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
    })?;
    Ok(())
}

impl Show for Version {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "piculet     {}", self.version)?;
        writeln!(out, "protocol    {} (ALPN)", self.protocol)?;
        writeln!(out, "parts       format {}, encoder {}", self.part_format, self.part_encoder)?;
        writeln!(out, "metadata    format {}", self.record_format)?;
        writeln!(out, "target      {}", self.target)
    }
}
