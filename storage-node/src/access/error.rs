//! Why a request was refused.

use bytes::Bytes;
use rangedb_mvcc::MvccError;
use rangedb_mvcc::record::LockRecord;
use rangedb_mvcc::txn::ActionError;
use rangedb_types::{RangeDescriptor, RangeId, Replica, Timestamp};
use std::sync::Arc;

/// A request that was not done, or whose outcome is not known. The service turns it into the wire's
/// `NodeError`, which says what the gateway does next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("range {0} has no replica on this node")]
    RangeNotFound(RangeId),
    #[error("the range's bounds are not those the request was made for")]
    EpochMismatch { ranges: Vec<RangeDescriptor> },
    #[error("this replica does not lead the range")]
    NotLeader { leader: Option<Replica>, range: Arc<RangeDescriptor> },
    /// Nothing was done; the same request may succeed soon.
    #[error("{0}")]
    NotReady(&'static str),
    /// Nothing was done: a limit was reached.
    #[error("{0}")]
    Overloaded(&'static str),
    #[error("no timestamp: {0}")]
    NoTimestamp(String),
    #[error("{0}")]
    Invalid(String),
    #[error("the read version is older than what is kept (gc_retention); read at a newer one")]
    TooOld,
    #[error("the write was fenced or is too old; it did not happen and never will")]
    Fenced,
    #[error("the condition does not hold")]
    ConditionFailed { current: Option<(Bytes, Timestamp)> },
    #[error("the write was proposed and its outcome is not known: {0}")]
    OutcomeUnknown(&'static str),
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
    /// Nothing was done.
    #[error("another transaction, {}, has an intent on the key", .lock.start_ts)]
    KeyLocked { key: Bytes, lock: Box<LockRecord> },
    #[error("the key was written at {version}, after the transaction's snapshot")]
    WriteConflict { key: Bytes, version: Timestamp },
    /// The transaction is the youngest of a cycle in which each waits for the next.
    #[error("a deadlock: {}", .cycle.iter().map(ToString::to_string).collect::<Vec<_>>().join(" waits for "))]
    Deadlock { cycle: Vec<Timestamp> },
    #[error("the transaction was rolled back")]
    Aborted,
    #[error("the transaction was committed at {version}")]
    Committed { version: Timestamp },
    #[error("the transaction cannot commit below {least}")]
    CommitTooEarly { least: Timestamp },
}

impl Refusal {
    /// The word for it in metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::RangeNotFound(_) => "range_not_found",
            Self::EpochMismatch { .. } => "epoch_mismatch",
            Self::NotLeader { .. } => "not_leader",
            Self::NotReady(_) => "not_ready",
            Self::Overloaded(_) => "overloaded",
            Self::NoTimestamp(_) => "no_timestamp",
            Self::Invalid(_) => "invalid",
            Self::TooOld => "too_old",
            Self::Fenced => "fenced",
            Self::ConditionFailed { .. } => "condition_failed",
            Self::OutcomeUnknown(_) => "outcome_unknown",
            Self::Corrupt(_) => "corrupt",
            Self::KeyLocked { .. } => "key_locked",
            Self::WriteConflict { .. } => "write_conflict",
            Self::Deadlock { .. } => "deadlock",
            Self::Aborted => "aborted",
            Self::Committed { .. } => "committed",
            Self::CommitTooEarly { .. } => "commit_too_early",
        }
    }
}

impl From<MvccError> for Refusal {
    fn from(error: MvccError) -> Self {
        match error {
            MvccError::KeyLocked { key, lock } => Self::KeyLocked { key: key.into(), lock },
            error => Self::Corrupt(error.to_string()),
        }
    }
}

impl From<ActionError> for Refusal {
    fn from(error: ActionError) -> Self {
        match error {
            ActionError::KeyLocked { key, lock } => Self::KeyLocked { key: key.into(), lock },
            ActionError::WriteConflict { key, version } => {
                Self::WriteConflict { key: key.into(), version }
            }
            ActionError::Aborted { .. } => Self::Aborted,
            ActionError::Committed { version } => Self::Committed { version },
            ActionError::CommitTooEarly { least } => Self::CommitTooEarly { least },
            ActionError::OutOfTurn { .. } => Self::Invalid(error.to_string()),
            ActionError::NotPrimary { .. } => {
                let words = "another key decides this transaction: its smallest written one";
                Self::Invalid(words.to_owned())
            }
            ActionError::Mvcc(error) => error.into(),
        }
    }
}
