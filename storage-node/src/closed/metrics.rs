//! How far behind the oracle the replicas here may be read.

use prometheus::{Gauge, IntGauge};
use std::sync::LazyLock;

/// Seconds.
pub(super) static AGE: LazyLock<Gauge> = LazyLock::new(|| {
    let help = "Age of the oldest closed timestamp of a replica here that does not lead.";
    let gauge = Gauge::new("rangedb_node_closed_age_seconds", help).expect("the name is valid");
    prometheus::register(Box::new(gauge.clone())).expect("the metric is registered once");
    gauge
});

pub(super) static UNKNOWN: LazyLock<IntGauge> = LazyLock::new(|| {
    let help = "Replicas here that do not lead and of which no timestamp is known to be closed.";
    let name = "rangedb_node_closed_unknown";
    let gauge = IntGauge::new(name, help).expect("the name is valid");
    prometheus::register(Box::new(gauge.clone())).expect("the metric is registered once");
    gauge
});

/// Shows them from the start.
pub fn register() {
    LazyLock::force(&AGE);
    LazyLock::force(&UNKNOWN);
}
