//! Bad weather, and what is left of the cluster afterwards.

use crate::invariants::{self, Verdict, even, still, zones};
use crate::world::{Sabotage, World};
use rangedb_planner::Policy;
use rangedb_types::Random as _;

const STORM_ROUNDS: usize = 150;
const ROUNDS_MAX: usize = 3_000;

/// A storm over a random cluster, and the calm after it.
pub fn storm(seed: u64, sabotage: Sabotage) -> Verdict {
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
    Ok(())
}

#[test]
fn nothing_is_lost_in_a_storm_and_calm_follows() {
    crate::for_seeds(|seed| storm(seed, Sabotage::None).unwrap());
}
