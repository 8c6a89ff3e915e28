//! What a plan consists of.

use rangedb_types::{Epoch, NodeId, RangeId, Replica};
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
    Promote { replicas: Vec<Replica> },
    /// Remove a replica that has no vote.
    Remove { replica: Replica },
    /// End the joint configuration.
    LeaveJoint,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLearner { node_id } => write!(f, "add a learner on node {node_id}"),
            Self::Promote { replicas } => {
                let nodes: Vec<_> =
                    replicas.iter().map(|replica| replica.node_id.to_string()).collect();
                write!(f, "make voters of the replicas on nodes {}", nodes.join(", "))
            }
            Self::Remove { replica } => {
                write!(f, "remove replica {} from node {}", replica.replica_id, replica.node_id)
            }
            Self::LeaveJoint => f.write_str("leave the joint configuration"),
        }
    }
}
