//! The rules bite: a safeguard is taken out, and a run must notice.

use super::World;
use super::found::LEFT;
use super::settings::{Plan, Sabotage};
use rangedb_engine::{BatchOp, Family, WriteBatch};
use rangedb_mvcc::state::{RangeRecord as _, ReplicaTombstone};
use rangedb_types::RangeId;
use std::panic::catch_unwind;

/// Seeds that a fault may take to show.
const SEEDS_MAX: u64 = 100;

/// The node whose clock a sabotage slows down.
const SLOW: usize = 0;
/// Rounds in which others have long elected a leader.
const ROUNDS: u32 = 200;

/// Runs seed after seed until one of the rules is broken.
fn assert_broken(sabotage: Sabotage, rules: &[&str]) {
    let run = |seed| {
        let plan = Plan { steps: 40_000, sabotage, ..Plan::of_seed(seed) };
        // The product's own assertions may notice it first; that does not count here.
        catch_unwind(|| World::new(seed, plan).run().err()).ok().flatten()
    };
    let mut others = Vec::new();
    for violation in (1..=SEEDS_MAX).filter_map(run) {
        if rules.contains(&violation.rule) {
            return;
        }
        others.push(violation);
    }
    panic!("{rules:?} were to be broken: {others:?}");
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

/// A leader whose clock is slow is cut off: its lease outlives the others' promise to it.
#[test]
fn a_clock_that_is_too_slow_for_leases_is_noticed() {
    let mut world = World::calm();
    let to = world.handle(SLOW, LEFT).expect("it is there").replica_id();
    let (at, _) = world.led(LEFT).expect("it is led");
    world.transfer_to(at, LEFT, to);
    world.until("a lease of the slow node", |world| {
        world.handle(SLOW, LEFT).is_some_and(|handle| {
            handle.leadership().is_some_and(|leadership| handle.lease_holds(leadership.term))
        })
    });
    world.plan.sabotage.slow_clock = true;
    world.cut_off(SLOW);
    let violation = (0..ROUNDS).find_map(|_| world.calm_round().err());
    assert_eq!(violation.map(|violation| violation.rule), Some("one lease a key"));
}
