//! Bad weather, and what is left of the cluster afterwards.

use crate::invariants::{self, Verdict, disks, even, still, zones};
use crate::world::{Sabotage, World};
use rangedb_planner::Policy;
use rangedb_types::Random as _;
use std::hash::Hasher as _;

const STORM_ROUNDS: usize = 150;
const ROUNDS_MAX: usize = 3_000;

pub fn storm(seed: u64, sabotage: Sabotage) -> Verdict {
    storm_and_calm(seed, sabotage).map(drop)
}

/// A storm over a random cluster, and the calm after it.
fn storm_and_calm(seed: u64, sabotage: Sabotage) -> Result<World, String> {
    let mut world = World::new(seed, Policy::default());
    world.sabotage = sabotage;
    let zones = 1 + world.random.below(4);
    let nodes = 3 + world.random.below(6);
    for node in 0..nodes {
        world.add_node(&format!("z{}", node % zones));
    }
    let ranges = 5 + world.random.below(40) as usize;
    world.add_ranges(ranges, 3);
    world.policy.moves_per_node_max = 1 + world.random.below(4) as usize;
    world.storm = true;
    for _ in 0..STORM_ROUNDS {
        world.weather();
        world.step();
        invariants::always(&world)?;
    }
    world.clear_up();
    let rounds = still::converge(&mut world, ROUNDS_MAX)?;
    println!(
        "{} nodes, {} ranges: calm after {rounds} rounds, {} copies, {} transfers, {} splits, {} merges",
        world.nodes.len(),
        world.ranges.len(),
        world.copies,
        world.transfers,
        world.splits,
        world.merges,
    );
    still::check(&mut world)?;
    zones::check(&world)?;
    if zones == 1 {
        even::check(&world)?;
    }
    disks::check(&world)?;
    Ok(world)
}

#[test]
fn nothing_is_lost_in_a_storm_and_calm_follows() {
    crate::for_seeds(|seed| storm(seed, Sabotage::None).unwrap());
}

/// Every step of every plan is the same when a seed is run again, and others are not.
#[test]
fn a_seed_replays_exactly() {
    let history = |seed| storm_and_calm(seed, Sabotage::None).unwrap().history.finish();
    let histories: Vec<_> = (0..3).map(history).collect();
    assert_eq!(histories, (0..3).map(history).collect::<Vec<_>>());
    assert!(histories[0] != histories[1] && histories[1] != histories[2]);
}
