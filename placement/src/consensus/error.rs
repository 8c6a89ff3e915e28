//! What can go wrong, in words for people and with a way to tell what to do next.

use super::store::StoreError;
use crate::state::SnapshotError;
use rangedb_service::data_dir::DataDirError;
use rangedb_types::PlacementId;

/// The member cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("member {id} is not in --peers; add {id}=HOST:PORT, or correct --id")]
    NotInPeers { id: PlacementId },
    #[error("--peers names {count} members; at most {max} are of use, 3 or 5 are usual")]
    TooManyPeers { count: usize, max: usize },
    #[error("--peers gives member {id} a bad address: {source}")]
    Address {
        id: PlacementId,
        #[source]
        source: rangedb_service::grpc::InvalidAddress,
    },
    #[error("election and heartbeat times are wrong: {0}")]
    Timing(String),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a received snapshot cannot be installed: {0}")]
    Snapshot(#[from] SnapshotError),
    #[error("consensus cannot start: {0}")]
    Raft(String),
}

/// A command was not executed, or nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Surely not executed: this member does not lead.
    #[error("this placement member is not the leader")]
    NotLeader { address: Option<String> },
    /// The deadline came first. The command may yet be executed.
    #[error("the command was not confirmed in time; it may still take effect")]
    OutcomeUnknown,
    /// The member is stopping or broken. The command may yet be executed.
    #[error("this placement member has stopped")]
    Stopped,
}

impl ProposeError {
    /// True if the command surely had and will have no effect, so that it may be sent elsewhere.
    #[must_use]
    pub const fn surely_not_applied(&self) -> bool {
        matches!(self, Self::NotLeader { .. })
    }
}

/// Leadership was not confirmed. Nothing was changed, so asking again is always safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeadershipError {
    #[error("this placement member is not the leader")]
    NotLeader { address: Option<String> },
    #[error("a quorum did not confirm leadership in time")]
    Timeout,
    #[error("this placement member has stopped")]
    Stopped,
}

/// The membership was not changed, or nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error("{0}")]
    Refused(String),
}

/// Why the member must stop by itself. One line for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);
