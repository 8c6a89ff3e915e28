//! The view of one round, with what several wishes ask of it.

use rangedb_planner::{ClusterView, Liveness, NodeView, Policy, RangeView};
use rangedb_types::{NodeId, RangeId, Replica, ReplicaRole};
use std::collections::BTreeMap;

/// Finds ranges and nodes, and counts copies under way.
pub(super) struct Survey<'a> {
    pub(super) view: &'a ClusterView,
    moves_per_node_max: usize,
    places: BTreeMap<RangeId, usize>,
    /// Learners that are being filled, on the nodes that fill them and on those that are filled.
    copies: BTreeMap<NodeId, usize>,
}

impl<'a> Survey<'a> {
    pub(super) fn of(view: &'a ClusterView, policy: &Policy) -> Self {
        let place = |(place, range): (usize, &RangeView)| (range.descriptor.range_id, place);
        let mut survey = Self {
            view,
            moves_per_node_max: policy.moves_per_node_max,
            places: view.ranges.iter().enumerate().map(place).collect(),
            copies: BTreeMap::new(),
        };
        for range in &view.ranges {
            for learner in range.descriptor.with_role(ReplicaRole::Learner) {
                if !range.caught_up.contains(&learner.replica_id) {
                    survey.count_copy(range, learner.node_id);
                }
            }
        }
        survey
    }

    pub(super) fn range(&self, range_id: RangeId) -> Option<&'a RangeView> {
        self.places.get(&range_id).map(|place| &self.view.ranges[*place])
    }

    /// The range behind this one in key order.
    pub(super) fn right_of(&self, range: &RangeView) -> Option<&'a RangeView> {
        let place = self.places.get(&range.descriptor.range_id)?;
        self.view.ranges.get(place + 1)
    }

    pub(super) fn begins_at(&self, key: &[u8]) -> bool {
        let start = |range: &RangeView| range.descriptor.span.start.as_slice().cmp(key);
        self.view.ranges.binary_search_by(start).is_ok()
    }

    /// True if its right neighbour is frozen for it.
    pub(super) fn is_left_of_frozen(&self, range: &RangeView) -> bool {
        let intent = self.right_of(range).and_then(|right| right.merging);
        intent.is_some_and(|intent| intent.left_range_id == range.descriptor.range_id)
    }

    pub(super) fn node(&self, node_id: NodeId) -> Option<&'a NodeView> {
        self.view.nodes.iter().find(|node| node.node_id == node_id)
    }

    pub(super) fn is_up(&self, node_id: NodeId) -> bool {
        self.node(node_id).is_some_and(|node| node.liveness == Liveness::Up)
    }

    /// True if the node is down for good, or not known at all.
    pub(super) fn is_lost(&self, node_id: NodeId) -> bool {
        self.node(node_id).is_none_or(|node| node.liveness == Liveness::Down)
    }

    /// True if the replica lives, is heard from and has the data.
    pub(super) fn is_good(&self, range: &RangeView, replica: &Replica) -> bool {
        range.caught_up.contains(&replica.replica_id)
            && !range.down.contains(&replica.replica_id)
            && !self.is_lost(replica.node_id)
    }

    /// True if the replica is a voter that may be asked to lead.
    pub(super) fn could_lead(&self, range: &RangeView, replica: &Replica) -> bool {
        replica.role == ReplicaRole::Voter
            && self.is_good(range, replica)
            && self.node(replica.node_id).is_some_and(|node| {
                node.liveness == Liveness::Up && !node.draining && !node.catching_up
            })
    }

    /// The node that is too busy with copies for one more of this range, if one is.
    pub(super) fn too_busy(&self, range: &RangeView, to: NodeId) -> Option<NodeId> {
        let busy =
            |node_id: &NodeId| self.copies.get(node_id).copied() >= Some(self.moves_per_node_max);
        std::iter::once(to).chain(range.leader).find(busy)
    }

    /// Counts a copy that is begun.
    pub(super) fn count_copy(&mut self, range: &RangeView, to: NodeId) {
        for node_id in std::iter::once(to).chain(range.leader) {
            *self.copies.entry(node_id).or_default() += 1;
        }
    }
}
