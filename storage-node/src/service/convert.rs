//! Answers as they go on the wire.

use crate::access::Refusal;
use bytes::Bytes;
use rangedb_mvcc::{Page, Value};
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_proto::internal::v1::node_error::{self, Kind};
use rangedb_types::Timestamp;

pub(super) fn error(refusal: Refusal) -> Answer {
    Answer::Error(node_error(refusal))
}

pub(super) fn values(values: Vec<Option<Value>>) -> Answer {
    Answer::Get(wire::NodeGetResult { values: values.into_iter().map(value).collect() })
}

pub(super) fn value(value: Option<Value>) -> wire::NodeValue {
    value.map_or_else(wire::NodeValue::default, |value| found(value.bytes, value.version))
}

pub(super) fn page(page: Page, read_version: Timestamp) -> Answer {
    let entries = page.entries.into_iter().map(|entry| wire::NodeEntry {
        key: entry.key,
        value: entry.value,
        version: entry.version.0,
    });
    Answer::Scan(wire::NodeScanResult {
        entries: entries.collect(),
        resume: page.resume,
        read_version: read_version.0,
    })
}

pub(super) fn written(version: Option<Timestamp>) -> Answer {
    let version = version.expect("a write that came through has a version");
    Answer::Write(wire::NodeWriteResult { version: version.0 })
}

pub(super) fn status(version: Option<Timestamp>) -> Answer {
    Answer::CommitStatus(wire::NodeCommitStatusResult {
        committed: version.is_some(),
        version: version.unwrap_or_default().0,
    })
}

pub(super) fn claimed(index: u64) -> Answer {
    Answer::Claim(wire::NodeClaimResult { index })
}

fn found(value: Bytes, version: Timestamp) -> wire::NodeValue {
    wire::NodeValue { found: true, value, version: version.0 }
}

/// A refusal, with what the gateway needs to act on it.
pub(super) fn node_error(refusal: Refusal) -> wire::NodeError {
    let message = refusal.to_string();
    let kind = match refusal {
        Refusal::RangeNotFound(range_id) => {
            Kind::RangeNotFound(wire::RangeNotFound { range_id: range_id.get() })
        }
        Refusal::EpochMismatch { ranges } => Kind::EpochMismatch(wire::EpochMismatch {
            ranges: ranges.iter().map(Into::into).collect(),
        }),
        Refusal::NotLeader { leader, range } => Kind::NotLeader(wire::NotLeader {
            range_id: range.range_id.get(),
            leader: leader.as_ref().map(Into::into),
            range: Some((&*range).into()),
        }),
        Refusal::NotReady(_) => Kind::NotReady(node_error::NotReady {}),
        Refusal::Overloaded(_) => Kind::Overloaded(node_error::Overloaded {}),
        Refusal::NoTimestamp(_) => Kind::NoTimestamp(node_error::NoTimestamp {}),
        Refusal::Invalid(_) => Kind::Invalid(node_error::Invalid { too_old: false }),
        Refusal::TooOld => Kind::Invalid(node_error::Invalid { too_old: true }),
        Refusal::Fenced => Kind::Fenced(node_error::Fenced {}),
        Refusal::ConditionFailed { current } => {
            Kind::ConditionFailed(wire::NodeConditionFailed {
                current: Some(current.map_or_else(wire::NodeValue::default, |(value, version)| {
                    found(value, version)
                })),
            })
        }
        Refusal::OutcomeUnknown(_) => Kind::OutcomeUnknown(node_error::OutcomeUnknown {}),
        Refusal::Corrupt(_) => Kind::Corrupt(node_error::Corrupt {}),
        Refusal::KeyLocked { key, lock } => Kind::KeyLocked(super::actions::intent(key, &lock)),
        Refusal::WriteConflict { key, version } => {
            Kind::WriteConflict(node_error::WriteConflict { key, version: version.0 })
        }
        Refusal::Deadlock { cycle } => {
            Kind::Deadlock(node_error::Deadlock { cycle: cycle.iter().map(|id| id.0).collect() })
        }
        Refusal::Aborted => Kind::Aborted(node_error::Aborted {}),
        Refusal::Committed { version } => {
            Kind::Committed(node_error::Committed { version: version.0 })
        }
        Refusal::CommitTooEarly { least } => {
            Kind::CommitTooEarly(node_error::CommitTooEarly { least: least.0 })
        }
    };
    wire::NodeError { message, kind: Some(kind) }
}
