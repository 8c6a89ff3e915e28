//! What a plan consists of.

use rangedb_types::{Epoch, NodeId, RangeId, ReplicaId};
use std::fmt;

/// One accepted step for one range. A node refuses it unless the range still has this epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    pub range_id: RangeId,
    pub epoch: Epoch,
    /// The node that leads the range, and must carry the step out.
    pub leader: NodeId,
    pub step: Step,
    pub why: String,
}

/// The next change of a range's replicas.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Create a replica without a vote on this node.
    AddLearner { node_id: NodeId },
    /// Make these learners voters, all in one joint change.
    Promote { replica_ids: Vec<ReplicaId> },
    /// Remove a replica that has no vote.
    Remove { replica_id: ReplicaId },
    /// End the joint configuration.
    LeaveJoint,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLearner { node_id } => write!(f, "add a learner on node {node_id}"),
            Self::Promote { replica_ids } => {
                let ids: Vec<_> = replica_ids.iter().map(ToString::to_string).collect();
                write!(f, "promote replicas {} to voters", ids.join(", "))
            }
            Self::Remove { replica_id } => write!(f, "remove replica {replica_id}"),
            Self::LeaveJoint => f.write_str("leave the joint configuration"),
        }
    }
}
