//! What the log store measures. (raft-engine registers its own metrics in the same registry, among
//! them the time of every fdatasync.)

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge};
use std::sync::LazyLock;

pub(super) struct Metrics {
    pub write_seconds: Histogram,
    pub size_bytes: IntGauge,
    pub purge_failures: IntCounter,
    pub cache_bytes: IntGauge,
    pub cache_hits: IntCounter,
    pub cache_misses: IntCounter,
}

impl Metrics {
    pub fn get() -> &'static Self {
        static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::register);
        &METRICS
    }

    fn register() -> Self {
        let registered = "the name is used once";
        let counter = |name, help| prometheus::register_int_counter!(name, help).expect(registered);
        let gauge = |name, help| prometheus::register_int_gauge!(name, help).expect(registered);
        Self {
            write_seconds: prometheus::register_histogram!(
                HistogramOpts::new(
                    "rangedb_raft_log_write_seconds",
                    "Time of a synced write to the Raft log, fsync included"
                )
                .buckets(
                    prometheus::exponential_buckets(0.000_05, 2.0, 16).expect("valid buckets")
                )
            )
            .expect(registered),
            size_bytes: gauge("rangedb_raft_log_size_bytes", "Bytes of the Raft log's files"),
            purge_failures: counter(
                "rangedb_raft_log_purge_failures_total",
                "Purges of the Raft log that met unreadable entries",
            ),
            cache_bytes: gauge(
                "rangedb_raft_log_cache_bytes",
                "Bytes of recent Raft entries held in memory",
            ),
            cache_hits: counter(
                "rangedb_raft_log_cache_hits_total",
                "Reads of Raft entries answered from memory",
            ),
            cache_misses: counter(
                "rangedb_raft_log_cache_misses_total",
                "Reads of Raft entries that needed the disk",
            ),
        }
    }
}
