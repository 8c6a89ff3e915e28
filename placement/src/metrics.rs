//! What the server counts. The quorum's own counts are in `consensus`.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, register,
};
use std::sync::LazyLock;

fn counter(name: &str, help: &str) -> IntCounter {
    let counter = IntCounter::new(name, help).expect("the metric's name is valid");
    register(Box::new(counter.clone())).expect("the metric is registered once");
    counter
}

fn counters(name: &str, help: &str, label: &str) -> IntCounterVec {
    let counters =
        IntCounterVec::new(Opts::new(name, help), &[label]).expect("the metric's name is valid");
    register(Box::new(counters.clone())).expect("the metric is registered once");
    counters
}

fn gauge(name: &str, help: &str) -> IntGauge {
    let gauge = IntGauge::new(name, help).expect("the metric's name is valid");
    register(Box::new(gauge.clone())).expect("the metric is registered once");
    gauge
}

fn gauges(name: &str, help: &str, label: &str) -> IntGaugeVec {
    let gauges =
        IntGaugeVec::new(Opts::new(name, help), &[label]).expect("the metric's name is valid");
    register(Box::new(gauges.clone())).expect("the metric is registered once");
    gauges
}

fn seconds(name: &str, help: &str) -> Histogram {
    let buckets = prometheus::exponential_buckets(0.000_05, 4.0, 10).expect("the bounds grow");
    let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))
        .expect("the metric's name is valid");
    register(Box::new(histogram.clone())).expect("the metric is registered once");
    histogram
}

pub(crate) static LEADING: LazyLock<IntGauge> =
    LazyLock::new(|| gauge("rangedb_placement_leading", "1 while this member leads and serves."));

pub(crate) static TERMS: LazyLock<IntCounter> = LazyLock::new(|| {
    counter("rangedb_placement_leader_terms_total", "Times this member began to serve as leader.")
});

/// `state`: up | suspect | down
pub(crate) static NODES: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauges("rangedb_placement_nodes", "Registered storage nodes, as the leader sees them.", "state")
});

pub(crate) static RANGES: LazyLock<IntGauge> =
    LazyLock::new(|| gauge("rangedb_placement_ranges", "Ranges of the cluster."));

pub(crate) static RANGES_WITHOUT_LEADER: LazyLock<IntGauge> = LazyLock::new(|| {
    gauge(
        "rangedb_placement_ranges_without_leader",
        "Ranges whose leader was not heard from lately.",
    )
});

pub(crate) static OPERATORS: LazyLock<IntGauge> =
    LazyLock::new(|| gauge("rangedb_placement_operators", "Changes of ranges under way."));

pub(crate) static PENDING: LazyLock<IntGauge> = LazyLock::new(|| {
    gauge("rangedb_placement_pending_work", "Changes that are wanted and cannot start.")
});

/// `kind`: bootstrap | add_learner | promote | remove | leave_joint
pub(crate) static COMMANDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("rangedb_placement_commands_total", "Commands sent to storage nodes.", "kind")
});

pub(crate) static PLAN_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    seconds("rangedb_placement_plan_duration_seconds", "How long making one plan took.")
});

/// `kind`: node | timestamps | watch_nodes | watch_ranges | watch_meta
pub(crate) static STREAMS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauges("rangedb_placement_streams", "Open streams.", "kind"));

pub(crate) static HEARTBEATS: LazyLock<IntCounter> = LazyLock::new(|| {
    counter("rangedb_placement_heartbeats_total", "Heartbeats received from storage nodes.")
});

/// `outcome`: accepted | refused
pub(crate) static REGISTRATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters(
        "rangedb_placement_registrations_total",
        "Storage nodes that opened their stream.",
        "outcome",
    )
});

pub(crate) static RANGE_REPORTS: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "rangedb_placement_range_reports_total",
        "Reported descriptors that were news and were proposed.",
    )
});

pub(crate) static TIMESTAMPS: LazyLock<IntCounter> = LazyLock::new(|| {
    counter("rangedb_placement_timestamps_total", "Timestamps handed out over streams.")
});

pub(crate) static TIMESTAMP_REQUESTS: LazyLock<IntCounter> = LazyLock::new(|| {
    counter("rangedb_placement_timestamp_requests_total", "Fetches of timestamps answered.")
});

pub(crate) static TIMESTAMP_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    seconds(
        "rangedb_placement_timestamp_duration_seconds",
        "From taking fetches off a stream to having their timestamps.",
    )
});

pub(crate) static LOOKUPS: LazyLock<IntCounter> =
    LazyLock::new(|| counter("rangedb_placement_lookups_total", "Lookups of ranges answered."));

pub(crate) static REVISION: LazyLock<IntGauge> = LazyLock::new(|| {
    gauge(
        "rangedb_placement_metadata_revision",
        "Revision of the metadata as the leader has applied it.",
    )
});

/// Shows every family from the start, so that a dashboard has no holes before the first event.
pub(crate) fn show_all() {
    let gauges = [&LEADING, &RANGES, &RANGES_WITHOUT_LEADER, &OPERATORS, &PENDING, &REVISION];
    for gauge in gauges {
        LazyLock::force(gauge);
    }
    for counter in [&TERMS, &HEARTBEATS, &RANGE_REPORTS, &TIMESTAMPS, &TIMESTAMP_REQUESTS, &LOOKUPS]
    {
        LazyLock::force(counter);
    }
    for histogram in [&PLAN_SECONDS, &TIMESTAMP_SECONDS] {
        LazyLock::force(histogram);
    }
    for state in ["up", "suspect", "down"] {
        NODES.with_label_values(&[state]);
    }
    for kind in ["node", "timestamps", "watch_nodes", "watch_ranges", "watch_meta"] {
        STREAMS.with_label_values(&[kind]);
    }
    for kind in ["bootstrap", "add_learner", "promote", "remove", "leave_joint"] {
        COMMANDS.with_label_values(&[kind]);
    }
    for outcome in ["accepted", "refused"] {
        REGISTRATIONS.with_label_values(&[outcome]);
    }
}

/// Counts a stream for as long as it lives.
pub(crate) struct OpenStream {
    gauge: IntGauge,
}

impl OpenStream {
    pub(crate) fn new(kind: &str) -> Self {
        let gauge = STREAMS.with_label_values(&[kind]);
        gauge.inc();
        Self { gauge }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_are_these() {
        show_all();
        let families = prometheus::gather();
        let mut names: Vec<_> = families.iter().map(|family| family.get_name()).collect();
        names.retain(|name| name.starts_with("rangedb_placement_"));
        for name in [
            "rangedb_placement_commands_total",
            "rangedb_placement_heartbeats_total",
            "rangedb_placement_leader_terms_total",
            "rangedb_placement_leading",
            "rangedb_placement_lookups_total",
            "rangedb_placement_metadata_revision",
            "rangedb_placement_nodes",
            "rangedb_placement_operators",
            "rangedb_placement_pending_work",
            "rangedb_placement_plan_duration_seconds",
            "rangedb_placement_range_reports_total",
            "rangedb_placement_ranges",
            "rangedb_placement_ranges_without_leader",
            "rangedb_placement_registrations_total",
            "rangedb_placement_streams",
            "rangedb_placement_timestamp_duration_seconds",
            "rangedb_placement_timestamp_requests_total",
            "rangedb_placement_timestamps_total",
        ] {
            assert!(names.contains(&name), "{name} is missing: {names:?}");
        }
    }
}
