//! What can go wrong, and what may be done next.

use crate::{Value, Version, WriteId};
use rangedb_proto::error::detail_of;
use rangedb_proto::v1::error_detail::Kind;
use rangedb_proto::v1::{ErrorDetail, PipelineError, RetryAdvice as WireAdvice};
use std::error::Error as _;
use tonic::{Code, Status};

/// What a caller may do after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAdvice {
    /// The same call would fail again.
    Never,
    /// Surely nothing was applied; the call may be repeated after a pause.
    Safe,
    /// A write that may have been applied: ask [`crate::Client::commit_status`].
    OutcomeUnknown,
}

/// Why a call failed.
///
/// ```no_run
/// # async fn run(client: rangedb_client::Client) {
/// use rangedb_client::{Error, RetryAdvice};
///
/// if let Err(error) = client.put("k", "v").await {
///     match error.retry_advice() {
///         RetryAdvice::Safe => println!("not written, try later: {error}"),
///         RetryAdvice::OutcomeUnknown => println!("perhaps written: {error}"),
///         RetryAdvice::Never => println!("refused: {error}"),
///     }
/// }
/// # }
/// ```
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong; `field` names the part, if the server did.
    #[error("{message}")]
    Invalid { field: String, message: String },
    /// The caller may not do this; `_/` keys belong to the system.
    #[error("{message}")]
    Refused { message: String },
    /// The condition of a write does not hold; this is what the key holds instead.
    #[error("the condition does not hold")]
    ConditionFailed { current: Option<Value> },
    /// Another transaction was faster. Nothing was applied; run the transaction again.
    #[error("{message}")]
    Conflict { message: String },
    /// No gateway, leader or placement could be reached in time. Nothing was applied.
    #[error("unavailable, nothing was applied: {message}")]
    Unavailable { message: String },
    /// A queue is full somewhere. Nothing was applied.
    #[error("overloaded, nothing was applied: {message}")]
    Overloaded { message: String },
    /// A write may or may not have been applied.
    #[error("the outcome of the write is not known (request id {id})")]
    OutcomeUnknown { id: WriteId },
    /// A transaction may or may not have been committed: ask [`crate::Client::transaction_status`].
    #[error("the outcome of the transaction {id} is not known")]
    TransactionUnknown { id: Version, key: bytes::Bytes },
    /// The server does not serve this yet.
    #[error("not implemented: {message}")]
    NotImplemented { message: String },
    /// A text that is no `HOST:PORT`.
    #[error("`{0}` is not an address; write HOST:PORT, for example 127.0.0.1:8081")]
    InvalidEndpoint(String),
    /// The server broke the protocol, or its version is unknown to this client.
    #[error("unexpected answer: {0}")]
    Protocol(&'static str),
    /// Anything else the server said.
    #[error("{}: {}", .0.code(), .0.message())]
    Other(Box<Status>),
}

impl Error {
    /// What may be done next.
    #[must_use]
    pub const fn retry_advice(&self) -> RetryAdvice {
        match self {
            Self::Unavailable { .. } | Self::Overloaded { .. } | Self::Conflict { .. } => {
                RetryAdvice::Safe
            }
            Self::OutcomeUnknown { .. } | Self::TransactionUnknown { .. } => {
                RetryAdvice::OutcomeUnknown
            }
            _ => RetryAdvice::Never,
        }
    }

    /// The canonical gRPC code that says the same.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } | Self::InvalidEndpoint(_) => Code::InvalidArgument,
            Self::Refused { .. } => Code::PermissionDenied,
            Self::ConditionFailed { .. } => Code::FailedPrecondition,
            Self::Conflict { .. } => Code::Aborted,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Overloaded { .. } => Code::ResourceExhausted,
            Self::OutcomeUnknown { .. } | Self::TransactionUnknown { .. } => Code::Unknown,
            Self::NotImplemented { .. } => Code::Unimplemented,
            Self::Protocol(_) => Code::Internal,
            Self::Other(status) => status.code(),
        }
    }
}

/// What one failed attempt means for the whole call.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// The call is over.
    Final(Error),
    /// Nothing was applied by this attempt.
    NotApplied(Error),
    /// The attempt may have been applied, if it was a write.
    MaybeApplied(String),
}

/// Judges a failed unary attempt.
pub(crate) fn judge_status(status: Status) -> Verdict {
    if let Some(detail) = detail_of(&status) {
        return judge_detail(status.code(), status.message(), &detail)
            .unwrap_or_else(|| Verdict::Final(Error::Other(Box::new(status))));
    }
    let message = status.message().to_owned();
    if was_never_connected(&status) {
        return Verdict::NotApplied(Error::Unavailable { message: chain(&status) });
    }
    match status.code() {
        // The transport's own: whatever was sent may have arrived.
        Code::Unavailable
        | Code::Unknown
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Internal => Verdict::MaybeApplied(message),
        Code::ResourceExhausted => Verdict::NotApplied(Error::Overloaded { message }),
        _ => Verdict::Final(plain(status)),
    }
}

/// Judges the failure of one operation of a Pipeline stream.
pub(crate) fn judge_pipeline(error: PipelineError) -> Verdict {
    let code = Code::from_i32(error.code);
    let detail = error.detail.unwrap_or_default();
    judge_detail(code, &error.message, &detail)
        .unwrap_or_else(|| Verdict::Final(plain(Status::new(code, error.message))))
}

/// `None` if the detail says nothing this client knows.
fn judge_detail(code: Code, message: &str, detail: &ErrorDetail) -> Option<Verdict> {
    let message = message.to_owned();
    let verdict = match detail.kind.clone() {
        Some(Kind::InvalidRequest(request)) => {
            Verdict::Final(Error::Invalid { field: request.field, message })
        }
        Some(Kind::ConditionFailed(failed)) => {
            let current = failed
                .found
                .then(|| Value { value: failed.value, version: Version(failed.version) });
            Verdict::Final(Error::ConditionFailed { current })
        }
        Some(Kind::RangeUnavailable(_) | Kind::PlacementUnavailable(_)) => {
            Verdict::NotApplied(Error::Unavailable { message })
        }
        Some(Kind::Overloaded(_)) => Verdict::NotApplied(Error::Overloaded { message }),
        Some(Kind::OutcomeUnknown(_)) => Verdict::MaybeApplied(message),
        Some(
            Kind::WriteConflict(_)
            | Kind::TransactionAborted(_)
            | Kind::TransactionExpired(_)
            | Kind::Deadlock(_),
        ) => Verdict::Final(Error::Conflict { message }),
        // Nothing to be done again: all of it was applied.
        Some(Kind::TransactionCommitted(_)) => {
            Verdict::Final(Error::Invalid { field: "transaction".to_owned(), message })
        }
        Some(Kind::KeyLocked(_)) => Verdict::NotApplied(Error::Conflict { message }),
        Some(Kind::NotImplemented(_)) => Verdict::Final(Error::NotImplemented { message }),
        Some(Kind::SystemKeyRefused(_)) => Verdict::Final(Error::Refused { message }),
        None => match detail.retry() {
            WireAdvice::Safe => Verdict::NotApplied(Error::Unavailable { message }),
            WireAdvice::OutcomeUnknown => Verdict::MaybeApplied(message),
            WireAdvice::Never => Verdict::Final(plain(Status::new(code, message))),
            WireAdvice::Unspecified => return None,
        },
    };
    Some(verdict)
}

fn plain(status: Status) -> Error {
    let message = status.message().to_owned();
    match status.code() {
        // What is too large is wrong, too.
        Code::InvalidArgument | Code::OutOfRange => {
            Error::Invalid { field: String::new(), message }
        }
        Code::PermissionDenied | Code::Unauthenticated => Error::Refused { message },
        Code::Unimplemented => Error::NotImplemented { message },
        _ => Error::Other(Box::new(status)),
    }
}

/// True if the connection was never made, so nothing can have arrived.
fn was_never_connected(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_proto::error::status_with_detail;
    use rangedb_proto::v1 as wire;

    fn status(code: Code, retry: WireAdvice, kind: Option<Kind>) -> Status {
        status_with_detail(code, "text", &ErrorDetail { retry: retry.into(), kind })
    }

    #[test]
    fn a_bare_unavailable_may_have_been_applied() {
        // A proxy or a broken connection says this too, whatever became of the request.
        assert!(matches!(judge_status(Status::unavailable("gone")), Verdict::MaybeApplied(_)));
        let kind = Kind::RangeUnavailable(wire::RangeUnavailable { range_id: 1 });
        let typed = status(Code::Unavailable, WireAdvice::Safe, Some(kind));
        assert!(matches!(judge_status(typed), Verdict::NotApplied(Error::Unavailable { .. })));
    }

    #[test]
    fn details_become_typed_errors() {
        let kind = Kind::ConditionFailed(wire::ConditionFailed {
            found: true,
            value: "v".into(),
            version: 3,
        });
        let judged = judge_status(status(Code::FailedPrecondition, WireAdvice::Never, Some(kind)));
        let Verdict::Final(Error::ConditionFailed { current: Some(current) }) = judged else {
            panic!("the current value")
        };
        assert_eq!((&current.value[..], current.version), (&b"v"[..], Version(3)));
        let fenced = status(Code::Aborted, WireAdvice::Never, None);
        assert!(matches!(judge_status(fenced), Verdict::Final(Error::Other(_))));
    }
}
