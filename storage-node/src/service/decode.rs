//! Requests as they come off the wire.

use super::metrics::Kind;
use crate::access::Refusal;
use crate::read::ReadAt;
use crate::txn::Action;
use crate::write::{Change, Identity};
use bytes::Bytes;
use rangedb_mvcc::{Condition, ScanOptions};
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::data_request::Operation;
use rangedb_proto::internal::v1::write_condition::Must;
use rangedb_types::limits::PAGE_BYTES_MAX;
use rangedb_types::{Epoch, RangeId, RequestId, Span, Timestamp};
use std::time::Duration;

/// When the request does not say.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// The part of a request's time that is left for the answer to travel, one tenth, is at most this.
const ANSWER_MARGIN_MAX: Duration = Duration::from_millis(100);

/// A request that makes sense by itself.
#[derive(Debug)]
pub(super) struct Decoded {
    pub range_id: RangeId,
    pub epoch: Epoch,
    /// From receipt.
    pub timeout: Duration,
    pub operation: Op,
    /// Of a read that any replica may answer: what has to be applied; zero: its version is to be closed.
    pub replica: Option<u64>,
}

#[derive(Debug)]
pub(super) enum Op {
    Get { keys: Vec<Bytes>, at: ReadAt },
    Scan { span: Span, options: ScanOptions, at: ReadAt },
    Write { change: Change, identity: Identity },
    Status { key: Bytes, request_id: RequestId, seen: Timestamp },
    Action(Action),
    Claim { version: Timestamp },
}

impl Op {
    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Get { .. } => Kind::Get,
            Self::Scan { .. } => Kind::Scan,
            Self::Write { change: Change::Put { .. }, .. } => Kind::Put,
            Self::Write { change: Change::Delete { .. }, .. } => Kind::Delete,
            Self::Write { change: Change::DeleteRange { .. }, .. } => Kind::DeleteRange,
            Self::Status { .. } => Kind::CommitStatus,
            Self::Action(_) => Kind::Action,
            Self::Claim { .. } => Kind::Claim,
        }
    }

    const fn is_read_at_version(&self) -> bool {
        match self {
            Self::Get { at, .. } | Self::Scan { at, .. } => !at.version.is_zero(),
            _ => false,
        }
    }

    /// The smallest span that holds every key it touches.
    pub(super) fn span(&self) -> Span {
        match self {
            Self::Get { keys, .. } => {
                let first = keys.iter().min().map_or_else(Vec::new, |key| key.to_vec());
                let last = keys.iter().max().map_or_else(Span::all, |key| Span::of_key(key));
                Span { start: first, end: last.end }
            }
            Self::Scan { span, .. } | Self::Write { change: Change::DeleteRange { span }, .. } => {
                span.clone()
            }
            Self::Write {
                change: Change::Put { key, .. } | Change::Delete { key, .. }, ..
            }
            | Self::Status { key, .. } => Span::of_key(key),
            Self::Action(action) => action.span(),
            Self::Claim { .. } => Span::all(),
        }
    }
}

pub(super) fn invalid(words: &str) -> Refusal {
    Refusal::Invalid(words.to_owned())
}

/// # Errors
/// `Invalid` if something is missing or makes no sense.
pub(super) fn decode(request: wire::DataRequest) -> Result<Decoded, Refusal> {
    let epoch = request.epoch.ok_or_else(|| invalid("the request names no epoch"))?;
    let operation = request.operation.ok_or_else(|| invalid("the request asks for nothing"))?;
    let operation = match operation {
        Operation::Get(get) => {
            if get.keys.is_empty() {
                return Err(invalid("the request names no key"));
            }
            Op::Get { keys: get.keys, at: read_at(get.read_version, &get.pass_over) }
        }
        Operation::Put(put) => Op::Write {
            change: Change::Put {
                key: key(put.key)?,
                value: put.value,
                condition: condition(put.condition),
            },
            identity: identity(put.identity)?,
        },
        Operation::Delete(delete) => Op::Write {
            change: Change::Delete {
                key: key(delete.key)?,
                condition: condition(delete.condition),
            },
            identity: identity(delete.identity)?,
        },
        Operation::DeleteRange(delete) => Op::Write {
            change: Change::DeleteRange { span: span(&delete.start, &delete.end)? },
            identity: identity(delete.identity)?,
        },
        Operation::Scan(scan) => Op::Scan {
            span: span(&scan.start, &scan.end)?,
            options: scan_options(&scan),
            at: read_at(scan.read_version, &scan.pass_over),
        },
        Operation::CommitStatus(status) => Op::Status {
            request_id: request_id(&status.request_id)?,
            key: status.key,
            seen: Timestamp(status.seen_version),
        },
        Operation::Action(action) => Op::Action(super::actions::decode(action)?),
        Operation::Claim(claim) => Op::Claim { version: Timestamp(claim.version) },
    };
    let replica = request.replica.map(|replica| replica.index);
    if replica.is_some() && !operation.is_read_at_version() {
        return Err(invalid("only reads at a version may be made of any replica"));
    }
    Ok(Decoded {
        range_id: RangeId(request.range_id),
        epoch: epoch.into(),
        timeout: timeout(request.timeout_ms),
        operation,
        replica,
    })
}

fn read_at(version: u64, pass_over: &[u64]) -> ReadAt {
    let pass_over = pass_over.iter().copied().map(Timestamp).collect();
    ReadAt { version: Timestamp(version), pass_over }
}

fn timeout(timeout_ms: u32) -> Duration {
    let timeout = match timeout_ms {
        0 => TIMEOUT_DEFAULT,
        timeout_ms => Duration::from_millis(timeout_ms.into()).min(TIMEOUT_MAX),
    };
    timeout - (timeout / 10).min(ANSWER_MARGIN_MAX)
}

pub(super) fn key(key: Bytes) -> Result<Bytes, Refusal> {
    if key.is_empty() { Err(invalid("the key is empty")) } else { Ok(key) }
}

pub(super) fn span(start: &Bytes, end: &Bytes) -> Result<Span, Refusal> {
    Span::new(start.to_vec(), end.to_vec())
        .map_err(|_| invalid("the start of the span does not lie before its end"))
}

fn condition(condition: Option<wire::WriteCondition>) -> Condition {
    match condition.and_then(|condition| condition.must) {
        Some(Must::VersionIs(version)) => Condition::VersionIs(Timestamp(version)),
        Some(Must::Absent(true)) => Condition::Absent,
        Some(Must::Absent(false)) | None => Condition::None,
    }
}

fn request_id(bytes: &[u8]) -> Result<RequestId, Refusal> {
    match RequestId::from_bytes(bytes) {
        Ok(id) if !id.is_none() => Ok(id),
        _ => Err(invalid("the request id is not 16 bytes that are not all zero")),
    }
}

fn identity(identity: Option<wire::WriteIdentity>) -> Result<Identity, Refusal> {
    let identity = identity.ok_or_else(|| invalid("the write has no request id"))?;
    Ok(Identity {
        request_id: request_id(&identity.request_id)?,
        seen: Timestamp(identity.seen_version),
        retry: identity.retry,
    })
}

fn scan_options(scan: &wire::NodeScan) -> ScanOptions {
    let bytes_max = usize::try_from(scan.bytes_max).unwrap_or(usize::MAX);
    ScanOptions {
        limit: usize::try_from(scan.limit).unwrap_or(usize::MAX),
        bytes_max: if bytes_max == 0 { PAGE_BYTES_MAX } else { bytes_max.min(PAGE_BYTES_MAX) },
        reverse: scan.reverse,
        keys_only: scan.keys_only,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(operation: Option<Operation>) -> wire::DataRequest {
        let epoch = Some(wire::Epoch { version: 1, conf_version: 1 });
        wire::DataRequest { tag: 1, range_id: 1, epoch, timeout_ms: 0, operation, replica: None }
    }

    fn refused(operation: Option<Operation>) -> bool {
        matches!(decode(request(operation)), Err(Refusal::Invalid(_)))
    }

    #[test]
    fn requests_that_make_no_sense_are_refused() {
        let identity = wire::WriteIdentity { request_id: vec![1; 16].into(), ..Default::default() };
        let short = wire::WriteIdentity { request_id: vec![1; 15].into(), ..Default::default() };
        let put = |key: &'static [u8], identity: Option<wire::WriteIdentity>| {
            Some(Operation::Put(wire::NodePut {
                key: Bytes::from_static(key),
                identity,
                ..Default::default()
            }))
        };
        assert!(refused(None));
        assert!(refused(Some(Operation::Get(wire::NodeGet::default()))));
        assert!(refused(put(b"", Some(identity.clone()))));
        assert!(refused(put(b"k", None)));
        assert!(refused(put(b"k", Some(wire::WriteIdentity::default()))));
        assert!(refused(put(b"k", Some(short))));
        assert!(!refused(put(b"k", Some(identity))));
        let scan = wire::NodeScan {
            start: Bytes::from_static(b"b"),
            end: Bytes::from_static(b"a"),
            ..Default::default()
        };
        assert!(refused(Some(Operation::Scan(scan))));
    }

    #[test]
    fn some_time_is_left_for_the_answer() {
        assert_eq!(timeout(100), Duration::from_millis(90));
        assert_eq!(timeout(5_000), Duration::from_millis(4_900));
        assert_eq!(timeout(u32::MAX), TIMEOUT_MAX - ANSWER_MARGIN_MAX);
    }

    #[test]
    fn a_gets_span_holds_all_its_keys() {
        let keys = [&b"m"[..], b"a", b"z"].map(Bytes::from_static).to_vec();
        let span = Op::Get { keys: keys.clone(), at: ReadAt::default() }.span();
        assert!(keys.iter().all(|key| span.contains(key)) && !span.contains(b"zz"));
    }
}
