//! No two replicas of a range are in one zone while another zone has room.

use super::Verdict;
use crate::world::World;
use std::collections::BTreeMap;

pub fn check(world: &World) -> Verdict {
    let zone = |node_id| world.nodes[&node_id].view.zone.as_str();
    for range in &world.ranges {
        let mut used: BTreeMap<&str, usize> = BTreeMap::new();
        for replica in &range.descriptor.replicas {
            *used.entry(zone(replica.node_id)).or_default() += 1;
        }
        let free = world.nodes.values().find(|node| {
            !node.dead && !node.view.draining && !used.contains_key(node.view.zone.as_str())
        });
        if let (Some(free), true) = (free, used.values().any(|count| *count > 1)) {
            let zone = &free.view.zone;
            return Err(format!(
                "zone {zone} is free, and used are {used:?}: {:?}",
                range.descriptor
            ));
        }
    }
    Ok(())
}
