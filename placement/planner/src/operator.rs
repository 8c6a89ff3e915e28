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

/// How a split finds its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SplitAt {
    /// At this key. Plans never say so: it is what a person asks for.
    Key(Vec<u8>),
    /// Halves of equal size.
    Size,
    /// Halves of equal load.
    Load,
}

/// The next change of a range.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Create a replica without a vote on this node.
    AddLearner { node_id: NodeId },
    /// Make voters of these learners and learners of these voters, all in one joint change.
    ChangeVoters { promote: Vec<Replica>, demote: Vec<Replica> },
    /// Remove a replica that has no vote.
    Remove { replica: Replica },
    /// End the joint configuration.
    LeaveJoint,
    /// Hand the leadership to this voter.
    TransferLeader { to: Replica },
    /// Cut the range in two.
    Split { at: SplitAt },
    /// Make this right neighbour, which the same node leads, part of the range; also to go on with
    /// a merge for which the neighbour is frozen already.
    Merge { right: RangeId, right_epoch: Epoch },
    /// Make sure that the merge which began at this version of the range never happens.
    AbortMerge { left_version: u64 },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLearner { node_id } => write!(f, "add a learner on node {node_id}"),
            Self::ChangeVoters { promote, demote } => {
                let mut parts = Vec::new();
                if !promote.is_empty() {
                    parts.push(format!("make voters of the replicas on {}", nodes_of(promote)));
                }
                if !demote.is_empty() {
                    parts.push(format!("take the vote from the replicas on {}", nodes_of(demote)));
                }
                f.write_str(&parts.join(", "))
            }
            Self::Remove { replica } => {
                write!(f, "remove replica {} from node {}", replica.replica_id, replica.node_id)
            }
            Self::LeaveJoint => f.write_str("leave the joint configuration"),
            Self::TransferLeader { to } => write!(f, "hand the lead to node {}", to.node_id),
            Self::Split { at: SplitAt::Key(key) } => {
                write!(f, "split at {}", String::from_utf8_lossy(key))
            }
            Self::Split { at: SplitAt::Size } => f.write_str("split into halves of equal size"),
            Self::Split { at: SplitAt::Load } => f.write_str("split into halves of equal load"),
            Self::Merge { right, .. } => write!(f, "merge with range {right} on its right"),
            Self::AbortMerge { .. } => f.write_str("give up the merge with its right neighbour"),
        }
    }
}

fn nodes_of(replicas: &[Replica]) -> String {
    let nodes: Vec<_> = replicas.iter().map(|replica| replica.node_id.to_string()).collect();
    if nodes.len() == 1 {
        format!("node {}", nodes[0])
    } else {
        format!("nodes {}", nodes.join(", "))
    }
}
