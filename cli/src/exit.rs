//! How a command ends.
//!
//! Owns: the exit codes that scripts rely on, and the mapping of server errors to them. Must not
//! know: commands. Invariant: a write that may have been applied never ends as `Unavailable`.

use rangedb_proto::error::detail_of;
use rangedb_proto::v1::RetryAdvice;
use rangedb_proto::v1::error_detail::Kind;
use tonic::{Code, Status};

/// Why a command ended, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Nothing went wrong; only whoever read our output had enough of it.
    Done = 0,
    /// Not found, a condition that does not hold, a conflict.
    NotMet = 1,
    /// Wrong usage or an invalid argument.
    Usage = 2,
    /// Unavailable or timed out, surely not applied.
    Unavailable = 3,
    /// No permission, or a key of the system.
    Refused = 4,
    /// Anything else.
    Other = 5,
    /// A write that may or may not have been applied.
    OutcomeUnknown = 6,
}

/// What a call does if it reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Read,
    Write,
}

/// The end of a command that did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub exit: Exit,
    /// For stderr; empty if nothing needs to be said.
    pub message: String,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub fn not_met(message: impl Into<String>) -> Self {
        Self::new(Exit::NotMet, message)
    }

    pub fn other(message: impl Into<String>) -> Self {
        Self::new(Exit::Other, message)
    }

    /// The end of a call that a server refused.
    #[must_use]
    pub fn of_status(status: &Status, effect: Effect) -> Self {
        Self::new(exit_of(status, effect), describe(status))
    }

    /// Says why on stderr, and gives the code for the end of the process.
    #[must_use]
    pub fn report(&self) -> u8 {
        if !self.message.is_empty() {
            eprintln!("rangedb-cli: {}", self.message);
        }
        self.exit as u8
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::new(Exit::Done, ""),
            _ => Self::other(error.to_string()),
        }
    }
}

impl From<rangedb_client::Error> for Failure {
    fn from(error: rangedb_client::Error) -> Self {
        use rangedb_client::Error;
        let exit = match &error {
            Error::Invalid { .. } | Error::InvalidEndpoint(_) => Exit::Usage,
            Error::Refused { .. } => Exit::Refused,
            Error::ConditionFailed { .. } | Error::Conflict { .. } => Exit::NotMet,
            Error::Unavailable { .. } | Error::Overloaded { .. } => Exit::Unavailable,
            Error::OutcomeUnknown { .. } | Error::TransactionUnknown { .. } => Exit::OutcomeUnknown,
            Error::NotImplemented { .. } | Error::Protocol(_) => Exit::Other,
            // What the client could not judge is final: it would be an unknown outcome else.
            Error::Other(status) => exit_of(status, Effect::Read),
        };
        Self::new(exit, error.to_string().replace('\n', " "))
    }
}

/// The exit code of a refused call.
#[must_use]
pub fn exit_of(status: &Status, effect: Effect) -> Exit {
    let detail = detail_of(status);
    if let Some(exit) = detail.as_ref().and_then(|detail| {
        Some(match detail.kind.as_ref()? {
            Kind::OutcomeUnknown(_) => Exit::OutcomeUnknown,
            Kind::InvalidRequest(_) => Exit::Usage,
            Kind::ConditionFailed(_)
            | Kind::WriteConflict(_)
            | Kind::KeyLocked(_)
            | Kind::TransactionAborted(_)
            | Kind::TransactionExpired(_)
            | Kind::TransactionCommitted(_)
            | Kind::Deadlock(_) => Exit::NotMet,
            Kind::RangeUnavailable(_) | Kind::Overloaded(_) | Kind::PlacementUnavailable(_) => {
                Exit::Unavailable
            }
            Kind::SystemKeyRefused(_) => Exit::Refused,
            Kind::NotImplemented(_) => Exit::Other,
        })
    }) {
        return exit;
    }
    let advice = detail.map_or(RetryAdvice::Unspecified, |detail| detail.retry());
    if advice == RetryAdvice::OutcomeUnknown {
        return match effect {
            Effect::Write => Exit::OutcomeUnknown,
            Effect::Read => Exit::Unavailable,
        };
    }
    exit_of_code(status.code(), effect)
}

fn exit_of_code(code: Code, effect: Effect) -> Exit {
    match (code, effect) {
        (Code::NotFound | Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists, _) => {
            Exit::NotMet
        }
        (Code::InvalidArgument | Code::OutOfRange, _) => Exit::Usage,
        (Code::PermissionDenied | Code::Unauthenticated, _) => Exit::Refused,
        (Code::Unavailable | Code::ResourceExhausted, _) => Exit::Unavailable,
        (Code::DeadlineExceeded | Code::Cancelled, Effect::Read) => Exit::Unavailable,
        (Code::DeadlineExceeded | Code::Cancelled | Code::Unknown, Effect::Write) => {
            Exit::OutcomeUnknown
        }
        _ => Exit::Other,
    }
}

/// A status in words: the server's message, and the code's name where there is none. A transport
/// error hides what went wrong in its sources.
fn describe(status: &Status) -> String {
    let mut words = if status.message().is_empty() {
        status.code().description().to_owned()
    } else {
        status.message().to_owned()
    };
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let text = error.to_string();
        if !words.contains(&text) {
            words.push_str(": ");
            words.push_str(&text);
        }
        source = error.source();
    }
    words.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_proto::error::status_with_detail;
    use rangedb_proto::v1::{self, ErrorDetail};

    fn with(code: Code, retry: RetryAdvice, kind: Option<Kind>) -> Status {
        status_with_detail(code, "why", &ErrorDetail { retry: retry.into(), kind })
    }

    #[test]
    fn details_decide_the_exit_code() {
        let never = RetryAdvice::Never;
        let table = [
            (Code::Unknown, Kind::OutcomeUnknown(v1::OutcomeUnknown::default()), 6),
            (Code::InvalidArgument, Kind::InvalidRequest(v1::InvalidRequest::default()), 2),
            (Code::FailedPrecondition, Kind::ConditionFailed(v1::ConditionFailed::default()), 1),
            (Code::Unavailable, Kind::RangeUnavailable(v1::RangeUnavailable::default()), 3),
            (Code::ResourceExhausted, Kind::Overloaded(v1::Overloaded {}), 3),
            (Code::Unavailable, Kind::PlacementUnavailable(v1::PlacementUnavailable {}), 3),
            (Code::Unimplemented, Kind::NotImplemented(v1::NotImplemented::default()), 5),
            (Code::PermissionDenied, Kind::SystemKeyRefused(v1::SystemKeyRefused {}), 4),
        ];
        for (code, kind, exit) in table {
            let status = with(code, never, Some(kind));
            assert_eq!(exit_of(&status, Effect::Write) as u8, exit, "{status:?}");
        }
        let unknown = with(Code::Internal, RetryAdvice::OutcomeUnknown, None);
        assert_eq!(exit_of(&unknown, Effect::Write) as u8, 6);
        assert_eq!(exit_of(&unknown, Effect::Read) as u8, 3);
    }

    #[test]
    fn bare_codes_fall_back_on_what_the_call_does() {
        let table = [
            (Code::NotFound, 1, 1),
            (Code::FailedPrecondition, 1, 1),
            (Code::Aborted, 1, 1),
            (Code::InvalidArgument, 2, 2),
            (Code::OutOfRange, 2, 2),
            (Code::Unavailable, 3, 3),
            (Code::ResourceExhausted, 3, 3),
            (Code::DeadlineExceeded, 3, 6),
            (Code::Cancelled, 3, 6),
            (Code::PermissionDenied, 4, 4),
            (Code::Unauthenticated, 4, 4),
            (Code::Internal, 5, 5),
            (Code::Unimplemented, 5, 5),
            (Code::DataLoss, 5, 5),
            (Code::Unknown, 5, 6),
        ];
        for (code, read, write) in table {
            let status = Status::new(code, "");
            assert_eq!(exit_of(&status, Effect::Read) as u8, read, "{code:?}");
            assert_eq!(exit_of(&status, Effect::Write) as u8, write, "{code:?}");
        }
    }

    #[test]
    fn errors_of_the_client_have_their_codes() {
        use rangedb_client::Error;
        let message = String::new();
        let id = "k".to_owned();
        let table = [
            (Error::Invalid { field: id, message: message.clone() }, 2),
            (Error::InvalidEndpoint(message.clone()), 2),
            (Error::Refused { message: message.clone() }, 4),
            (Error::ConditionFailed { current: None }, 1),
            (Error::Unavailable { message: message.clone() }, 3),
            (Error::Overloaded { message: message.clone() }, 3),
            (Error::NotImplemented { message }, 5),
            (Error::Protocol("x"), 5),
            (Error::Other(Box::new(Status::aborted("fenced"))), 1),
            (Error::Other(Box::new(Status::internal("x"))), 5),
        ];
        for (error, exit) in table {
            assert_eq!(Failure::from(error.clone()).exit as u8, exit, "{error:?}");
        }
    }

    #[test]
    fn a_message_is_one_line() {
        let failure = Failure::of_status(&Status::internal("a\nb"), Effect::Read);
        assert_eq!(failure.message, "a b");
        assert!(!Failure::of_status(&Status::internal(""), Effect::Read).message.is_empty());
    }
}
