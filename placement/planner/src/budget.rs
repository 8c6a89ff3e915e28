//! How many copies may be under way on one node.

use crate::cluster::Cluster;
use crate::{ClusterView, Policy, RangeView};
use rangedb_types::{NodeId, ReplicaRole};
use std::collections::BTreeMap;

/// Counts learners that are still being filled, on the node that fills them and on the one that is
/// filled.
pub(crate) struct Budget {
    under_way: BTreeMap<NodeId, usize>,
    moves_per_node_max: usize,
}

impl Budget {
    pub(crate) fn of(view: &ClusterView, cluster: &Cluster<'_>, policy: &Policy) -> Self {
        let mut budget = Self {
            under_way: BTreeMap::new(),
            moves_per_node_max: policy.moves_per_node_max.max(1),
        };
        for range in &view.ranges {
            for learner in range.descriptor.with_role(ReplicaRole::Learner) {
                // A learner on a lost node moves nothing.
                if !range.caught_up.contains(&learner.replica_id)
                    && !cluster.is_lost(learner.node_id)
                {
                    budget.take(range, learner.node_id);
                }
            }
        }
        budget
    }

    /// True if the range's leader may send one more copy to this node.
    pub(crate) fn allows(&self, range: &RangeView, to: NodeId) -> bool {
        self.may_receive(to) && self.may_send(range)
    }

    pub(crate) fn may_receive(&self, node_id: NodeId) -> bool {
        self.under_way.get(&node_id).copied().unwrap_or(0) < self.moves_per_node_max
    }

    pub(crate) fn may_send(&self, range: &RangeView) -> bool {
        range.leader.is_none_or(|leader| self.may_receive(leader))
    }

    pub(crate) fn take(&mut self, range: &RangeView, to: NodeId) {
        for node_id in std::iter::once(to).chain(range.leader) {
            *self.under_way.entry(node_id).or_default() += 1;
        }
    }
}
