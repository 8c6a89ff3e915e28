//! At rest no disk is nearly full that holds replicas, unless all of them are.

use super::Verdict;
use crate::world::{DISK_BYTES, World};

const FULL_PERCENT: u64 = 95;

pub fn check(world: &World) -> Verdict {
    for (node_id, used) in world.used_bytes() {
        let node = &world.nodes[&node_id];
        let is_full = used * 100 / DISK_BYTES > FULL_PERCENT;
        if is_full && !node.dead && used > node.other_bytes {
            return Err(format!("the disk of node {node_id} is full: {used} bytes"));
        }
    }
    Ok(())
}
