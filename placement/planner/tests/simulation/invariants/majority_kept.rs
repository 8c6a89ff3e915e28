//! In every configuration a majority of the voters holds the data, on nodes that are not dead.

use super::Verdict;
use crate::carry_out::majority;
use crate::world::World;

pub fn check(world: &World) -> Verdict {
    for range in &world.ranges {
        let kept = majority(range, |replica| {
            !world.is_dead(replica.node_id) && range.filled.contains(&replica.replica_id)
        });
        if !kept {
            return Err(format!("no majority of good voters: {:?}", range.descriptor));
        }
    }
    Ok(())
}
