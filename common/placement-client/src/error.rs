//! Why a call to placement failed, and what it means for the caller.

use rangedb_proto::error::status_with_detail;
use rangedb_proto::v1::error_detail::Kind;
use rangedb_proto::v1::{ErrorDetail, Overloaded, PlacementUnavailable, RetryAdvice};
use tonic::{Code, Status};

/// A call to placement that did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PlacementError {
    /// No member that leads was found before the deadline.
    #[error("no leader of placement could be reached: {reason}")]
    NoLeader { reason: String },
    /// The leader answered with a refusal that another attempt would get again.
    #[error("placement refused: {}", .0.message())]
    Refused(#[source] Box<Status>),
    /// Too many requests wait already.
    #[error("too many requests wait for placement")]
    Overloaded,
    /// The client was shut down.
    #[error("the placement client is shut down")]
    Stopped,
}

impl PlacementError {
    /// True if the same call may succeed a little later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::NoLeader { .. } | Self::Overloaded)
    }

    /// The refusal by the leader, if it was one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Status> {
        match self {
            Self::Refused(status) => Some(status),
            _ => None,
        }
    }
}

impl From<PlacementError> for Status {
    fn from(error: PlacementError) -> Self {
        let (code, kind) = match &error {
            PlacementError::Refused(status) => return (**status).clone(),
            PlacementError::Overloaded => {
                (Code::ResourceExhausted, Kind::Overloaded(Overloaded {}))
            }
            PlacementError::NoLeader { .. } | PlacementError::Stopped => {
                (Code::Unavailable, Kind::PlacementUnavailable(PlacementUnavailable {}))
            }
        };
        let detail = ErrorDetail { retry: RetryAdvice::Safe.into(), kind: Some(kind) };
        status_with_detail(code, &error.to_string(), &detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_proto::error::retry_advice;

    #[test]
    fn errors_become_statuses_that_say_what_to_do() {
        let status = Status::from(PlacementError::NoLeader { reason: "x".to_owned() });
        assert_eq!((status.code(), retry_advice(&status)), (Code::Unavailable, RetryAdvice::Safe));
        let status = Status::from(PlacementError::Overloaded);
        assert_eq!(status.code(), Code::ResourceExhausted);
        let refusal = Status::failed_precondition("no");
        let status = Status::from(PlacementError::Refused(Box::new(refusal)));
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "no"));
    }
}
