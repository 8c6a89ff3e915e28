//! What snapshots measure.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec};
use std::sync::LazyLock;

pub(super) struct Metrics {
    pub sent: IntCounter,
    pub received: IntCounter,
    pub installed: IntCounter,
    pub resumed: IntCounter,
    pub sent_bytes: IntCounter,
    pub received_bytes: IntCounter,
    pub failures: IntCounterVec,
    pub send_seconds: Histogram,
    pub install_seconds: Histogram,
}

/// What failed: the values of the label `step`.
pub(super) mod failed {
    pub const SEND: &str = "send";
    pub const RECEIVE: &str = "receive";
    pub const INSTALL: &str = "install";
}

impl Metrics {
    pub fn get() -> &'static Self {
        static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::register);
        &METRICS
    }

    fn register() -> Self {
        let registered = "the name is used once";
        let counter = |name, help| prometheus::register_int_counter!(name, help).expect(registered);
        let seconds = |name, help| {
            let buckets = prometheus::exponential_buckets(0.01, 2.0, 16).expect("valid buckets");
            prometheus::register_histogram!(HistogramOpts::new(name, help).buckets(buckets))
                .expect(registered)
        };
        Self {
            sent: counter(
                "rangedb_snapshot_sent_total",
                "Snapshots of ranges sent and installed by the peer",
            ),
            received: counter(
                "rangedb_snapshot_received_total",
                "Snapshots of ranges received whole and verified",
            ),
            installed: counter(
                "rangedb_snapshot_installed_total",
                "Snapshots of ranges installed on this node",
            ),
            resumed: counter(
                "rangedb_snapshot_resumed_total",
                "Snapshots whose stream broke and that went on where they were",
            ),
            sent_bytes: counter("rangedb_snapshot_sent_bytes_total", "Bytes of snapshots sent"),
            received_bytes: counter(
                "rangedb_snapshot_received_bytes_total",
                "Bytes of snapshots received",
            ),
            failures: prometheus::register_int_counter_vec!(
                "rangedb_snapshot_failures_total",
                "Snapshots that did not come through",
                &["step"]
            )
            .expect(registered),
            send_seconds: seconds(
                "rangedb_snapshot_send_seconds",
                "Time to send a snapshot, until the peer installed it",
            ),
            install_seconds: seconds(
                "rangedb_snapshot_install_seconds",
                "Time to install a received snapshot",
            ),
        }
    }
}
