//! Which neighbours are to become one range, and which are in the middle of it.

use crate::cluster::Cluster;
use crate::{ClusterView, Policy, RangeView};
use rangedb_types::{NodeId, ReplicaRole};
use std::collections::{BTreeMap, BTreeSet};

/// Neighbours' load together must be below a split's threshold divided by this.
const QUIET_FACTOR: u64 = 4;

/// Pairs of neighbours. No range is in two of them.
#[derive(Default)]
pub(crate) struct Pairs {
    /// Right to left, for merges that are being prepared.
    left_of: BTreeMap<usize, usize>,
    /// Right ranges that are frozen, with the left ones they are frozen for.
    frozen: BTreeMap<usize, Option<usize>>,
    /// Both ranges of every frozen pair.
    held: BTreeSet<usize>,
}

impl Pairs {
    pub(crate) fn of(view: &ClusterView, cluster: &Cluster<'_>, policy: &Policy) -> Self {
        let mut pairs = Self::default();
        for (index, range) in view.ranges.iter().enumerate() {
            let Some(intent) = range.merging else { continue };
            let left = index
                .checked_sub(1)
                .filter(|left| view.ranges[*left].descriptor.range_id == intent.left_range_id);
            pairs.held.insert(index);
            pairs.held.extend(left);
            pairs.frozen.insert(index, left);
        }
        let mut left = 0;
        while left + 1 < view.ranges.len()
            && pairs.left_of.len() + pairs.frozen.len() < policy.merges_max
        {
            let right = left + 1;
            let free = !pairs.held.contains(&left) && !pairs.held.contains(&right);
            if free && should_merge(&view.ranges[left], &view.ranges[right], cluster, policy) {
                pairs.left_of.insert(right, left);
                left += 1;
            }
            left += 1;
        }
        pairs
    }

    /// The range that this one is to be merged into.
    pub(crate) fn left_of(&self, right: usize) -> Option<usize> {
        self.left_of.get(&right).copied()
    }

    /// True for both ranges of a merge that has begun.
    pub(crate) fn is_frozen(&self, index: usize) -> bool {
        self.held.contains(&index)
    }

    /// Left and right of all merges that are to be prepared.
    pub(crate) fn chosen(&self) -> Vec<(usize, usize)> {
        self.left_of.iter().map(|(right, left)| (*left, *right)).collect()
    }

    /// Left, if it is there, and right of all merges that have begun.
    pub(crate) fn begun(&self) -> Vec<(Option<usize>, usize)> {
        self.frozen.iter().map(|(right, left)| (*left, *right)).collect()
    }
}

fn should_merge(
    left: &RangeView,
    right: &RangeView,
    cluster: &Cluster<'_>,
    policy: &Policy,
) -> bool {
    are_small(left, right, policy)
        && left.leader.is_some()
        && right.leader.is_some()
        && left.descriptor.span.end == right.descriptor.span.start
        && !left.descriptor.span.end.is_empty()
        && are_quiet(left, right, policy)
        && can_meet(left, right, cluster)
}

/// Small alone, and together so small that they are not split again soon.
fn are_small(left: &RangeView, right: &RangeView, policy: &Policy) -> bool {
    let (Some(left), Some(right)) = (left.size_bytes, right.size_bytes) else { return false };
    left.max(right) < policy.merge_size_bytes
        && left.saturating_add(right) <= policy.split_size_bytes / 2
}

fn are_quiet(left: &RangeView, right: &RangeView, policy: &Policy) -> bool {
    let quiet =
        |load: u64, threshold: u64| threshold == 0 || load < threshold.div_ceil(QUIET_FACTOR);
    quiet(left.requests().saturating_add(right.requests()), policy.split_requests_per_second)
        && quiet(
            left.bytes_written_per_second.saturating_add(right.bytes_written_per_second),
            policy.split_bytes_per_second,
        )
}

/// True if the right range's replicas are, or can be moved, where the left one's are.
fn can_meet(left: &RangeView, right: &RangeView, cluster: &Cluster<'_>) -> bool {
    let is_steady = |range: &RangeView| {
        range.descriptor.replicas.iter().all(|replica| {
            cluster.get(replica.node_id).is_some_and(|node| node.is_up() && !node.view.draining)
        })
    };
    if left.descriptor.is_joint() || !is_steady(left) || !is_steady(right) {
        return false;
    }
    if same_places(left, right) {
        return true;
    }
    let voters = |range: &RangeView| range.descriptor.with_role(ReplicaRole::Voter).count();
    voters(left) == left.descriptor.replicas.len()
        && (right.descriptor.is_joint() || voters(right) >= voters(left))
        && missing_nodes(left, right)
            .all(|node_id| cluster.get(node_id).is_some_and(|node| node.takes_replicas()))
}

/// Nodes that have a replica of the left range and none of the right one.
pub(crate) fn missing_nodes<'a>(
    left: &'a RangeView,
    right: &'a RangeView,
) -> impl Iterator<Item = NodeId> + 'a {
    left.descriptor
        .replicas
        .iter()
        .map(|replica| replica.node_id)
        .filter(|node_id| right.descriptor.replica_on(*node_id).is_none())
}

/// True if both have the same kinds of replicas on the same nodes.
pub(crate) fn same_places(left: &RangeView, right: &RangeView) -> bool {
    let (left, right) = (&left.descriptor, &right.descriptor);
    left.replicas.len() == right.replicas.len()
        && left.replicas.iter().all(|replica| {
            right.replica_on(replica.node_id).is_some_and(|other| other.role == replica.role)
        })
}
