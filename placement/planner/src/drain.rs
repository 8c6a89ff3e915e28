//! Empties nodes: leaderships first, then replicas. Nodes whose disk is slow lose their leaderships only.

use crate::balance::TRANSFERS_PER_NODE_MAX;
use crate::members::Members;
use crate::planning::Planning;
use crate::replicas::add_learner;
use crate::target::{best_leader, candidates};
use rangedb_types::{NodeId, Replica};
use std::collections::BTreeMap;

pub(crate) fn drain(planning: &mut Planning<'_>) {
    if !planning.cluster.nodes.iter().any(|node| node.view.draining) {
        return;
    }
    for index in 0..planning.view.ranges.len() {
        let range = planning.range(index);
        if planning.is_busy(index) || planning.pairs.is_frozen(index) {
            continue;
        }
        let is_draining = |replica: &Replica| planning.cluster.is_draining(replica.node_id);
        let Some(node_id) = range
            .descriptor
            .replicas
            .iter()
            .find(|replica| is_draining(replica))
            .map(|r| r.node_id)
        else {
            continue;
        };
        if !hand_over(planning, index) {
            replace(planning, index, node_id);
        }
    }
}

/// A write waits for its leader's disk, and only for the faster ones among the followers'.
pub(crate) fn relieve_slow(planning: &mut Planning<'_>) {
    if !planning.cluster.nodes.iter().any(|node| node.is_slow && node.leaders > 0) {
        return;
    }
    let mut relieved = BTreeMap::<NodeId, usize>::new();
    for index in 0..planning.view.ranges.len() {
        if planning.is_busy(index) || planning.pairs.is_frozen(index) {
            continue;
        }
        let range = planning.range(index);
        let leader = range.leader.and_then(|node_id| planning.cluster.get(node_id));
        let Some(slow) = leader.filter(|node| node.is_slow) else { continue };
        let (node_id, sync) = (slow.view.node_id, slow.view.disk_sync);
        let moved = relieved.entry(node_id).or_default();
        if *moved >= TRANSFERS_PER_NODE_MAX {
            continue;
        }
        if let Some(to) = best_leader(&planning.cluster, range, &[]) {
            let why = format!("the disk of node {node_id} is slow: {sync:?} to sync a write");
            planning.ask_transfer(index, to, why);
            *moved += 1;
        }
    }
}

fn hand_over(planning: &mut Planning<'_>, index: usize) -> bool {
    let range = planning.range(index);
    let Some(leader) = range.leader.filter(|node_id| planning.cluster.is_draining(*node_id)) else {
        return false;
    };
    let Some(to) = best_leader(&planning.cluster, range, &[]) else { return false };
    planning.ask_transfer(index, to, format!("node {leader} is being emptied, and leads"));
    true
}

/// Begins one move away from a node that drains, unless as many are under way as are needed.
fn replace(planning: &mut Planning<'_>, index: usize, node_id: NodeId) {
    let range = planning.range(index);
    let members = Members::of(range, &planning.cluster, planning.wanted());
    let mut stay = members.all();
    stay.retain(|replica| {
        !planning.cluster.is_lost(replica.node_id) && !planning.cluster.is_draining(replica.node_id)
    });
    let has = stay.len();
    if has >= planning.wanted() {
        return;
    }
    if candidates(&planning.cluster, range).next().is_none() {
        let range_id = range.descriptor.range_id;
        planning.explanation.wait(|| {
            format!("node {node_id} cannot be emptied: no other node can take range {range_id}")
        });
        return;
    }
    add_learner(planning, index, &stay, has, format!("node {node_id} is being emptied"));
}
