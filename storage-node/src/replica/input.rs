//! What can happen to a replica.

use super::command::BoundaryChange;
use super::membership::ReplicaChangeKind;
use super::proposals::{ProposeReply, Write};
use super::reads::ReadReply;
use super::sleep::Sleep;
use crate::raft_log::LogPosition;
use raft::eraftpb::{ConfChangeV2, Message};
use rangedb_types::{Epoch, RangeDescriptor, Replica as Member, ReplicaId};
use std::sync::Arc;

/// What can happen to a replica.
pub enum Input {
    Message(Message),
    Propose(Write),
    Read(ReadReply),
    /// Asks a majority, too, but is no use of the range.
    Prove(ReadReply),
    Check {
        check_id: u64,
        reply: ProposeReply,
    },
    ChangeReplicas {
        epoch: Epoch,
        changes: Vec<(ReplicaChangeKind, Member)>,
        leave_joint: bool,
    },
    TransferLeader {
        to: ReplicaId,
    },
    Boundary {
        epoch: Epoch,
        change: BoundaryChange,
        reply: ProposeReply,
    },
    /// Entries up to here are applied and visible.
    Applied {
        position: LogPosition,
        descriptor: Arc<RangeDescriptor>,
        changes: Vec<ConfChangeV2>,
        /// The range is frozen for a merge.
        frozen: bool,
    },
    Unreachable(ReplicaId),
    /// The leader fell asleep.
    Sleep {
        from: ReplicaId,
        sleep: Sleep,
    },
    SnapshotSent {
        to: ReplicaId,
        installed: bool,
    },
}
