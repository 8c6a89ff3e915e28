//! In clear weather plans come to an end, and then there are none.

use super::Verdict;
use crate::world::World;

/// Rounds in a row without a step, and without a copy that is under way, that count as rest.
const REST: usize = 8;
const STILL: usize = 20;

/// Lets the cluster come to rest; returns after how many rounds it did.
pub fn converge(world: &mut World, rounds_max: usize) -> Result<usize, String> {
    let mut resting = 0;
    for round in 0..rounds_max {
        let steps = world.step();
        super::always(world)?;
        let rests = steps == 0 && world.in_flight.is_empty() && !world.is_filling();
        resting = if rests { resting + 1 } else { 0 };
        if resting == REST {
            return Ok(round + 1 - REST);
        }
    }
    let (operators, explanation) = world.plan();
    let some: Vec<_> = operators.iter().take(5).collect();
    Err(format!("no rest after {rounds_max} rounds: {some:?}; {:?}", explanation.pending()))
}

pub fn check(world: &mut World) -> Verdict {
    for _ in 0..STILL {
        if world.step() > 0 {
            return Err("it moves again".to_owned());
        }
    }
    for range in &world.ranges {
        let usable = world.nodes.values().filter(|n| !n.dead && !n.view.draining).count();
        let wanted = world.policy.replication_factor.min(usable);
        let has = range.descriptor.replicas.len();
        // The lost ones stay while nothing can take their place.
        let alive =
            range.descriptor.replicas.iter().filter(|one| !world.is_dead(one.node_id)).count();
        if has < wanted || alive > world.policy.replication_factor {
            let descriptor = range.descriptor.clone();
            let pending = world.plan().1.pending();
            return Err(format!("{has} replicas, {wanted} wanted: {descriptor:?}; {pending:?}"));
        }
        if range.descriptor.is_joint() || range.merging.is_some() {
            return Err(format!("half done: {:?}", range.descriptor));
        }
    }
    Ok(())
}
