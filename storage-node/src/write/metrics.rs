//! What writes report.

use prometheus::{
    Histogram, IntCounter, IntCounterVec, IntGauge, exponential_buckets, register_histogram,
    register_int_counter, register_int_counter_vec, register_int_gauge,
};
use std::sync::LazyLock;

const ONCE: &str = "registered once, under a name nobody else has";

fn buckets() -> Vec<f64> {
    exponential_buckets(0.000_05, 3.0, 11).expect("start, factor and count are positive")
}

/// How writes went: `plain` (nothing was read) or `looked` (they waited or read first).
pub static PATHS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rangedb_node_write_paths_total",
        "Writes by whether they had to wait or look first",
        &["path"]
    )
    .expect(ONCE)
});

pub static LATCH_WAIT: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "rangedb_node_write_latch_wait_seconds",
        "Time writes wait for writes of the same keys",
        buckets()
    )
    .expect(ONCE)
});

pub static TIMESTAMP_WAIT: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "rangedb_node_write_timestamp_wait_seconds",
        "Time writes wait for a timestamp",
        buckets()
    )
    .expect(ONCE)
});

pub static RESTAMPED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "rangedb_node_write_restamped_total",
        "Timestamps thrown away because a read had been served above them"
    )
    .expect(ONCE)
});

pub static UNSETTLED: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("rangedb_node_write_unsettled", "Writes that hold or wait for a latch")
        .expect(ONCE)
});

/// Attempts found to have been done before.
pub static FOUND_DONE: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "rangedb_node_write_found_done_total",
        "Attempts answered with the result of an earlier attempt"
    )
    .expect(ONCE)
});

pub static FENCES: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("rangedb_node_write_fences_total", "Fences put up").expect(ONCE)
});

/// Shows every metric from the start, at zero.
pub fn register() {
    for label in ["plain", "looked"] {
        let _ = PATHS.with_label_values(&[label]);
    }
    LazyLock::force(&LATCH_WAIT);
    LazyLock::force(&TIMESTAMP_WAIT);
    LazyLock::force(&RESTAMPED);
    LazyLock::force(&UNSETTLED);
    LazyLock::force(&FOUND_DONE);
    LazyLock::force(&FENCES);
}
