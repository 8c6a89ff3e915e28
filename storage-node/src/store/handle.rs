//! What the rest of the process sees of the store.

use rangedb_proto::internal::v1::WriteCommand;
use rangedb_types::{Epoch, RangeDescriptor, RangeId, Replica, ReplicaId, Span};
use std::sync::Arc;

/// Proof that a replica led its range in a term and had applied that term's first entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    /// The bounds version the leader had; a proposal made under another is refused at apply.
    pub epoch: Epoch,
}

/// Why a proposal did not (or may not have) come through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Surely not in any log.
    #[error("this replica does not lead the range")]
    NotLeader,
    /// Surely not applied: the range's bounds changed first.
    #[error("the range's bounds changed")]
    EpochMismatch,
    /// Surely not in any log: too much is waiting.
    #[error("too many proposals are waiting")]
    Overloaded,
    /// It entered a log and its fate is not known here.
    #[error("leadership was lost while the write was under way")]
    OutcomeUnknown,
    #[error("the node is stopping")]
    Stopping,
}

/// Why a read could not be confirmed. A read is always safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("this replica does not lead the range")]
    NotLeader,
    #[error("the leader has not confirmed itself yet")]
    NotReady,
    #[error("the node is stopping")]
    Stopping,
}
