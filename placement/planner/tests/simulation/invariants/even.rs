//! Replicas and leaderships are within max(1, 10 %) of even, on the nodes that may have any: what
//! cannot leave a dead node, or one that drains, because no other can take it, is no unevenness.

use super::Verdict;
use crate::world::World;
use rangedb_types::NodeId;
use std::collections::BTreeMap;

pub fn check(world: &World) -> Verdict {
    let mut replicas = empty(world);
    let mut leaders = empty(world);
    for range in &world.ranges {
        for replica in &range.descriptor.replicas {
            replicas.entry(replica.node_id).and_modify(|count| *count += 1);
        }
        if let Some(leader) = range.leader {
            leaders.entry(leader).and_modify(|count| *count += 1);
        }
    }
    is_even("replicas", &replicas)?;
    if replicas.len() < world.policy.replication_factor {
        // Replicas that are left without a vote, until there are more nodes, cannot lead.
        return Ok(());
    }
    is_even("leaders", &leaders)
}

fn empty(world: &World) -> BTreeMap<NodeId, usize> {
    let usable = world.nodes.values().filter(|node| !node.dead && !node.view.draining);
    usable.map(|node| (node.view.node_id, 0)).collect()
}

fn is_even(what: &str, counts: &BTreeMap<NodeId, usize>) -> Verdict {
    let mean = counts.values().sum::<usize>() as f64 / counts.len() as f64;
    let allowed = (mean / 10.0).max(1.0) + 1e-9;
    let is_off = |count: usize| (count as f64 - mean).abs() > allowed;
    let off: Vec<_> = counts.iter().filter(|(_, count)| is_off(**count)).collect();
    if off.is_empty() {
        return Ok(());
    }
    Err(format!("uneven {what}, {mean:.1} would be even: {off:?}"))
}
