//! A log as `piculet log describe` shows it.

use super::super::entry::rfc3339;
use super::super::output::Show;
use piculet_client::{LogDescription, Nodes};
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
    allow_loss: bool,
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
    /// Who held everything below the end when it was sealed.
    holders: Option<Vec<String>>,
    loss: Option<Loss>,
}

/// What is lost of a segment.
#[derive(Serialize)]
struct Loss {
    /// The first offset that is lost.
    from: u64,
    acknowledged: bool,
}

#[derive(Serialize)]
struct Member {
    node: String,
    incarnation: u64,
    /// Whether that life of its buffer lasts.
    current: bool,
}

impl Described {
    pub(super) fn new(log: &LogDescription, nodes: &Nodes) -> Self {
        let view = &log.view;
        let record = &view.record.value;
        Self {
            name: record.name.to_string(),
            id: super::id(view.log),
            durability: view.durability().to_string(),
            allow_loss: view.config.value.allow_loss,
            epoch: record.epoch.0,
            holder: record.holder.clone(),
            next_base: record.next_base.0,
            trim_offset: view.trim_offset().0,
            last_timestamp: rfc3339(record.last_timestamp),
            segments: view.segments.iter().map(|(n, view)| Segment::new(*n, view, nodes)).collect(),
        }
    }
}

impl Segment {
    fn new(number: SegmentNumber, view: &SegmentView, nodes: &Nodes) -> Self {
        let record = &view.record.value;
        let member = |member: &meta::Member| {
            let now = nodes.get(&member.node).map(|view| view.incarnation(record.level).0);
            let current = now == Some(member.incarnation);
            Member { node: member.node.to_string(), incarnation: member.incarnation.0, current }
        };
        let holders = match &record.state {
            SegmentState::Sealed(seal) => Some(seal.holders.iter().map(ToString::to_string).collect()),
            SegmentState::Open | SegmentState::Archived(_) => None,
        };
        let loss = record.loss.map(|loss| Loss {
            from: record.base.0.saturating_add(loss.from.0),
            acknowledged: loss.acknowledged,
        });
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
            holders,
            loss,
        }
    }
}

impl Show for Described {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "name        {}", self.name)?;
        writeln!(out, "id          {}", self.id)?;
        writeln!(out, "durability  {}", self.durability)?;
        writeln!(out, "allow loss  {}", self.allow_loss)?;
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
            let shown = |member: &Member| {
                let held = segment.holders.as_ref().is_some_and(|holders| holders.contains(&member.node));
                let name = format!("{}/{}{}", member.node, member.incarnation, if held { "*" } else { "" });
                if member.current { name } else { format!("({name})") }
            };
            let mut members = segment.members.iter().map(shown).collect::<Vec<_>>().join(" ");
            if let Some(Loss { from, acknowledged }) = segment.loss {
                let what = if acknowledged { "entries may be lost" } else { "nothing acknowledged is lost" };
                members.push_str(&format!("; {what} from offset {from} on"));
            }
            writeln!(
                out,
                "{number:>8} {epoch:>6} {base:>12} {end:>10} {archived:>10}  {state:<9} {members}"
            )?;
        }
        Ok(())
    }
}
