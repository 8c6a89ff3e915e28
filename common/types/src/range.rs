//! What a range is: its bounds, its epoch and its replicas.

use crate::{Epoch, NodeId, RangeId, ReplicaId, Span};
use serde::{Deserialize, Serialize};

/// The part a replica plays in its Raft group. The two joint roles exist only between entering and
/// leaving a joint configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaRole {
    /// Votes, and counts for commits.
    Voter,
    /// Receives the log, has no vote.
    Learner,
    /// Becomes a voter when the joint configuration is left; votes in the incoming half already.
    IncomingVoter,
    /// Becomes a learner when the joint configuration is left; votes in the outgoing half still.
    DemotingVoter,
}

/// One copy of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Replica {
    pub replica_id: ReplicaId,
    pub node_id: NodeId,
    pub role: ReplicaRole,
}

/// The state of a range that its Raft group agrees on.
///
/// Invariants: at most one replica a node; `span` is not empty; the epoch grows with every change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeDescriptor {
    pub range_id: RangeId,
    pub span: Span,
    pub epoch: Epoch,
    pub replicas: Vec<Replica>,
}

impl RangeDescriptor {
    /// The replica on `node_id`, if there is one.
    #[must_use]
    pub fn replica_on(&self, node_id: NodeId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.node_id == node_id)
    }

    /// The replica with this id, if it is a member.
    #[must_use]
    pub fn replica(&self, replica_id: ReplicaId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.replica_id == replica_id)
    }

    /// True between entering and leaving a joint configuration.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.replicas.iter().any(|replica| {
            matches!(replica.role, ReplicaRole::IncomingVoter | ReplicaRole::DemotingVoter)
        })
    }

    /// Replicas of one role, in the descriptor's order.
    pub fn with_role(&self, role: ReplicaRole) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(move |replica| replica.role == role)
    }
}
