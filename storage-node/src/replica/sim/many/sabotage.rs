//! The rules bite: a safeguard is taken out, and a run must notice.

use super::settings::{Plan, Sabotage};
use super::{Violation, World};
use rangedb_engine::{BatchOp, Family, WriteBatch};
use rangedb_mvcc::state::{RangeRecord as _, ReplicaTombstone};
use rangedb_types::RangeId;
use std::panic::catch_unwind;

/// Seeds that a fault may take to show.
const SEEDS: u64 = 12;

/// The rules that were broken, in runs of several seeds.
fn broken(sabotage: Sabotage) -> Vec<Violation> {
    let run = |seed| {
        let plan = Plan { steps: 40_000, sabotage, ..Plan::of_seed(seed) };
        // The product's own assertions may notice it first; that does not count here.
        catch_unwind(|| World::new(seed, plan).run().err()).ok().flatten()
    };
    (1..=SEEDS).filter_map(run).collect()
}

fn assert_broken(sabotage: Sabotage, rules: &[&str]) {
    let broken = broken(sabotage);
    assert!(
        broken.iter().any(|violation| rules.contains(&violation.rule)),
        "{rules:?} were to be broken: {broken:?}"
    );
}

fn without_replica_tombstones(batch: &WriteBatch) -> WriteBatch {
    let kind = ReplicaTombstone::key(RangeId(0))[0];
    let mut rest = WriteBatch::new();
    for op in batch.iter() {
        match op {
            BatchOp::Put { family: Family::Meta, key, .. } if key[0] == kind => {}
            BatchOp::Put { family, key, value } => rest.put(family, key, value),
            BatchOp::Delete { family, key } => rest.delete(family, key),
            BatchOp::DeleteSpan { family, start, end } => rest.delete_span(family, start, end),
        }
    }
    rest
}

#[test]
fn a_tombstone_that_is_not_written_is_noticed() {
    let sabotage = Sabotage { engine: Some(without_replica_tombstones), ..Sabotage::default() };
    assert_broken(sabotage, &["no replica returns"]);
}

#[test]
fn writes_for_other_bounds_are_noticed() {
    let sabotage = Sabotage { no_epoch_check: true, ..Sabotage::default() };
    assert_broken(sabotage, &["acknowledged writes stay", "the same state at the same index"]);
}

#[test]
fn a_merge_that_does_not_wait_for_the_freeze_is_noticed() {
    let sabotage = Sabotage { no_freeze_wait: true, ..Sabotage::default() };
    assert_broken(sabotage, &["the cluster heals", "acknowledged writes stay"]);
}

#[test]
fn a_clock_that_is_too_slow_for_leases_is_noticed() {
    let sabotage = Sabotage { slow_clock: true, ..Sabotage::default() };
    assert_broken(sabotage, &["one lease a key"]);
}
