//! Evens out the number of leaderships a node. The coldest ranges go first, so that load that was
//! spread already stays where it is.

use super::{Even, TRANSFERS_PER_NODE_MAX};
use crate::planning::Planning;
use rangedb_types::{Replica, ReplicaRole};
use std::cmp::Reverse;
use std::collections::VecDeque;

/// Most nodes for which a way over others is searched: each search looks at all ranges.
const PASSING_ON_MAX: usize = 3;

pub(super) fn balance(planning: &mut Planning<'_>) {
    let leaders = || planning.cluster.nodes.iter().filter(|node| node.may_lead());
    let even = Even::of(leaders().map(|node| node.leaders as u64));
    if !leaders().any(|node| even.is_over(node.leaders) || even.is_under(node.leaders)) {
        return;
    }
    let mut led = led_ranges(planning);
    for ranges in &mut led {
        ranges.sort_by_cached_key(|index| (planning.range(*index).requests(), *index));
    }
    let nodes = &planning.cluster.nodes;
    let mut sources: Vec<_> = (0..led.len()).collect();
    sources.sort_unstable_by_key(|node| (Reverse(nodes[*node].leaders), nodes[*node].mixed));
    let mut given = vec![0; led.len()];
    let mut any = false;
    for from in &sources {
        any |= give(planning, even, *from, &led[*from], &mut given);
    }
    // One at a time: the picture is another one afterwards.
    let _ =
        any || sources.iter().take(PASSING_ON_MAX).any(|from| pass_on(planning, even, *from, &led));
}

/// Hands leaderships over to followers on nodes with fewer of them; true if there was one.
fn give(
    planning: &mut Planning<'_>,
    even: Even,
    from: usize,
    ranges: &[usize],
    given: &mut [usize],
) -> bool {
    let mut moved = 0;
    for index in ranges {
        if moved >= TRANSFERS_PER_NODE_MAX || !may_give(planning, even, from) {
            break;
        }
        if let Some((to, node)) = target(planning, *index, from, even, given) {
            ask(planning, *index, from, (to, node));
            given[node] += 1;
            moved += 1;
        }
    }
    moved > 0
}

fn ask(planning: &mut Planning<'_>, index: usize, from: usize, (to, node): (Replica, usize)) {
    let nodes = &planning.cluster.nodes;
    let (has, other) = (nodes[from].leaders, nodes[node].leaders);
    let why = format!("its node leads {has} ranges, the other one {other}");
    planning.ask_transfer(index, to, why);
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
    let nodes = &planning.cluster.nodes;
    let count = nodes[from].leaders;
    nodes.iter().any(|node| node.may_lead() && should_move(even, count, node.leaders))
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

/// Where no follower of a node's ranges is on a node with fewer leaderships, some other node's may
/// be: along the shortest way there every node hands one leadership on to the next.
fn pass_on(planning: &mut Planning<'_>, even: Even, from: usize, led: &[Vec<usize>]) -> bool {
    if !may_give(planning, even, from) {
        return false;
    }
    let count = planning.cluster.nodes[from].leaders;
    let mut reached_by: Vec<Option<(usize, usize, Replica)>> = vec![None; led.len()];
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        for index in &led[node] {
            for (voter, next) in followers(planning, *index) {
                if next == from || reached_by[next].is_some() {
                    continue;
                }
                reached_by[next] = Some((node, *index, voter));
                if should_move(even, count, planning.cluster.nodes[next].leaders) {
                    hand_on(planning, &reached_by, next);
                    return true;
                }
                queue.push_back(next);
            }
        }
    }
    false
}

fn hand_on(
    planning: &mut Planning<'_>,
    reached_by: &[Option<(usize, usize, Replica)>],
    mut node: usize,
) {
    while let Some((from, index, voter)) = reached_by[node] {
        ask(planning, index, from, (voter, node));
        node = from;
    }
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
