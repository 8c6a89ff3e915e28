//! Evens out the number of replicas a node, and takes replicas from disks that are nearly full.
//!
//! A replica only moves from a node above the mean to one below it, so that the moves add up to what
//! an even spread needs. Only where places, or replicas that are there already, forbid every such
//! move, and nothing is in motion, does it move between nodes on the same side of the mean.

use super::Even;
use crate::cluster::{AMPLE_PERCENT, FULL_PERCENT, Place};
use crate::members::victims;
use crate::planning::Planning;
use crate::spread::imagined;
use rangedb_types::NodeId;
use std::cmp::Reverse;

pub(super) fn balance(planning: &mut Planning<'_>) {
    let sharers = || planning.cluster.nodes.iter().filter(|node| node.has_share());
    let even = Even::of(sharers().map(|node| node.replicas as u64));
    let full = sharers().any(|node| node.used_percent() > FULL_PERCENT);
    let uneven = sharers().any(|node| even.is_over(node.replicas) || even.is_under(node.replicas));
    if !full && !uneven {
        return;
    }
    let mut moves = Moves::of(planning, even);
    if full {
        moves.empty_full_disks();
    }
    if uneven && !moves.level(true) && planning_is_still(moves.planning) {
        moves.level(false);
    }
}

fn planning_is_still(planning: &Planning<'_>) -> bool {
    planning.victims.is_empty() && planning.operators.is_empty()
}

struct Moves<'a, 'p> {
    planning: &'p mut Planning<'a>,
    even: Even,
    /// Ranges by the index of a node, those that it does not lead first: they move without a change
    /// of leaders.
    ranges: Vec<Vec<u32>>,
    /// Nodes that may get more, the emptiest first.
    targets: Vec<usize>,
}

impl<'a, 'p> Moves<'a, 'p> {
    fn of(planning: &'p mut Planning<'a>, even: Even) -> Self {
        let cluster = &planning.cluster;
        let mut ranges = vec![Vec::new(); cluster.nodes.len()];
        let mut led = ranges.clone();
        for (index, range) in planning.view.ranges.iter().enumerate() {
            let index = u32::try_from(index).expect("fewer ranges than 2^32");
            for replica in &range.descriptor.replicas {
                if let Some(node) = cluster.index(replica.node_id) {
                    let leads = range.leader == Some(replica.node_id);
                    if leads { led[node].push(index) } else { ranges[node].push(index) }
                }
            }
        }
        for (all, mut led) in ranges.iter_mut().zip(led) {
            all.append(&mut led);
        }
        let mut targets: Vec<_> = (0..cluster.nodes.len())
            .filter(|node| {
                let node = &cluster.nodes[*node];
                node.takes_replicas() && node.used_percent() <= AMPLE_PERCENT
            })
            .collect();
        targets.sort_unstable_by_key(|node| {
            let node = &cluster.nodes[*node];
            (node.replicas, node.mixed)
        });
        Self { planning, even, ranges, targets }
    }

    fn sources(&self) -> Vec<usize> {
        let nodes = &self.planning.cluster.nodes;
        let mut sources: Vec<_> =
            (0..nodes.len()).filter(|node| nodes[*node].has_share()).collect();
        sources.sort_unstable_by_key(|node| (Reverse(nodes[*node].replicas), nodes[*node].mixed));
        sources
    }

    fn empty_full_disks(&mut self) {
        for from in self.sources() {
            let percent = self.planning.cluster.nodes[from].used_percent();
            if percent <= FULL_PERCENT {
                continue;
            }
            let most = self.planning.policy.moves_per_node_max;
            let moved = self.give(
                from,
                most,
                |_, _| true,
                |_| format!("the disk of its node is {percent} % full"),
            );
            if moved == 0 {
                let node_id = self.planning.cluster.nodes[from].view.node_id;
                self.planning.explanation.wait(|| {
                    format!("the disk of node {node_id} is {percent} % full, and no other node can take a replica now")
                });
            }
        }
    }

    /// True if anything is to move.
    fn level(&mut self, crossing: bool) -> bool {
        let even = self.even;
        let mut any = false;
        for from in self.sources() {
            let wanted = move |from: usize, to: usize| {
                from >= to + 2
                    && (even.is_over(from) || even.is_under(to))
                    && (!crossing || (even.is_above(from) && even.is_below(to)))
            };
            let moved = self.give(from, usize::MAX, wanted, |counts| {
                format!("its node has {} replicas, the other one {}", counts.0, counts.1)
            });
            any |= moved > 0;
        }
        any
    }

    /// Moves up to `most` replicas away from a node, to nodes for which `wanted` holds of the two
    /// counts.
    fn give(
        &mut self,
        from: usize,
        most: usize,
        wanted: impl Fn(usize, usize) -> bool,
        why: impl Fn((usize, usize)) -> String,
    ) -> usize {
        let ranges = std::mem::take(&mut self.ranges[from]);
        let mut moved = 0;
        for range in &ranges {
            let count = self.planning.cluster.nodes[from].replicas;
            if moved >= most || !self.targets.iter().any(|to| self.suits(count, *to, &wanted)) {
                break;
            }
            let index = *range as usize;
            if self.planning.is_busy(index)
                || !self.planning.budget.may_send(self.planning.range(index))
                || !self.planning.is_healthy(index)
            {
                continue;
            }
            let Some(to) = self.target(index, from, &wanted) else { continue };
            let counts = (count, self.planning.cluster.nodes[to].replicas);
            let node_id = self.planning.cluster.nodes[to].view.node_id;
            self.planning.ask_learner(index, node_id, why(counts));
            let from_id = self.planning.cluster.nodes[from].view.node_id;
            self.planning.cluster.drop_replica(from_id);
            moved += 1;
        }
        // What could not cross the mean may move on one side of it.
        self.ranges[from] = ranges;
        moved
    }

    fn suits(&self, count: usize, to: usize, wanted: &impl Fn(usize, usize) -> bool) -> bool {
        let node = &self.planning.cluster.nodes[to];
        wanted(count, node.replicas) && self.planning.budget.may_receive(node.view.node_id)
    }

    /// The emptiest node that may take the replica so that just that one goes. Which one goes does
    /// not depend on which of the emptier nodes in one place takes it: each place is tried once.
    fn target(
        &self,
        index: usize,
        from: usize,
        wanted: &impl Fn(usize, usize) -> bool,
    ) -> Option<usize> {
        let nodes = &self.planning.cluster.nodes;
        let from_id = nodes[from].view.node_id;
        let replicas = &self.planning.range(index).descriptor.replicas;
        let mut tried: Vec<Place> = Vec::new();
        for to in self.targets.iter().copied() {
            let to_id = nodes[to].view.node_id;
            let suits = self.suits(nodes[from].replicas, to, wanted)
                && !tried.contains(&nodes[to].place)
                && !replicas.iter().any(|replica| replica.node_id == to_id);
            if !suits {
                continue;
            }
            if self.goes(index, from_id, to_id) {
                return Some(to);
            }
            tried.push(nodes[to].place);
        }
        None
    }

    fn goes(&self, index: usize, from: NodeId, to: NodeId) -> bool {
        let mut members = self.planning.range(index).descriptor.replicas.clone();
        if members.len() < self.planning.wanted() {
            return false;
        }
        members.push(imagined(to));
        let victim = victims(&self.planning.cluster, members, 1, None);
        victim.first().is_some_and(|victim| victim.node_id == from)
    }
}
