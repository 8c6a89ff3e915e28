//! Garbage: versions that no read at or above the safe point can see.
//!
//! Of the versions of a key at or below the safe point only the newest can still be seen, and that one
//! only if it is a value and no range tombstone hides it. A deletion goes after everything it hides,
//! never before. Of a version whose transaction is not settled on all of its keys a trace is left, which says
//! when it was committed and nothing else. A range tombstone goes once a whole pass over its span has removed what it hides.

use crate::key::{bounds, decode_key, encode_key, split_version, versioned_key};
use crate::record::{WriteKind, WriteRecord};
use crate::tombstone::for_each_tombstone;
use crate::{Mutation, Result, TombstoneSet};
use rangedb_engine::{Family, Snapshot};
use rangedb_types::{Span, Timestamp};
use std::ops::ControlFlow;

/// What one page may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectLimits {
    /// Versions that are looked at.
    pub versions_max: usize,
    /// Versions that are removed.
    pub removals_max: usize,
}

/// A part of a pass over a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Garbage {
    /// To be applied in this order, together or one after the other.
    pub removals: Vec<Mutation>,
    /// Bytes of keys and values that go.
    pub bytes: u64,
    /// Where to go on, once the removals are applied; `None` at the end of the span.
    pub resume: Option<Vec<u8>>,
    /// There are versions or range tombstones above the safe point that make others garbage later.
    pub more_later: bool,
    /// Primaries whose transactions are not settled on all of their keys; at most [`OPEN_MAX`] of them.
    pub open: Vec<OpenPrimary>,
}

/// Most primaries that a page names.
pub const OPEN_MAX: usize = 256;

/// The committed primary of a transaction that somebody may still ask for, committed at or below the safe
/// point: whoever was to settle its other keys is likely gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenPrimary {
    pub key: Vec<u8>,
    pub id: Timestamp,
    pub version: Timestamp,
}

/// The versions of one key, newest first, as far as the pass has come.
struct KeyState {
    encoded: Vec<u8>,
    /// The newest version at or below the safe point was met: what is older goes.
    settled: bool,
    /// That version was a deletion, which goes last; with its bytes.
    deletion: Option<(Mutation, u64)>,
    versions: usize,
}

/// Looks for garbage in `span`, which begins at the first version of a key. `tombstones` are those of
/// the whole range.
///
/// # Errors
/// Engine errors and damage.
pub fn collect(
    snapshot: &dyn Snapshot,
    tombstones: &TombstoneSet,
    span: &Span,
    safe_point: Timestamp,
    limits: CollectLimits,
) -> Result<Garbage> {
    let held = bounds(span);
    let mut iter = snapshot.iterator(Family::Write, &held.lower, &held.upper)?;
    let more_later = tombstones.any_after(safe_point);
    let mut garbage = Garbage { more_later, ..Garbage::default() };
    let mut seen = 0;
    let mut state: Option<KeyState> = None;
    let mut valid = iter.seek_to_first()?;
    while valid {
        let (encoded, version) = split_version(Family::Write, iter.key())?;
        if state.as_ref().is_none_or(|state| state.encoded != encoded) {
            finish(&mut state, &mut garbage);
            if seen >= limits.versions_max || garbage.removals.len() >= limits.removals_max {
                garbage.resume = Some(decode_key(Family::Write, encoded)?);
                return Ok(garbage);
            }
            let encoded = encoded.to_vec();
            state = Some(KeyState { encoded, settled: false, deletion: None, versions: 0 });
        }
        let key = state.as_mut().expect("set above");
        let record = WriteRecord::decode(iter.value())?;
        seen += 1;
        key.versions += 1;
        if version > safe_point {
            garbage.more_later |= key.versions > 1 || record.kind != WriteKind::Put || record.open;
        } else {
            if record.open && garbage.open.len() < OPEN_MAX {
                let (key, id) = (decode_key(Family::Write, &key.encoded)?, record.start_ts);
                garbage.open.push(OpenPrimary { key, id, version });
            }
            let before = garbage.removals.len();
            visit(snapshot, key, version, &record, tombstones, safe_point, &mut garbage)?;
            let bytes = (iter.key().len() + iter.value().len()) as u64;
            if garbage.removals.len() > before {
                garbage.bytes += bytes;
            } else if let Some((_, of_deletion)) = &mut key.deletion {
                *of_deletion = bytes;
            }
            if garbage.removals.len() >= limits.removals_max {
                // A key with very many versions: its deletion waits for the page that ends it.
                garbage.resume = Some(decode_key(Family::Write, &key.encoded)?);
                return Ok(garbage);
            }
        }
        valid = iter.next()?;
    }
    finish(&mut state, &mut garbage);
    Ok(garbage)
}

/// Judges one version at or below the safe point.
fn visit(
    snapshot: &dyn Snapshot,
    state: &mut KeyState,
    version: Timestamp,
    record: &WriteRecord<'_>,
    tombstones: &TombstoneSet,
    safe_point: Timestamp,
    garbage: &mut Garbage,
) -> Result<()> {
    let mut own = state.encoded.clone();
    own.extend_from_slice(&crate::key::encode_version(version));
    let removal = Mutation::remove(Family::Write, own);
    let hidden = || -> Result<bool> {
        let key = decode_key(Family::Write, &state.encoded)?;
        Ok(tombstones.hides(&key, version, safe_point))
    };
    match record.kind {
        // Somebody may still ask what became of the transaction.
        WriteKind::Trace if record.open => {}
        WriteKind::Rollback | WriteKind::Trace => garbage.removals.push(removal),
        WriteKind::Delete if !state.settled => {
            state.settled = true;
            state.deletion = Some((ended(removal, record), 0));
        }
        WriteKind::Delete => garbage.removals.push(ended(removal, record)),
        WriteKind::Put if !state.settled && !hidden()? => {
            state.settled = true;
            garbage.more_later |= state.versions > 1;
        }
        WriteKind::Put => {
            state.settled = true;
            if record.short_value.is_none() {
                let mut value = state.encoded.clone();
                value.extend_from_slice(&crate::key::encode_version(record.start_ts));
                let held = snapshot.get(Family::Data, &value)?;
                garbage.bytes += held.map_or(0, |held| (value.len() + held.len()) as u64);
                garbage.removals.push(Mutation::remove(Family::Data, value));
            }
            garbage.removals.push(ended(removal, record));
        }
    }
    Ok(())
}

/// The end of a version: of one that other keys' intents may ask for, a trace is left.
fn ended(removal: Mutation, record: &WriteRecord<'_>) -> Mutation {
    if !record.open {
        return removal;
    }
    let trace = WriteRecord { kind: WriteKind::Trace, short_value: None, ..*record };
    Mutation { value: Some(trace.encode().into()), ..removal }
}

/// Everything that a key's deletion hides is gone.
fn finish(state: &mut Option<KeyState>, garbage: &mut Garbage) {
    if let Some((deletion, bytes)) = state.take().and_then(|state| state.deletion) {
        garbage.removals.push(deletion);
        garbage.bytes += bytes;
    }
}

/// The range tombstones of a range that may go once a whole pass at `safe_point` was applied.
///
/// # Errors
/// Engine errors and damage.
pub fn spent_tombstones(
    snapshot: &dyn Snapshot,
    span: &Span,
    safe_point: Timestamp,
) -> Result<Vec<Mutation>> {
    let mut removals = Vec::new();
    for_each_tombstone(snapshot, span, |tombstone| {
        if tombstone.timestamp <= safe_point {
            let key = versioned_key(&tombstone.start, tombstone.timestamp);
            removals.push(Mutation::remove(Family::RangeTombstone, key));
        }
        ControlFlow::Continue(())
    })?;
    Ok(removals)
}

/// Where a page that goes on at `key` begins.
#[must_use]
pub fn rest_of(span: &Span, key: Vec<u8>) -> Span {
    debug_assert!(span.contains(&key) && !encode_key(&key).is_empty());
    Span { start: key, end: span.end.clone() }
}

#[cfg(test)]
mod tests;
