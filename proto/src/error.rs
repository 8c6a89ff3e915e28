//! The typed detail of a refused call, as it travels in a gRPC status.

use crate::v1::{ErrorDetail, RetryAdvice};
use bytes::Bytes;
use prost::Message as _;
use tonic::{Code, Status};

const TYPE_URL: &str = "type.googleapis.com/rangedb.v1.ErrorDetail";

/// google.rpc.Status, the standard envelope of `grpc-status-details-bin`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// A status with a typed detail.
#[must_use]
pub fn status_with_detail(code: Code, message: &str, detail: &ErrorDetail) -> Status {
    let envelope = RpcStatus {
        code: code.into(),
        message: message.to_owned(),
        details: vec![prost_types::Any {
            type_url: TYPE_URL.to_owned(),
            value: detail.encode_to_vec(),
        }],
    };
    Status::with_details(code, message, Bytes::from(envelope.encode_to_vec()))
}

/// The typed detail of a status; `None` if it has none (or none that can be read).
#[must_use]
pub fn detail_of(status: &Status) -> Option<ErrorDetail> {
    let envelope = RpcStatus::decode(status.details()).ok()?;
    let any = envelope.details.iter().find(|any| any.type_url == TYPE_URL)?;
    ErrorDetail::decode(any.value.as_slice()).ok()
}

/// What the caller may do next; falls back on the gRPC code when there is no detail.
#[must_use]
pub fn retry_advice(status: &Status) -> RetryAdvice {
    match detail_of(status) {
        Some(detail) if detail.retry() != RetryAdvice::Unspecified => detail.retry(),
        _ => match status.code() {
            Code::Unavailable | Code::ResourceExhausted => RetryAdvice::Safe,
            Code::Unknown | Code::DeadlineExceeded | Code::Cancelled => RetryAdvice::OutcomeUnknown,
            _ => RetryAdvice::Never,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{RangeUnavailable, error_detail::Kind};

    #[test]
    fn details_survive_a_status() {
        let detail = ErrorDetail {
            retry: RetryAdvice::Safe.into(),
            kind: Some(Kind::RangeUnavailable(RangeUnavailable { range_id: 4 })),
        };
        let status = status_with_detail(Code::Unavailable, "no leader", &detail);
        assert_eq!(detail_of(&status), Some(detail));
        assert_eq!(retry_advice(&status), RetryAdvice::Safe);
        assert_eq!(retry_advice(&Status::unknown("")), RetryAdvice::OutcomeUnknown);
    }
}
