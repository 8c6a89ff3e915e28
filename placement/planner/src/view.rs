//! The cluster as the planner sees it.

use rangedb_types::{NodeId, RangeDescriptor, ReplicaId};
use std::collections::BTreeSet;

/// Whether a node was heard from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Liveness {
    Up,
    /// Missed a few beats: gets nothing new, keeps what it has.
    Suspect,
    /// Silent for so long that its replicas count as lost.
    Down,
}

/// A storage node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    pub node_id: NodeId,
    pub liveness: Liveness,
    /// False if the operator wants nothing new on it.
    pub accepts_replicas: bool,
    pub region: String,
    pub zone: String,
    pub rack: String,
}

/// A range as its leader reported it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeView {
    /// The newest descriptor known.
    pub descriptor: RangeDescriptor,
    /// The node of the leader; `None` if none was heard from lately.
    pub leader: Option<NodeId>,
    /// Replicas that hold a snapshot and are at most a few entries behind.
    pub caught_up: BTreeSet<ReplicaId>,
}

/// Everything a plan is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    pub nodes: Vec<NodeView>,
    /// In the order in which they should be served.
    pub ranges: Vec<RangeView>,
}

impl ClusterView {
    pub(crate) fn node(&self, node_id: NodeId) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.node_id == node_id)
    }

    /// True if the node is known and not lost.
    pub(crate) fn lives(&self, node_id: NodeId) -> bool {
        self.node(node_id).is_some_and(|node| node.liveness != Liveness::Down)
    }

    pub(crate) fn is_up(&self, node_id: NodeId) -> bool {
        self.node(node_id).is_some_and(|node| node.liveness == Liveness::Up)
    }
}

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub replication_factor: usize,
    /// Most new replicas that one node may send or receive at the same time.
    pub moves_per_node_max: usize,
}
