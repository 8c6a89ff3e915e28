//! Evens out the number of leaderships a node. The coldest ranges go first, so that load that was
//! spread already stays where it is.

use super::{Even, TRANSFERS_PER_NODE_MAX};
use crate::planning::Planning;
use rangedb_types::{Replica, ReplicaRole};
use std::cmp::Reverse;

pub(super) fn balance(planning: &mut Planning<'_>) {
    let leaders = || planning.cluster.nodes.iter().filter(|node| node.may_lead());
    let even = Even::of(leaders().map(|node| node.leaders as u64));
    if !leaders().any(|node| even.is_over(node.leaders) || even.is_under(node.leaders)) {
        return;
    }
    let mut led = led_ranges(planning);
    let mut sources: Vec<_> = (0..led.len()).collect();
    let nodes = &planning.cluster.nodes;
    sources.sort_unstable_by_key(|node| (Reverse(nodes[*node].leaders), nodes[*node].mixed));
    let mut given = vec![0; led.len()];
    for from in sources {
        let mut ranges = std::mem::take(&mut led[from]);
        ranges.sort_unstable_by_key(|index| (planning.range(*index).requests(), *index));
        let mut moved = 0;
        for index in ranges {
            if moved >= TRANSFERS_PER_NODE_MAX || !may_give(planning, even, from) {
                break;
            }
            if let Some((to, node)) = target(planning, index, from, even, &given) {
                let counts =
                    (planning.cluster.nodes[from].leaders, planning.cluster.nodes[node].leaders);
                let why = format!("its node leads {} ranges, the other one {}", counts.0, counts.1);
                planning.ask_transfer(index, to, why);
                given[node] += 1;
                moved += 1;
            }
        }
    }
}

/// Ranges by the index of the node that leads them.
pub(super) fn led_ranges(planning: &Planning<'_>) -> Vec<Vec<usize>> {
    let mut led = vec![Vec::new(); planning.cluster.nodes.len()];
    for (index, range) in planning.view.ranges.iter().enumerate() {
        if let Some(node) = range.leader.and_then(|leader| planning.cluster.index(leader)) {
            led[node].push(index);
        }
    }
    led
}

/// True if some node could want a leadership of this one.
fn may_give(planning: &Planning<'_>, even: Even, from: usize) -> bool {
    let count = planning.cluster.nodes[from].leaders;
    planning
        .cluster
        .nodes
        .iter()
        .any(|node| node.may_lead() && should_move(even, count, node.leaders))
}

fn should_move(even: Even, from: usize, to: usize) -> bool {
    from >= to + 2 && (even.is_over(from) || even.is_under(to))
}

fn target(
    planning: &Planning<'_>,
    index: usize,
    from: usize,
    even: Even,
    given: &[usize],
) -> Option<(Replica, usize)> {
    let count = planning.cluster.nodes[from].leaders;
    followers(planning, index)
        .into_iter()
        .filter(|(_, node)| {
            given[*node] < TRANSFERS_PER_NODE_MAX
                && should_move(even, count, planning.cluster.nodes[*node].leaders)
        })
        .min_by_key(|(_, node)| {
            let node = &planning.cluster.nodes[*node];
            (node.leaders, node.requests, node.mixed)
        })
}

/// Voters that could lead instead, with the indices of their nodes; none if the range has other
/// things to do.
pub(super) fn followers(planning: &Planning<'_>, index: usize) -> Vec<(Replica, usize)> {
    let range = planning.range(index);
    let has_other_plans = planning.is_busy(index)
        || range.merging.is_some()
        || range.descriptor.is_joint()
        || planning.victims.contains_key(&index);
    if has_other_plans {
        return Vec::new();
    }
    range
        .descriptor
        .with_role(ReplicaRole::Voter)
        .filter(|voter| {
            Some(voter.node_id) != range.leader && planning.cluster.could_lead(range, voter)
        })
        .filter_map(|voter| planning.cluster.index(voter.node_id).map(|node| (*voter, node)))
        .collect()
}
