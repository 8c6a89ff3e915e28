//! What the quorum counts.

use prometheus::{IntCounter, IntCounterVec, Opts, register};
use std::sync::LazyLock;

fn counters(name: &str, help: &str, label: &str) -> IntCounterVec {
    let counters =
        IntCounterVec::new(Opts::new(name, help), &[label]).expect("the metric's name is valid");
    register(Box::new(counters.clone())).expect("the metric is registered once");
    counters
}

fn counter(name: &str, help: &str) -> IntCounter {
    let counter = IntCounter::new(name, help).expect("the metric's name is valid");
    register(Box::new(counter.clone())).expect("the metric is registered once");
    counter
}

/// `outcome`: done | not_leader | unknown
pub(super) static PROPOSALS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("rangedb_placement_proposals_total", "Commands proposed to the quorum.", "outcome")
});

/// `kind`: built | installed
pub(super) static SNAPSHOTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("rangedb_placement_snapshots_total", "Snapshots of the metadata.", "kind")
});

pub(super) static CAMPAIGNS: LazyLock<IntCounter> = LazyLock::new(|| {
    counter("rangedb_placement_campaigns_total", "Elections this process asked for.")
});

pub(super) static ROUNDS: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "rangedb_placement_leadership_rounds_total",
        "Quorum rounds that confirmed leadership, each for all who waited.",
    )
});

/// `reason`: cluster | member | store | gap
pub(super) static REFUSED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters(
        "rangedb_placement_consensus_refused_total",
        "Messages between members that were refused.",
        "reason",
    )
});
