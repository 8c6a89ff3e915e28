//! What reads report.

use prometheus::{
    Histogram, IntCounterVec, IntGauge, exponential_buckets, register_histogram,
    register_int_counter_vec, register_int_gauge,
};
use std::sync::LazyLock;

const ONCE: &str = "registered once, under a name nobody else has";

fn buckets() -> Vec<f64> {
    exponential_buckets(0.000_01, 3.0, 12).expect("start, factor and count are positive")
}

pub static POOL_QUEUED: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("rangedb_node_read_pool_queued", "Reads that wait for a thread")
        .expect(ONCE)
});

pub static POOL_WAIT: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "rangedb_node_read_pool_wait_seconds",
        "Time reads wait for a thread",
        buckets()
    )
    .expect(ONCE)
});

/// How reads were confirmed: `lease` or `read_index`.
pub static CONFIRMED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rangedb_node_read_confirmations_total",
        "Reads by how the leader confirmed itself",
        &["by"]
    )
    .expect(ONCE)
});

pub static WRITES_AWAITED: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "rangedb_node_read_writes_awaited_seconds",
        "Time reads at a timestamp wait for writes below it",
        buckets()
    )
    .expect(ONCE)
});

pub static SPECIALS_LOADED: LazyLock<prometheus::IntCounter> = LazyLock::new(|| {
    prometheus::register_int_counter!(
        "rangedb_node_read_specials_loaded_total",
        "How often fences and range tombstones were read from the engine"
    )
    .expect(ONCE)
});

/// Shows every metric from the start, at zero.
pub fn register() {
    LazyLock::force(&POOL_QUEUED);
    LazyLock::force(&POOL_WAIT);
    for label in ["lease", "read_index"] {
        let _ = CONFIRMED.with_label_values(&[label]);
    }
    LazyLock::force(&WRITES_AWAITED);
    LazyLock::force(&SPECIALS_LOADED);
}
