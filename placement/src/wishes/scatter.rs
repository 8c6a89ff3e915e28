//! Which ranges of a span move, or are led from elsewhere, so that the span is spread over the nodes.

use crate::state::{Goal, Wish};
use rangedb_planner::{ClusterView, NodeView, RangeView, can_move, can_transfer};
use rangedb_types::{NodeId, Span};
use std::collections::BTreeMap;

/// Counts over the span.
#[derive(Default)]
struct Counts {
    replicas: BTreeMap<NodeId, usize>,
    leaders: BTreeMap<NodeId, usize>,
}

impl Counts {
    fn replicas(&self, node_id: NodeId) -> usize {
        self.replicas.get(&node_id).copied().unwrap_or_default()
    }

    fn leaders(&self, node_id: NodeId) -> usize {
        self.leaders.get(&node_id).copied().unwrap_or_default()
    }

    fn shift(counts: &mut BTreeMap<NodeId, usize>, from: NodeId, to: NodeId) {
        *counts.entry(to).or_default() += 1;
        if let Some(count) = counts.get_mut(&from) {
            *count = count.saturating_sub(1);
        }
    }
}

/// At most `most` wishes, one a range: moves from nodes that have at least two replicas more than
/// the target, then leaders likewise. Busy ranges count and stay as they are.
#[must_use]
pub fn scatter(
    view: &ClusterView,
    span: &Span,
    most: usize,
    is_busy: impl Fn(&RangeView) -> bool,
) -> Vec<Wish> {
    let ranges: Vec<_> =
        view.ranges.iter().filter(|range| range.descriptor.span.overlaps(span)).collect();
    let mut counts = Counts::default();
    for range in &ranges {
        for replica in &range.descriptor.replicas {
            *counts.replicas.entry(replica.node_id).or_default() += 1;
        }
        if let Some(leader) = range.leader {
            *counts.leaders.entry(leader).or_default() += 1;
        }
    }
    let mut wishes = Vec::new();
    for range in ranges {
        let range_id = range.descriptor.range_id;
        if wishes.len() == most || is_busy(range) {
            continue;
        }
        let goal =
            moved(range, view, &mut counts).or_else(|| handed_over(range, view, &mut counts));
        wishes.extend(goal.map(|goal| Wish { range_id, goal }));
    }
    wishes
}

fn moved(range: &RangeView, view: &ClusterView, counts: &mut Counts) -> Option<Goal> {
    let nodes = range.descriptor.replicas.iter().map(|replica| replica.node_id);
    let from = nodes.max_by_key(|node_id| (counts.replicas(*node_id), *node_id))?;
    let fits = |node: &&NodeView| can_move(range, from, node.node_id, view).is_ok();
    let targets = view.nodes.iter().filter(fits).map(|node| node.node_id);
    let to = targets.min_by_key(|node_id| (counts.replicas(*node_id), *node_id))?;
    if counts.replicas(from) < counts.replicas(to) + 2 || in_one_zone(range, from, to, view) {
        return None;
    }
    Counts::shift(&mut counts.replicas, from, to);
    Some(Goal::Move { from, to })
}

/// True if the move would put a replica into a zone where the range has another one, and it has
/// none in common now.
fn in_one_zone(range: &RangeView, from: NodeId, to: NodeId, view: &ClusterView) -> bool {
    let zone = |node_id: NodeId| {
        let node = view.nodes.iter().find(|node| node.node_id == node_id);
        node.map(|node| (&node.region, &node.zone))
    };
    let shares = |place: NodeId| {
        let others = range.descriptor.replicas.iter().map(|replica| replica.node_id);
        others.filter(|other| *other != from && zone(*other) == zone(place)).count()
    };
    shares(to) > shares(from)
}

fn handed_over(range: &RangeView, view: &ClusterView, counts: &mut Counts) -> Option<Goal> {
    let from = range.leader?;
    let nodes = range.descriptor.replicas.iter().map(|replica| replica.node_id);
    let able = nodes.filter(|node_id| *node_id != from);
    let able = able.filter(|node_id| can_transfer(range, *node_id, view).is_ok());
    let to = able.min_by_key(|node_id| (counts.leaders(*node_id), *node_id))?;
    if counts.leaders(from) < counts.leaders(to) + 2 {
        return None;
    }
    Counts::shift(&mut counts.leaders, from, to);
    Some(Goal::TransferLeader { to })
}
