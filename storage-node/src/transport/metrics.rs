//! What the transport measures.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge};
use std::sync::LazyLock;

pub(super) struct Metrics {
    pub sent: IntCounter,
    pub sent_bytes: IntCounter,
    pub received: IntCounter,
    pub dropped: IntCounterVec,
    pub frame_messages: Histogram,
    pub connects: IntCounter,
    pub connected: IntGauge,
}

/// Why a message was dropped: the values of the label `reason`.
pub(super) mod dropped {
    pub const QUEUE_FULL: &str = "queue_full";
    pub const NO_ADDRESS: &str = "no_address";
    pub const UNREACHABLE: &str = "unreachable";
    pub const FORBIDDEN: &str = "forbidden";
}

impl Metrics {
    pub fn get() -> &'static Self {
        static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::register);
        &METRICS
    }

    fn register() -> Self {
        let registered = "the name is used once";
        let counter = |name, help| prometheus::register_int_counter!(name, help).expect(registered);
        Self {
            sent: counter("rangedb_raft_messages_sent_total", "Raft messages sent"),
            sent_bytes: counter("rangedb_raft_sent_bytes_total", "Bytes of Raft messages sent"),
            received: counter("rangedb_raft_messages_received_total", "Raft messages received"),
            dropped: prometheus::register_int_counter_vec!(
                "rangedb_raft_messages_dropped_total",
                "Raft messages that were not sent or not taken",
                &["reason"]
            )
            .expect(registered),
            frame_messages: prometheus::register_histogram!(
                HistogramOpts::new(
                    "rangedb_raft_frame_messages",
                    "Raft messages sent in one frame"
                )
                .buckets(vec![1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1024.0, 4096.0])
            )
            .expect(registered),
            connects: counter(
                "rangedb_raft_connects_total",
                "Connections made to other nodes for Raft messages",
            ),
            connected: prometheus::register_int_gauge!(
                "rangedb_raft_connected_nodes",
                "Nodes that Raft messages can be sent to now"
            )
            .expect(registered),
        }
    }
}
