//! A log as `piculet log describe` shows it.

use super::super::entry::rfc3339;
use super::super::output::Show;
use piculet_client::LogDescription;
use piculet_quorum::ids::SegmentNumber;
use piculet_quorum::meta::{self, SegmentState, SegmentView};
use serde::Serialize;
use std::io::{self, Write};

/// A log and its segments.
#[derive(Serialize)]
pub(super) struct Described {
    name: String,
    id: String,
    durability: String,
    epoch: u64,
    /// Who writes; none when the last writer has closed or parked.
    holder: Option<String>,
    next_base: u64,
    trim_offset: u64,
    last_timestamp: String,
    segments: Vec<Segment>,
}

#[derive(Serialize)]
struct Segment {
    segment: u64,
    epoch: u64,
    base: u64,
    state: &'static str,
    /// How many entries it has, once its end is known.
    end: Option<u64>,
    archived: u64,
    members: Vec<Member>,
}

#[derive(Serialize)]
struct Member {
    node: String,
    incarnation: u64,
}

impl Described {
    pub(super) fn new(log: &LogDescription) -> Self {
        let view = &log.view;
        let record = &view.record.value;
        Self {
            name: record.name.to_string(),
            id: super::id(view.log),
            durability: view.durability.to_string(),
            epoch: record.epoch.0,
            holder: record.holder.clone(),
            next_base: record.next_base.0,
            trim_offset: view.trim_offset().0,
            last_timestamp: rfc3339(record.last_timestamp),
            segments: view.segments.iter().map(|(number, view)| Segment::new(*number, view)).collect(),
        }
    }
}

impl Segment {
    fn new(number: SegmentNumber, view: &SegmentView) -> Self {
        let record = &view.record.value;
        let member = |member: &meta::Member| Member {
            node: member.node.to_string(),
            incarnation: member.incarnation.0,
        };
        Self {
            segment: number.0,
            epoch: record.epoch.0,
            base: record.base.0,
            state: match &record.state {
                SegmentState::Open => "open",
                SegmentState::Sealed(seal) if seal.settled => "sealed",
                SegmentState::Sealed(_) => "unsettled",
                SegmentState::Archived(_) => "archived",
            },
            end: record.state.end().map(|at| at.end.0),
            archived: view.archived.end.0,
            members: record.ensemble.iter().map(member).collect(),
        }
    }
}

impl Show for Described {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "name        {}", self.name)?;
        writeln!(out, "id          {}", self.id)?;
        writeln!(out, "durability  {}", self.durability)?;
        writeln!(out, "epoch       {}", self.epoch)?;
        writeln!(out, "writer      {}", self.holder.as_deref().unwrap_or("none"))?;
        writeln!(out, "next base   {} (where the next segment starts)", self.next_base)?;
        writeln!(out, "trimmed to  {}", self.trim_offset)?;
        writeln!(out, "segments    {}", self.segments.len())?;
        writeln!(out)?;
        writeln!(
            out,
            "{:>8} {:>6} {:>12} {:>10} {:>10}  {:<9} held by",
            "segment", "epoch", "base", "entries", "archived", "state"
        )?;
        for segment in &self.segments {
            let Segment { segment: number, epoch, base, state, archived, .. } = segment;
            let end = segment.end.map_or_else(|| "-".to_owned(), |end| end.to_string());
            let members: Vec<String> =
                segment.members.iter().map(|m| format!("{}/{}", m.node, m.incarnation)).collect();
            let members = members.join(" ");
            writeln!(
                out,
                "{number:>8} {epoch:>6} {base:>12} {end:>10} {archived:>10}  {state:<9} {members}"
            )?;
        }
        Ok(())
    }
}
