//! What the demo prints: steps as they happen, and a table at the end.

use crate::cli::{Output, Show};
use crate::progress::{Progress, size};
use hdrhistogram::Histogram;
use piculet_storage::ListedPart;
use serde::Serialize;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// How often a line of progress is printed where there is no terminal.
const EVERY: Duration = Duration::from_secs(2);

/// The demo's output.
pub(super) struct Report {
    start: Instant,
    output: Output,
    bar: Progress,
    last: (Instant, u64, u64),
    latency: Option<Histogram<u64>>,
    rows: Vec<(&'static str, String)>,
}

/// Something that has happened.
#[derive(Serialize)]
struct Step<'a> {
    seconds: f64,
    step: &'a str,
}

/// What was found in the end.
#[derive(Serialize)]
struct Found {
    seconds: f64,
    result: Vec<Figure>,
}

#[derive(Serialize)]
struct Figure {
    what: &'static str,
    value: String,
}

impl Report {
    pub(super) fn start(total: u64, output: Output) -> Self {
        let now = Instant::now();
        let bar = Progress::bytes("acknowledged", Some(total));
        Self { start: now, output, bar, last: (now, 0, 0), latency: None, rows: Vec::new() }
    }

    /// Something has happened.
    pub(super) fn step(&self, what: &str) {
        let step = Step { seconds: self.start.elapsed().as_secs_f64(), step: what };
        // The demo goes on when nobody listens any more: its processes are stopped in good order.
        let _ = self.bar.suspend(|| self.output.show(&step));
    }

    /// So much has been streamed, and is acknowledged below an offset; the latencies are those of the
    /// writer's appends so far.
    pub(super) fn progress(&mut self, bytes: u64, acknowledged: u64, latency: Option<&Histogram<u64>>) {
        self.bar.set(bytes);
        let (then, bytes_then, acknowledged_then) = self.last;
        let seconds = then.elapsed().as_secs_f64();
        if then.elapsed() < EVERY {
            return;
        }
        self.last = (Instant::now(), bytes, acknowledged);
        if self.bar.is_seen() {
            return;
        }
        let rate = (bytes.saturating_sub(bytes_then) as f64 / seconds) as u64;
        let appends = acknowledged.saturating_sub(acknowledged_then) as f64 / seconds;
        let latency = latency.filter(|latency| !latency.is_empty()).map_or_else(String::new, |latency| {
            let micros = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
            format!(", p50 {:.0} µs, p99 {:.0} µs", micros(0.5), micros(0.99))
        });
        let streamed = format!("{} streamed, {}/s", size(bytes), size(rate));
        self.step(&format!("{streamed}, {appends:.0} appends/s acknowledged{latency}"));
    }

    /// Latencies of the appends of one writer.
    pub(super) fn latency(&mut self, latency: &Histogram<u64>) {
        let micros = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
        self.step(&format!(
            "latency of its appends: p50 {:.0} µs, p99 {:.0} µs, longest {:.0} ms",
            micros(0.5),
            micros(0.99),
            latency.max() as f64 / 1e6
        ));
        match &mut self.latency {
            Some(all) => all.add(latency).expect("both have the same bounds"),
            None => self.latency = Some(latency.clone()),
        }
    }

    /// A writer was replaced after its end.
    pub(super) fn took_over(&mut self, took: Duration, survived: u64, again: u64) {
        self.rows.push(("takeover after the writer's end", format!("{:.0} ms", took.as_secs_f64() * 1e3)));
        self.rows.push(("lines that survived without a seen ack", survived.to_string()));
        self.rows.push(("lines appended again by the new writer", again.to_string()));
    }

    /// The whole log has been read, and is what was streamed.
    pub(super) fn read_back(&mut self, entries: u64, bytes: u64, seconds: f64, digest: &str) {
        let rate = size((bytes as f64 / seconds.max(1e-3)) as u64);
        self.step(&format!(
            "read {entries} entries back ({}) at {rate}/s: nothing missing, nothing changed",
            size(bytes)
        ));
        self.step(&format!("sha256 of what was streamed and of what was read: {digest}"));
        self.rows.push(("entries appended and read back", entries.to_string()));
        self.rows.push(("bytes", size(bytes)));
    }

    /// What lies in object storage.
    pub(super) fn objects(&mut self, objects: &[ListedPart]) {
        let bytes: u64 = objects.iter().map(|object| object.bytes).sum();
        self.step(&format!("object storage has {} parts, {} in all:", objects.len(), size(bytes)));
        for object in objects {
            self.step(&format!("  {:>10}  {}", size(object.bytes), object.name));
        }
        self.rows.push(("objects", format!("{} ({})", objects.len(), size(bytes))));
    }

    /// Memory that the nodes' buffers use.
    pub(super) fn buffers(&mut self, used: &[(String, u64)]) {
        let used: Vec<String> = used.iter().map(|(node, used)| format!("{node} {}", size(*used))).collect();
        self.step(&format!("buffers are empty: {}", used.join(", ")));
        self.rows.push(("buffer memory in use at the end", used.join(", ")));
    }

    /// The table.
    ///
    /// # Errors
    /// When the standard output takes no more.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.bar.done();
        if let Some(latency) = &self.latency {
            let micros = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
            let text = format!("p50 {:.0} µs, p99 {:.0} µs", micros(0.5), micros(0.99));
            self.rows.push(("append latency at this rate", text));
            let longest = format!("{:.0} ms", latency.max() as f64 / 1e6);
            self.rows.push(("longest append, through every kill", longest));
        }
        let figures = self.rows.into_iter().map(|(what, value)| Figure { what, value });
        let seconds = self.start.elapsed().as_secs_f64();
        self.output.show(&Found { seconds, result: figures.collect() })
    }
}

impl Show for Step<'_> {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{:>6.1} s  {}", self.seconds, self.step)
    }
}

impl Show for Found {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out)?;
        for Figure { what, value } in &self.result {
            writeln!(out, "{what:<40} {value}")?;
        }
        writeln!(out, "{:<40} {:.1} s", "time", self.seconds)?;
        writeln!(out)?;
        writeln!(out, "All of it holds.")
    }
}
