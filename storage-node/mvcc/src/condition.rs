//! What a conditional or repeated write asks before it is stamped.

use crate::key::{encode_key, encode_version, split_version};
use crate::record::WriteRecord;
use crate::tombstone::for_each_tombstone;
use crate::{MvccError, Result, Seen, TombstoneSet, Value, get};
use rangedb_engine::{Family, Snapshot};
use rangedb_types::{RequestId, Span, Timestamp};
use std::ops::ControlFlow;

/// What must hold for a write to happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    #[default]
    None,
    /// The key has a value, of this version.
    VersionIs(Timestamp),
    /// The key has no value.
    Absent,
}

/// Why a conditional write does not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    #[error("the condition does not hold")]
    Failed { current: Option<Value> },
    #[error(transparent)]
    Mvcc(#[from] MvccError),
}

/// Checks a condition against the latest version of a key. The caller holds the key's latch, so
/// that the answer stays true until its write is applied. [`Condition::None`] reads nothing.
///
/// # Errors
/// `Failed` with what is there; read errors, among them a key that is locked.
pub fn check_condition(
    snapshot: &dyn Snapshot,
    tombstones: &TombstoneSet,
    key: &[u8],
    condition: Condition,
) -> Result<(), ConditionError> {
    let holds = |current: &Option<Value>| match condition {
        Condition::None => true,
        Condition::VersionIs(version) => {
            current.as_ref().is_some_and(|value| value.version == version)
        }
        Condition::Absent => current.is_none(),
    };
    if condition == Condition::None {
        return Ok(());
    }
    let current = get(snapshot, tombstones, key, Seen::LATEST)?;
    if holds(&current) { Ok(()) } else { Err(ConditionError::Failed { current }) }
}

/// The commit timestamp that the write `request_id` of `key` got, if one of the key's versions above
/// `above` is its.
///
/// # Errors
/// Engine errors and damage.
pub fn find_request(
    snapshot: &dyn Snapshot,
    key: &[u8],
    request_id: RequestId,
    above: Timestamp,
) -> Result<Option<Timestamp>> {
    let mut lower = encode_key(key);
    let mut upper = lower.clone();
    lower.extend_from_slice(&encode_version(Timestamp::MAX));
    // Versions descend, so the bound, which is not included, is `above` itself.
    upper.extend_from_slice(&encode_version(above));
    let mut iter = snapshot.iterator(Family::Write, &lower, &upper)?;
    let mut valid = iter.seek_to_first()?;
    while valid {
        if WriteRecord::decode(iter.value())?.request_id == request_id {
            return split_version(Family::Write, iter.key()).map(|(_, version)| Some(version));
        }
        valid = iter.next()?;
    }
    Ok(None)
}

/// The timestamp that the range deletion `request_id` got, if one of the tombstones above `above`
/// that begin in `span` is its. `span` is what was asked to be deleted, cut to the range.
///
/// # Errors
/// Engine errors and damage.
pub fn find_delete_range(
    snapshot: &dyn Snapshot,
    span: &Span,
    request_id: RequestId,
    above: Timestamp,
) -> Result<Option<Timestamp>> {
    let mut found = None;
    for_each_tombstone(snapshot, span, |tombstone| {
        if tombstone.timestamp > above && tombstone.record.request_id == request_id {
            found = Some(tombstone.timestamp);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}
