//! Which node gets a new replica, and which one the leadership.

use crate::RangeView;
use crate::cluster::{Cluster, Node, Sharing};
use crate::members::sharing;
use rangedb_types::{NodeId, Replica, ReplicaRole};

/// How bad a node is for one more replica of a range; the smallest wins. Far apart comes before
/// evenly filled: a lost zone must not take a majority along.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    sharing: Sharing,
    replicas_on_node: usize,
    mixed: u64,
    node_id: NodeId,
}

/// The best node for one more replica, as far apart from `stay` as can be, that `allowed` lets pass.
pub(crate) fn best_node(
    cluster: &Cluster<'_>,
    range: &RangeView,
    stay: &[Replica],
    allowed: impl Fn(&Node<'_>) -> bool,
) -> Option<NodeId> {
    candidates(cluster, range)
        .filter(|node| allowed(node))
        .min_by_key(|node| Score {
            sharing: sharing(cluster, stay, node.view.node_id, None),
            replicas_on_node: node.replicas,
            mixed: node.mixed,
            node_id: node.view.node_id,
        })
        .map(|node| node.view.node_id)
}

/// Nodes that could take a replica of this range.
pub(crate) fn candidates<'a, 'b>(
    cluster: &'b Cluster<'a>,
    range: &RangeView,
) -> impl Iterator<Item = &'b Node<'a>> {
    cluster.nodes.iter().filter(|node| {
        node.takes_replicas() && range.descriptor.replica_on(node.view.node_id).is_none()
    })
}

/// The voter that should lead instead of the one that does, if another one than those in `not` can.
pub(crate) fn best_leader(
    cluster: &Cluster<'_>,
    range: &RangeView,
    not: &[Replica],
) -> Option<Replica> {
    range
        .descriptor
        .with_role(ReplicaRole::Voter)
        .filter(|voter| Some(voter.node_id) != range.leader && !not.contains(voter))
        .filter(|voter| cluster.could_lead(range, voter))
        .min_by_key(|voter| {
            let node = cluster.get(voter.node_id).expect("only a known node could lead");
            (node.leaders, node.requests, node.mixed, voter.node_id)
        })
        .copied()
}
