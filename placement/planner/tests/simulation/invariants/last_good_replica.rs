//! Every range has a replica that holds its data, on a node that is not dead.

use super::Verdict;
use crate::world::World;

pub fn check(world: &World) -> Verdict {
    for range in &world.ranges {
        let good = range.descriptor.replicas.iter().any(|replica| {
            !world.is_dead(replica.node_id) && range.filled.contains(&replica.replica_id)
        });
        if !good {
            return Err(format!("the data is lost: {:?}", range.descriptor));
        }
    }
    Ok(())
}
