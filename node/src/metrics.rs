//! What the node counts and measures, for Prometheus.
//!
//! Every metric is registered once, with its unit and description, and kept at hand: to count
//! something costs an atomic addition.

use crate::core::{Core, LiveBuffer};
use ::metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use piculet_quorum::batch::BatchHeader;
use piculet_quorum::ids::Level;
use piculet_quorum::wire::message::Refusal;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

/// Bounds of the upload histogram's buckets, in seconds.
const UPLOAD_SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Why appends and requests are refused, as a label.
const REASONS: [&str; 14] = [
    "wrong_incarnation",
    "fenced",
    "draining",
    "out_of_order",
    "sealed",
    "overloaded",
    "conflict",
    "not_here",
    "wrong_cluster",
    "unavailable",
    "unknown",
    "invalid",
    "superseded",
    "deleted",
];

struct Metrics {
    prometheus: PrometheusHandle,
    append_batches: Counter,
    append_entries: Counter,
    append_bytes: Counter,
    acks: Counter,
    refusals: [Counter; REASONS.len()],
    fences: Counter,
    parts: Counter,
    part_bytes: Counter,
    part_failures: Counter,
    part_seconds: Histogram,
    elections: Counter,
    recoveries_started: Counter,
    recoveries_succeeded: Counter,
    recoveries_failed: Counter,
    metadata_errors: Counter,
    buffers: BTreeMap<Level, BufferMetrics>,
    logs: Gauge,
    segments: Gauge,
    degraded: Gauge,
    waiting: Gauge,
    uploading: Gauge,
    ready: Gauge,
    draining: Gauge,
    metadata_up: Gauge,
    store_up: Gauge,
    cpu_seconds: Gauge,
}

/// Of the buffer of one level.
struct BufferMetrics {
    bytes: Gauge,
    used: Gauge,
    incarnation: Gauge,
}

fn get() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(Metrics::install)
}

/// Counts a batch that was stored, with its entries and its encoded bytes.
pub fn appended(batch: &BatchHeader) {
    let metrics = get();
    metrics.append_batches.increment(1);
    metrics.append_entries.increment(batch.count.into());
    metrics.append_bytes.increment(batch.bytes() as u64);
}

/// Counts an acknowledgement that was sent.
pub fn acked() {
    get().acks.increment(1);
}

/// Counts a refusal that was sent.
pub fn refused(refusal: &Refusal) {
    get().refusals[reason(refusal)].increment(1);
}

/// Counts a fence that was set.
pub fn fenced() {
    get().fences.increment(1);
}

/// Counts a part that this node uploaded and recorded, and how long that took.
pub(crate) fn uploaded(bytes: u64, took: Duration) {
    let metrics = get();
    metrics.parts.increment(1);
    metrics.part_bytes.increment(bytes);
    metrics.part_seconds.record(took.as_secs_f64());
}

/// Counts an upload that failed.
pub(crate) fn upload_failed() {
    get().part_failures.increment(1);
}

/// Counts an election as uploader that this node won.
pub(crate) fn elected() {
    get().elections.increment(1);
}

/// Counts a recovery of an abandoned log that this node began.
pub(crate) fn recovery_started() {
    get().recoveries_started.increment(1);
}

/// Counts a recovery that sealed its log.
pub(crate) fn recovery_succeeded() {
    get().recoveries_succeeded.increment(1);
}

/// Counts a recovery that came to nothing.
pub(crate) fn recovery_failed() {
    get().recoveries_failed.increment(1);
}

/// Counts a call to the metadata store that failed.
pub(crate) fn metadata_failed() {
    get().metadata_errors.increment(1);
}

/// All metrics in the text form of Prometheus, as they are now.
#[must_use]
pub fn render(core: &Core) -> String {
    let metrics = get();
    metrics.refresh(core);
    metrics.prometheus.render()
}

/// Digests what was measured since the last time, so that it takes no memory when nobody asks for
/// it. To be called every few seconds.
pub fn digest() {
    get().prometheus.run_upkeep();
}

/// CPU time that this process has used, in nanoseconds.
#[must_use]
pub fn cpu_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock writes to `time`, which outlives the call, and nothing else.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "Linux has a clock of a process's CPU time");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn reason(refusal: &Refusal) -> usize {
    match refusal {
        Refusal::WrongIncarnation { .. } => 0,
        Refusal::Fenced { .. } => 1,
        Refusal::Draining => 2,
        Refusal::OutOfOrder { .. } => 3,
        Refusal::Sealed { .. } => 4,
        Refusal::Overloaded { .. } => 5,
        Refusal::Conflict { .. } => 6,
        Refusal::NotHere => 7,
        Refusal::WrongCluster { .. } => 8,
        Refusal::Unavailable(_) => 9,
        Refusal::Unknown(_) => 10,
        Refusal::Invalid(_) => 11,
        Refusal::Superseded => 12,
        Refusal::Deleted => 13,
    }
}

fn counted(name: &'static str, unit: Unit, what: &'static str) -> Counter {
    describe_counter!(name, unit, what);
    counter!(name)
}

fn measured(name: &'static str, unit: Unit, what: &'static str) -> Gauge {
    describe_gauge!(name, unit, what);
    gauge!(name)
}

impl BufferMetrics {
    fn of(level: Level) -> Self {
        let level = level.to_string();
        let measured = |name: &'static str, unit, what: &'static str| {
            describe_gauge!(name, unit, what);
            gauge!(name, "level" => level.clone())
        };
        Self {
            bytes: measured("piculet_buffer_bytes", Unit::Bytes, "Size of the buffer of a level"),
            used: measured("piculet_buffer_used_bytes", Unit::Bytes, "Lent bytes of the buffer of a level"),
            incarnation: measured("piculet_incarnation", Unit::Count, "Life of the buffer of a level"),
        }
    }
}

impl Metrics {
    fn install() -> Self {
        let seconds = Matcher::Full("piculet_part_upload_seconds".to_owned());
        let prometheus = PrometheusBuilder::new()
            .set_buckets_for_metric(seconds, &UPLOAD_SECONDS)
            .expect("there are buckets")
            .install_recorder()
            .expect("the process has no other recorder of metrics");
        let (upload, refusals) = ("piculet_part_upload_seconds", "piculet_refusals_total");
        describe_histogram!(upload, Unit::Seconds, "Time to put a part and to record it");
        describe_counter!(refusals, Unit::Count, "Refusals sent, by reason");
        Self {
            prometheus,
            append_batches: counted("piculet_append_batches_total", Unit::Count, "Batches stored"),
            append_entries: counted("piculet_append_entries_total", Unit::Count, "Entries stored"),
            append_bytes: counted("piculet_append_bytes_total", Unit::Bytes, "Encoded bytes stored"),
            acks: counted("piculet_acks_total", Unit::Count, "Cumulative acknowledgements sent"),
            refusals: REASONS.map(|reason| counter!(refusals, "reason" => reason)),
            fences: counted("piculet_fences_total", Unit::Count, "Fences set by takeovers"),
            parts: counted("piculet_parts_uploaded_total", Unit::Count, "Parts uploaded and recorded here"),
            part_bytes: counted("piculet_part_bytes_total", Unit::Bytes, "Bytes of those parts"),
            part_failures: counted("piculet_part_failures_total", Unit::Count, "Uploads that failed"),
            part_seconds: histogram!(upload),
            elections: counted("piculet_elections_total", Unit::Count, "Elections won as uploader"),
            recoveries_started: counted(
                "piculet_recoveries_started_total",
                Unit::Count,
                "Recoveries of abandoned logs begun here",
            ),
            recoveries_succeeded: counted(
                "piculet_recoveries_succeeded_total",
                Unit::Count,
                "Abandoned logs sealed from here",
            ),
            recoveries_failed: counted(
                "piculet_recoveries_failed_total",
                Unit::Count,
                "Recoveries of abandoned logs that came to nothing",
            ),
            metadata_errors: counted("piculet_metadata_errors_total", Unit::Count, "Failed metadata calls"),
            buffers: Level::BUFFERED.map(|level| (level, BufferMetrics::of(level))).into(),
            logs: measured("piculet_logs", Unit::Count, "Logs in the node's table"),
            segments: measured("piculet_segments", Unit::Count, "Segments that are held"),
            degraded: measured(
                "piculet_segments_degraded",
                Unit::Count,
                "Segments with a lost member that are not archived whole",
            ),
            waiting: measured(
                "piculet_segments_waiting",
                Unit::Count,
                "Segments whose upload waits for the segment before",
            ),
            uploading: measured("piculet_uploading", Unit::Count, "Segments that this node uploads"),
            ready: measured("piculet_ready", Unit::Count, "1 when the node is ready"),
            draining: measured("piculet_draining", Unit::Count, "1 when the node is about to stop"),
            metadata_up: measured(
                "piculet_metadata_up",
                Unit::Count,
                "1 when the metadata store answered last",
            ),
            store_up: measured("piculet_store_up", Unit::Count, "1 when the object store answered last"),
            cpu_seconds: measured("piculet_process_cpu_seconds", Unit::Seconds, "CPU time used"),
        }
    }

    fn refresh(&self, core: &Core) {
        let flag = |value: bool| f64::from(u8::from(value));
        let (mut logs, mut segments, mut uploading) = (0_u32, 0_u32, 0_u32);
        let (mut degraded, mut waiting) = (0_u32, 0_u32);
        let now = core.clock.now();
        for log in core.logs.all() {
            logs += 1;
            for local in log.lock().segments.values() {
                // Also one of which all is archived: with one more lost nobody could tell where it ends.
                let lost = core.lives.lock().lost(now, &core.id, &local.record.value).next().is_some();
                segments += 1;
                waiting += u32::from(local.waiting.waits());
                degraded += u32::from(lost);
                uploading += u32::from(local.uploaded_by(&core.member(log.level)));
            }
        }
        for (level, LiveBuffer { life, buffer }) in core.buffers() {
            let Some(metrics) = self.buffers.get(&level) else { continue };
            metrics.bytes.set(buffer.arena().capacity_bytes() as f64);
            metrics.used.set(buffer.arena().used_bytes() as f64);
            metrics.incarnation.set(life.incarnation.0 as f64);
        }
        self.logs.set(logs);
        self.segments.set(segments);
        self.degraded.set(degraded);
        self.waiting.set(waiting);
        self.uploading.set(uploading);
        self.ready.set(flag(core.readiness.missing().is_empty() && !core.draining()));
        self.draining.set(flag(core.draining()));
        self.metadata_up.set(flag(core.meta_health.is_up()));
        self.store_up.set(flag(core.store_health.is_up()));
        self.cpu_seconds.set(Duration::from_nanos(cpu_nanos()).as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use piculet_quorum::ids::{Chain, Index};

    fn value(text: &str, name: &str) -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
    }

    #[test]
    fn what_is_counted_is_rendered_under_its_name() {
        let before = get().prometheus.render();
        appended(&BatchHeader { body_len: 4000, count: 30, first: Index(0), chain: Chain(0) });
        refused(&Refusal::Draining);
        uploaded(5, Duration::from_millis(7));
        digest();
        let after = get().prometheus.render();
        // Other tests of this process count as well.
        for (name, more) in [
            ("piculet_append_entries_total ", 30),
            ("piculet_append_bytes_total ", 4040),
            ("piculet_refusals_total{reason=\"draining\"} ", 1),
            ("piculet_part_bytes_total ", 5),
        ] {
            assert!(value(&after, name) >= value(&before, name) + more, "{name} in {after}");
        }
        assert!(after.contains("piculet_part_upload_seconds_bucket{le=\"0.01\"}"), "{after}");
        assert!(after.contains("# HELP piculet_fences_total"), "{after}");
    }

    #[test]
    fn cpu_time_is_that_of_this_process() {
        let before = cpu_nanos();
        let sum = (0..2_000_000_u64).fold(0_u64, |sum, n| sum.rotate_left(3) ^ n);
        assert!(cpu_nanos() > before, "it has counted to {sum}");
    }
}
