//! Whether what a transaction has read is still so.

use super::history::{Found, look};
use super::{ActionError, Result};
use crate::TombstoneSet;
use crate::key::{bounds, decode_key, split_version};
use crate::record::{LockRecord, WriteRecord};
use rangedb_engine::{Family, Snapshot};
use rangedb_types::{Span, Timestamp};

/// Checks that reads of keys and spans (cut to the range) at `snapshot_ts` would find the same at `commit_ts`. The
/// caller has promised the range that nothing is written at or below `commit_ts` any more. After about `limit`
/// versions of a span it leaves off, before the key that it gives: the rest of that span, and the spans after it,
/// are not looked at.
///
/// # Errors
/// `WriteConflict`, or `KeyLocked` by an intent that may become a version at or below `commit_ts`.
pub fn check_reads(
    snapshot: &dyn Snapshot,
    tombstones: &TombstoneSet,
    id: Timestamp,
    (snapshot_ts, commit_ts): (Timestamp, Timestamp),
    keys: &[impl AsRef<[u8]>],
    spans: &[Span],
    limit: usize,
) -> Result<Option<Vec<u8>>> {
    for key in keys.iter().map(AsRef::as_ref) {
        let Found { lock, newest_foreign, .. } = look(snapshot, tombstones, key, id)?;
        if let Some(lock) = lock {
            check_lock(id, commit_ts, key, lock)?;
        }
        if newest_foreign > snapshot_ts {
            return Err(ActionError::WriteConflict { key: key.to_vec(), version: newest_foreign });
        }
    }
    for span in spans {
        let times = (snapshot_ts, commit_ts);
        let resume = check_versions(snapshot, id, snapshot_ts, span, limit)?;
        let checked = match &resume {
            Some(resume) => Span { start: span.start.clone(), end: resume.clone() },
            None => span.clone(),
        };
        check_locks(snapshot, tombstones, id, times, &checked)?;
        if resume.is_some() {
            return Ok(resume);
        }
    }
    Ok(None)
}

fn check_lock(id: Timestamp, commit_ts: Timestamp, key: &[u8], lock: LockRecord) -> Result<()> {
    if lock.start_ts != id && lock.blocks_read_at(commit_ts) {
        return Err(ActionError::KeyLocked { key: key.to_vec(), lock: Box::new(lock) });
    }
    Ok(())
}

/// Checks a span for intents, and for deletions of spans.
fn check_locks(
    snapshot: &dyn Snapshot,
    tombstones: &TombstoneSet,
    id: Timestamp,
    (snapshot_ts, commit_ts): (Timestamp, Timestamp),
    span: &Span,
) -> Result<()> {
    let held = bounds(span);
    let mut locks = snapshot.iterator(Family::Lock, &held.lower, &held.upper)?;
    let mut valid = locks.seek_to_first()?;
    while valid {
        let lock = LockRecord::decode(locks.value())?;
        let key = decode_key(Family::Lock, locks.key())?;
        check_lock(id, commit_ts, &key, lock)?;
        valid = locks.next()?;
    }
    if let Some(version) = tombstones.newest_over(span).filter(|newest| *newest > snapshot_ts) {
        return Err(ActionError::WriteConflict { key: span.start.clone(), version });
    }
    Ok(())
}

/// Checks a span for newer versions, up to the key that it gives.
fn check_versions(
    snapshot: &dyn Snapshot,
    id: Timestamp,
    snapshot_ts: Timestamp,
    span: &Span,
    limit: usize,
) -> Result<Option<Vec<u8>>> {
    let held = bounds(span);
    let mut writes = snapshot.iterator(Family::Write, &held.lower, &held.upper)?;
    let mut valid = writes.seek_to_first()?;
    let (mut seen, mut last) = (0, Vec::new());
    while valid {
        let (encoded, version) = split_version(Family::Write, writes.key())?;
        seen += 1;
        if seen == limit {
            last = encoded.to_vec();
        } else if seen > limit && last != encoded {
            return Ok(Some(decode_key(Family::Write, encoded)?));
        }
        if version > snapshot_ts {
            let record = WriteRecord::decode(writes.value())?;
            if !record.kind.is_passed_over() && record.start_ts != id {
                let key = decode_key(Family::Write, encoded)?;
                return Err(ActionError::WriteConflict { key, version });
            }
        }
        valid = writes.next()?;
    }
    Ok(None)
}
