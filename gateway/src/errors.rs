//! Why a call failed, and how that reads on the public wire.
//!
//! Owns: the mapping to gRPC codes and typed details. Must not know: how calls are executed.
//! Invariant: UNAVAILABLE and RESOURCE_EXHAUSTED mean that nothing was applied; a write that may
//! have been applied is UNKNOWN with an `OutcomeUnknown` detail, never anything else.

use bytes::Bytes;
use rangedb_proto::error::status_with_detail;
use rangedb_proto::v1::error_detail::Kind;
use rangedb_proto::v1::{self, ErrorDetail, PipelineError, RetryAdvice};
use rangedb_types::{RangeId, Timestamp};
use tonic::{Code, Status};

/// The end of a failed call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("{message}")]
    Invalid { field: &'static str, message: String },
    /// What the caller named does not exist.
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    SystemKey(String),
    #[error("{message}")]
    NotImplemented { feature: &'static str, message: String },
    /// The key's current state: its value and version, if it exists.
    #[error("the condition does not hold")]
    ConditionFailed { current: Option<(Bytes, Timestamp)> },
    #[error("range {range_id} could not be reached before the deadline: {why}")]
    RangeUnavailable { range_id: RangeId, why: String },
    #[error("placement could not be reached before the deadline: {why}")]
    PlacementUnavailable { why: String },
    #[error("too many requests are waiting; nothing was done, try again after a pause")]
    Overloaded,
    #[error(
        "the outcome of the write is not known; ask CommitStatus or retry with the same request id"
    )]
    OutcomeUnknown { request_id: Bytes, seen: Timestamp },
    #[error(
        "the outcome of the transaction is not known; ask CommitStatus with its id and this key"
    )]
    TransactionUnknown { id: Timestamp, primary: Bytes },
    #[error("the write was fenced: it did not happen and never will ({message})")]
    Fenced { message: String },
    /// Somebody wrote the key after the transaction's snapshot.
    #[error("the key was written at {version}, after the transaction had begun; run it again")]
    WriteConflict { key: Bytes, version: Timestamp },
    /// It waited in a cycle, and is the youngest of it: each waits for the next, the last for the first.
    #[error("a deadlock: {}; run it again", .cycle.iter().map(ToString::to_string).collect::<Vec<_>>().join(" waits for "))]
    Deadlock { cycle: Vec<Timestamp> },
    #[error("the transaction was rolled back; run it again")]
    Aborted,
    #[error("the transaction took longer than its time-out; begin again")]
    Expired,
    /// A step of a transaction found it committed.
    #[error("the transaction was committed at {version}")]
    Committed { version: Timestamp },
    /// A step of a transaction has to be repeated at a later timestamp.
    #[error("the transaction cannot commit below {least}")]
    CommitTooEarly { least: Timestamp },
    /// A step of a transaction has to be cut anew: its keys lie in several ranges.
    #[error("the bounds of its ranges changed meanwhile; try again")]
    SeveralRanges,
    /// The other transaction lives longer than this call.
    #[error("another transaction, {id}, holds the key; nothing was done, try again")]
    KeyLocked { key: Bytes, id: Timestamp },
    #[error("damaged data was found: {message}")]
    Corrupt { message: String },
    #[error("{message}")]
    TooLarge { message: String },
    #[error("internal error: {message}")]
    Internal { message: String },
}

impl Failure {
    pub fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { field, message: message.into() }
    }

    /// The canonical gRPC code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } => Code::InvalidArgument,
            Self::NotFound(_) => Code::NotFound,
            Self::SystemKey(_) => Code::PermissionDenied,
            Self::NotImplemented { .. } => Code::Unimplemented,
            Self::ConditionFailed { .. } => Code::FailedPrecondition,
            Self::RangeUnavailable { .. }
            | Self::PlacementUnavailable { .. }
            | Self::SeveralRanges => Code::Unavailable,
            Self::Overloaded => Code::ResourceExhausted,
            Self::OutcomeUnknown { .. } | Self::TransactionUnknown { .. } => Code::Unknown,
            Self::Fenced { .. }
            | Self::WriteConflict { .. }
            | Self::Aborted
            | Self::Deadlock { .. }
            | Self::Expired
            | Self::Committed { .. }
            | Self::KeyLocked { .. } => Code::Aborted,
            Self::CommitTooEarly { .. } => Code::Internal,
            Self::Corrupt { .. } => Code::DataLoss,
            Self::TooLarge { .. } => Code::OutOfRange,
            Self::Internal { .. } => Code::Internal,
        }
    }

    /// What the caller may do next.
    #[must_use]
    pub const fn retry(&self) -> RetryAdvice {
        match self {
            Self::RangeUnavailable { .. }
            | Self::PlacementUnavailable { .. }
            | Self::WriteConflict { .. }
            | Self::Aborted
            | Self::Deadlock { .. }
            | Self::Expired
            | Self::KeyLocked { .. }
            | Self::SeveralRanges
            | Self::Overloaded => RetryAdvice::Safe,
            Self::OutcomeUnknown { .. } | Self::TransactionUnknown { .. } => {
                RetryAdvice::OutcomeUnknown
            }
            _ => RetryAdvice::Never,
        }
    }

    fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Invalid { field, .. } => {
                Kind::InvalidRequest(v1::InvalidRequest { field: (*field).to_owned() })
            }
            Self::SystemKey(_) => Kind::SystemKeyRefused(v1::SystemKeyRefused {}),
            Self::NotImplemented { feature, .. } => {
                Kind::NotImplemented(v1::NotImplemented { feature: (*feature).to_owned() })
            }
            Self::ConditionFailed { current } => {
                let (value, version) = current.clone().unwrap_or_default();
                Kind::ConditionFailed(v1::ConditionFailed {
                    found: current.is_some(),
                    value,
                    version: version.0,
                })
            }
            Self::RangeUnavailable { range_id, .. } => {
                Kind::RangeUnavailable(v1::RangeUnavailable { range_id: range_id.get() })
            }
            Self::PlacementUnavailable { .. } => {
                Kind::PlacementUnavailable(v1::PlacementUnavailable {})
            }
            Self::Overloaded => Kind::Overloaded(v1::Overloaded {}),
            Self::OutcomeUnknown { request_id, seen } => Kind::OutcomeUnknown(v1::OutcomeUnknown {
                request_id: request_id.clone(),
                seen_version: seen.0,
                ..v1::OutcomeUnknown::default()
            }),
            Self::TransactionUnknown { id, primary } => Kind::OutcomeUnknown(v1::OutcomeUnknown {
                transaction_id: id.0,
                key: primary.clone(),
                ..v1::OutcomeUnknown::default()
            }),
            Self::WriteConflict { key, version } => {
                Kind::WriteConflict(v1::WriteConflict { key: key.clone(), version: version.0 })
            }
            Self::KeyLocked { key, id } => {
                Kind::KeyLocked(v1::KeyLocked { key: key.clone(), transaction_id: id.0 })
            }
            Self::Deadlock { cycle } => {
                Kind::Deadlock(v1::Deadlock { cycle: cycle.iter().map(|id| id.0).collect() })
            }
            Self::Aborted => Kind::TransactionAborted(v1::TransactionAborted {}),
            Self::Expired => Kind::TransactionExpired(v1::TransactionExpired {}),
            Self::Committed { version } => {
                Kind::TransactionCommitted(v1::TransactionCommitted { version: version.0 })
            }
            Self::CommitTooEarly { .. }
            | Self::SeveralRanges
            | Self::NotFound(_)
            | Self::Fenced { .. }
            | Self::Corrupt { .. }
            | Self::TooLarge { .. }
            | Self::Internal { .. } => return None,
        })
    }

    /// The typed detail that travels with the error.
    #[must_use]
    pub fn detail(&self) -> ErrorDetail {
        ErrorDetail { retry: self.retry().into(), kind: self.kind() }
    }

    /// The error of one operation of a Pipeline stream.
    #[must_use]
    pub fn to_pipeline(&self) -> PipelineError {
        PipelineError {
            code: self.code().into(),
            message: self.to_string(),
            detail: Some(self.detail()),
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        status_with_detail(failure.code(), &failure.to_string(), &failure.detail())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_proto::error::{detail_of, retry_advice};

    #[test]
    fn an_unknown_outcome_is_never_unavailable() {
        let failure = Failure::OutcomeUnknown {
            request_id: Bytes::from_static(&[1; 16]),
            seen: Timestamp(9),
        };
        let status = Status::from(failure);
        assert_eq!(status.code(), Code::Unknown);
        assert_eq!(retry_advice(&status), RetryAdvice::OutcomeUnknown);
        let Some(Kind::OutcomeUnknown(detail)) = detail_of(&status).and_then(|d| d.kind) else {
            panic!("a typed detail")
        };
        assert_eq!((detail.request_id.len(), detail.seen_version), (16, 9));
    }

    #[test]
    fn a_failed_condition_carries_the_current_value() {
        let failure =
            Failure::ConditionFailed { current: Some((Bytes::from_static(b"v"), Timestamp(4))) };
        let Some(Kind::ConditionFailed(detail)) = failure.detail().kind else {
            panic!("a typed detail")
        };
        assert_eq!((detail.found, &detail.value[..], detail.version), (true, &b"v"[..], 4));
        assert_eq!(failure.code(), Code::FailedPrecondition);
    }
}
