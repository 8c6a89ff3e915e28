//! No two replicas of a range are on one node, and the ranges cover all keys once.

use super::Verdict;
use crate::world::World;
use std::collections::BTreeSet;

pub fn check(world: &World) -> Verdict {
    for range in &world.ranges {
        let nodes: BTreeSet<_> = range.descriptor.replicas.iter().map(|one| one.node_id).collect();
        if nodes.len() != range.descriptor.replicas.len() {
            return Err(format!("two replicas on one node: {:?}", range.descriptor));
        }
    }
    for pair in world.ranges.windows(2) {
        if pair[0].descriptor.span.end != pair[1].descriptor.span.start {
            return Err(format!("a gap between {:?}", (&pair[0].descriptor, &pair[1].descriptor)));
        }
    }
    Ok(())
}
