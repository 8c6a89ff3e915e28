//! Whether what an operator of the cluster asks for can be done; pure, so that it can be told before
//! anything is started.

use crate::cluster::Cluster;
use crate::{ClusterView, Policy, RangeView};
use rangedb_types::{NodeId, RangeId, ReplicaRole};

/// Why a node cannot be emptied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    #[error("node {0} is not known")]
    UnknownNode(NodeId),
    #[error(
        "without node {node_id} there would be {nodes_left} nodes for {wanted} replicas of each range; add {} more, or lower the replication factor", wanted - nodes_left
    )]
    Nodes { node_id: NodeId, nodes_left: usize, wanted: usize },
    #[error(
        "node {node_id} holds {needed_bytes} bytes, and the other nodes have room for {room_bytes}; add {} bytes or more of disk", needed_bytes - room_bytes
    )]
    Space { node_id: NodeId, needed_bytes: u64, room_bytes: u64 },
}

/// Why a replica cannot be moved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveRefusal {
    #[error("node {0} is not known")]
    UnknownNode(NodeId),
    #[error("range {range_id} has no replica on node {node_id}")]
    NoReplica { range_id: RangeId, node_id: NodeId },
    #[error("range {range_id} has a replica on node {node_id} already")]
    HasReplica { range_id: RangeId, node_id: NodeId },
    #[error("node {0} is down")]
    Down(NodeId),
    #[error("node {0} is being emptied, or takes no replicas")]
    NotAccepting(NodeId),
    #[error("the disk of node {0} is nearly full")]
    NearlyFull(NodeId),
    #[error("range {0} is changing; try again when it has settled")]
    Changing(RangeId),
}

/// Why a leadership cannot be handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferRefusal {
    #[error("node {0} is not known")]
    UnknownNode(NodeId),
    #[error("range {range_id} has no replica on node {node_id}")]
    NoReplica { range_id: RangeId, node_id: NodeId },
    #[error("node {0} is down")]
    Down(NodeId),
    #[error("node {0} is being emptied")]
    Draining(NodeId),
    #[error("the replica of range {range_id} on node {node_id} is a learner, and has no vote")]
    Learner { range_id: RangeId, node_id: NodeId },
    #[error("the replica of range {range_id} on node {node_id} has not caught up")]
    NotCaughtUp { range_id: RangeId, node_id: NodeId },
    #[error("range {0} is changing; try again when it has settled")]
    Changing(RangeId),
}

/// Whether enough nodes, and room on their disks, would be left without this one.
///
/// # Errors
/// `Shortage` says what is missing.
pub fn can_drain(view: &ClusterView, policy: &Policy, node_id: NodeId) -> Result<(), Shortage> {
    let cluster = Cluster::of(view, 0);
    let node = cluster.get(node_id).ok_or(Shortage::UnknownNode(node_id))?;
    let wanted = policy.replication_factor.max(1);
    let others = || {
        let others = cluster.nodes.iter().filter(|other| other.view.node_id != node_id);
        others.filter(|other| other.has_share())
    };
    let nodes_left = others().count();
    if nodes_left < wanted {
        return Err(Shortage::Nodes { node_id, nodes_left, wanted });
    }
    if others().any(|other| other.view.capacity_bytes == 0) {
        return Ok(());
    }
    let room_bytes = others().fold(0_u64, |sum, other| {
        let reserved = other.view.capacity_bytes / 100 * (100 - crate::cluster::FULL_PERCENT);
        sum.saturating_add(other.view.available_bytes.saturating_sub(reserved))
    });
    let on_node =
        view.ranges.iter().filter(|range| range.descriptor.replica_on(node.view.node_id).is_some());
    let needed_bytes =
        on_node.fold(0_u64, |sum, range| sum.saturating_add(range.size_bytes.unwrap_or(0)));
    if needed_bytes > room_bytes {
        return Err(Shortage::Space { node_id, needed_bytes, room_bytes });
    }
    Ok(())
}

/// Whether the range's replica on one node can be moved to another one.
///
/// # Errors
/// `MoveRefusal` says why not.
pub fn can_move(
    range: &RangeView,
    from: NodeId,
    to: NodeId,
    view: &ClusterView,
) -> Result<(), MoveRefusal> {
    let cluster = Cluster::of(view, 0);
    let range_id = range.descriptor.range_id;
    let target = cluster.get(to).ok_or(MoveRefusal::UnknownNode(to))?;
    if range.descriptor.replica_on(from).is_none() {
        let refusal = MoveRefusal::NoReplica { range_id, node_id: from };
        return Err(if cluster.get(from).is_some() {
            refusal
        } else {
            MoveRefusal::UnknownNode(from)
        });
    }
    if range.descriptor.replica_on(to).is_some() {
        return Err(MoveRefusal::HasReplica { range_id, node_id: to });
    }
    if !target.is_up() {
        return Err(MoveRefusal::Down(to));
    }
    if target.view.draining || !target.view.accepts_replicas {
        return Err(MoveRefusal::NotAccepting(to));
    }
    if !target.takes_replicas() {
        return Err(MoveRefusal::NearlyFull(to));
    }
    if range.descriptor.is_joint() || range.merging.is_some() {
        return Err(MoveRefusal::Changing(range_id));
    }
    Ok(())
}

/// Whether the range's replica on a node can lead it.
///
/// # Errors
/// `TransferRefusal` says why not.
pub fn can_transfer(
    range: &RangeView,
    to: NodeId,
    view: &ClusterView,
) -> Result<(), TransferRefusal> {
    let range_id = range.descriptor.range_id;
    let node = view.nodes.iter().find(|node| node.node_id == to);
    let node = node.ok_or(TransferRefusal::UnknownNode(to))?;
    let Some(replica) = range.descriptor.replica_on(to) else {
        return Err(TransferRefusal::NoReplica { range_id, node_id: to });
    };
    if node.liveness != crate::Liveness::Up {
        return Err(TransferRefusal::Down(to));
    }
    if node.draining {
        return Err(TransferRefusal::Draining(to));
    }
    if range.descriptor.is_joint() || range.merging.is_some() {
        return Err(TransferRefusal::Changing(range_id));
    }
    if replica.role != ReplicaRole::Voter {
        return Err(TransferRefusal::Learner { range_id, node_id: to });
    }
    if !range.caught_up.contains(&replica.replica_id) || range.down.contains(&replica.replica_id) {
        return Err(TransferRefusal::NotCaughtUp { range_id, node_id: to });
    }
    Ok(())
}
