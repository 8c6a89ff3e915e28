//! What the versions of a key say about a transaction.

use crate::key::{encode_key, encode_version, split_version};
use crate::record::{LockRecord, WriteKind, WriteRecord};
use crate::{Result, TombstoneSet};
use rangedb_engine::{Family, Snapshot};
use rangedb_types::Timestamp;

/// What became of a transaction on a key where it has no intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Committed(Timestamp),
    RolledBack,
}

/// A key as a transaction finds it.
pub(super) struct Found {
    pub(super) lock: Option<LockRecord>,
    /// The transaction's own.
    pub(super) fate: Option<Fate>,
    /// The newest version that another made, also by deleting the span around it.
    pub(super) newest_foreign: Timestamp,
}

/// Looks at a key's intent, and at its versions down to the transaction's id.
pub(super) fn look(
    snapshot: &dyn Snapshot,
    tombstones: &TombstoneSet,
    key: &[u8],
    id: Timestamp,
) -> Result<Found> {
    let lock = intent_of(snapshot, key)?;
    let mut newest_foreign = tombstones.newest(key, Timestamp::MAX).unwrap_or_default();
    let mut fate = None;
    for_each_version(snapshot, key, id, |version, record| {
        if record.start_ts == id {
            fate = Some(match record.kind {
                WriteKind::Rollback => Fate::RolledBack,
                WriteKind::Put | WriteKind::Delete | WriteKind::Trace => Fate::Committed(version),
            });
        } else if !record.kind.is_passed_over() {
            newest_foreign = newest_foreign.max(version);
        }
    })?;
    Ok(Found { lock, fate, newest_foreign })
}

/// What became of a transaction on a key; `None` if there is no trace of it but, perhaps, its intent.
pub(super) fn fate(snapshot: &dyn Snapshot, key: &[u8], id: Timestamp) -> Result<Option<Fate>> {
    look(snapshot, &TombstoneSet::empty(), key, id).map(|found| found.fate)
}

/// The intent on a key, whose ever it is.
///
/// # Errors
/// Engine errors and damage.
pub fn intent_of(snapshot: &dyn Snapshot, key: &[u8]) -> Result<Option<LockRecord>> {
    let lock = snapshot.get(Family::Lock, &encode_key(key))?;
    lock.map(|lock| LockRecord::decode(&lock)).transpose()
}

/// Visits the write records of a key at or above a timestamp, the newest first.
fn for_each_version(
    snapshot: &dyn Snapshot,
    key: &[u8],
    down_to: Timestamp,
    mut visit: impl FnMut(Timestamp, &WriteRecord<'_>),
) -> Result<()> {
    let mut lower = encode_key(key);
    let mut upper = lower.clone();
    lower.extend_from_slice(&encode_version(Timestamp::MAX));
    // The bound is not included, and versions descend.
    upper.extend_from_slice(&encode_version(down_to.prev()));
    let mut iter = snapshot.iterator(Family::Write, &lower, &upper)?;
    let mut valid = iter.seek_to_first()?;
    while valid {
        let (_, version) = split_version(Family::Write, iter.key())?;
        visit(version, &WriteRecord::decode(iter.value())?);
        valid = iter.next()?;
    }
    Ok(())
}
