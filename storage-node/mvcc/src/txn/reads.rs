//! Whether what a transaction has read is still so.

use super::history::{Found, look};
use super::{ActionError, Result};
use crate::TombstoneSet;
use crate::key::{bounds, decode_key, split_version};
use crate::record::{LockRecord, WriteRecord};
use rangedb_engine::{Family, Snapshot};
use rangedb_types::{Span, Timestamp};

/// Checks that reads of keys and spans (cut to the range) at `snapshot_ts` would find the same at `commit_ts`. The
/// caller has promised the range that nothing is written at or below `commit_ts` any more.
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
) -> Result<()> {
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
        check_span(snapshot, tombstones, id, (snapshot_ts, commit_ts), span)?;
    }
    Ok(())
}

fn check_lock(id: Timestamp, commit_ts: Timestamp, key: &[u8], lock: LockRecord) -> Result<()> {
    if lock.start_ts != id && lock.blocks_read_at(commit_ts) {
        return Err(ActionError::KeyLocked { key: key.to_vec(), lock: Box::new(lock) });
    }
    Ok(())
}

fn check_span(
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
    let mut writes = snapshot.iterator(Family::Write, &held.lower, &held.upper)?;
    let mut valid = writes.seek_to_first()?;
    while valid {
        let (encoded, version) = split_version(Family::Write, writes.key())?;
        if version > snapshot_ts {
            let record = WriteRecord::decode(writes.value())?;
            if !record.kind.is_passed_over() && record.start_ts != id {
                let key = decode_key(Family::Write, encoded)?;
                return Err(ActionError::WriteConflict { key, version });
            }
        }
        valid = writes.next()?;
    }
    Ok(())
}
