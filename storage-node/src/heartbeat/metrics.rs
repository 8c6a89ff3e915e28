//! What the link to placement reports.

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, register_int_counter,
    register_int_counter_vec, register_int_gauge, register_int_gauge_vec,
};
use std::sync::LazyLock;

const ONCE: &str = "registered once, under a name nobody else has";

pub static SESSIONS: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "rangedb_node_placement_sessions_total",
        "Streams to placement on which the node was registered"
    )
    .expect(ONCE)
});

pub static BEATS: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("rangedb_node_heartbeats_total", "Heartbeats sent to placement")
        .expect(ONCE)
});

pub static COMMANDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rangedb_node_placement_commands_total",
        "Commands received from placement",
        &["command"]
    )
    .expect(ONCE)
});

pub static REPLICAS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("rangedb_node_replicas", "Replicas on this node").expect(ONCE)
});

pub static LEADERS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("rangedb_node_leaders", "Replicas on this node that lead").expect(ONCE)
});

/// Bytes of the data folder's disk: `used` (by the node), `available`, `capacity`.
pub static DISK: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!("rangedb_node_disk_bytes", "The disk of the data folder", &["what"])
        .expect(ONCE)
});

/// Shows every metric from the start, at zero.
pub fn register() {
    LazyLock::force(&SESSIONS);
    LazyLock::force(&BEATS);
    for label in ["bootstrap", "change_replicas", "transfer_leader", "config", "nodes"] {
        let _ = COMMANDS.with_label_values(&[label]);
    }
    LazyLock::force(&REPLICAS);
    LazyLock::force(&LEADERS);
    for label in ["used", "available", "capacity"] {
        let _ = DISK.with_label_values(&[label]);
    }
}
