//! The end of intents: versions or marks.

use super::history::{Fate, fate, intent_of};
use super::place::{has_long_value, record_of, version_of};
use super::{ActionError, Result};
use crate::Mutation;
use crate::key::{bounds, decode_key, encode_key, versioned_key};
use crate::record::{LockRecord, WriteKind, WriteRecord};
use rangedb_engine::{Family, Snapshot};
use rangedb_types::{Span, Timestamp};

/// Commits a transaction on one key. `open`: intents on other keys will be settled after this, so that
/// [`finish`] is needed.
///
/// # Errors
/// `Committed` if it was committed there before, which is as good; `CommitTooEarly`; `Aborted` if its intent is gone
/// or was never made firm.
pub fn commit(
    snapshot: &dyn Snapshot,
    id: Timestamp,
    key: &[u8],
    commit_ts: Timestamp,
    open: bool,
) -> Result<Vec<Mutation>> {
    match intent_of(snapshot, key)?.filter(|lock| lock.start_ts == id) {
        Some(lock) if lock.tentative => Err(ActionError::Aborted { key: key.to_vec() }),
        Some(lock) if commit_ts < lock.min_commit_ts => {
            Err(ActionError::CommitTooEarly { least: lock.min_commit_ts })
        }
        Some(lock) => Ok(version_of(key, &lock, commit_ts, open)),
        None => match fate(snapshot, key, id)? {
            Some(Fate::Committed(version)) => Err(ActionError::Committed { version }),
            Some(Fate::RolledBack) | None => Err(ActionError::Aborted { key: key.to_vec() }),
        },
    }
}

/// Rolls a transaction back on its primary, and leaves a mark there.
///
/// # Errors
/// `Committed` if it was committed there; `NotPrimary`.
pub fn roll_back(snapshot: &dyn Snapshot, id: Timestamp, key: &[u8]) -> Result<Vec<Mutation>> {
    if let Some(lock) = intent_of(snapshot, key)?.filter(|lock| lock.start_ts == id) {
        if lock.primary != key {
            return Err(ActionError::NotPrimary { key: key.to_vec() });
        }
        return Ok(removal(key, &lock, true));
    }
    match fate(snapshot, key, id)? {
        Some(Fate::Committed(version)) => Err(ActionError::Committed { version }),
        Some(Fate::RolledBack) => Ok(Vec::new()),
        None => Ok(vec![mark(key, id)]),
    }
}

/// A page of a walk over the intents of one transaction, or of old ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    pub mutations: Vec<Mutation>,
    /// Intents that were looked at.
    pub intents: Vec<(Vec<u8>, LockRecord)>,
    /// Where the next page begins.
    pub resume: Option<Vec<u8>>,
}

/// Settles all intents of a transaction in a span, as its primary was: at `Some` commit timestamp or, at `None`,
/// rolled back. At most `limit` intents a page.
///
/// # Errors
/// Engine errors and damage.
pub fn resolve(
    snapshot: &dyn Snapshot,
    id: Timestamp,
    span: &Span,
    commit_ts: Option<Timestamp>,
    limit: usize,
) -> Result<Settled> {
    let mut page = walk(snapshot, span, limit, |lock| lock.start_ts == id)?;
    for (key, lock) in &page.intents {
        page.mutations.extend(settled(key, lock, commit_ts));
    }
    Ok(page)
}

/// As [`resolve`], of single keys. Keys whose intents were not placed yet are marked if it was rolled back.
///
/// # Errors
/// Engine errors and damage.
pub fn resolve_keys(
    snapshot: &dyn Snapshot,
    id: Timestamp,
    keys: &[impl AsRef<[u8]>],
    commit_ts: Option<Timestamp>,
) -> Result<Vec<Mutation>> {
    let mut mutations = Vec::new();
    for key in keys.iter().map(AsRef::as_ref) {
        let own = intent_of(snapshot, key)?.filter(|lock| lock.start_ts == id);
        match own {
            Some(lock) => mutations.extend(settled(key, &lock, commit_ts)),
            None if commit_ts.is_none() && fate(snapshot, key, id)?.is_none() => {
                mutations.push(mark(key, id));
            }
            None => {}
        }
    }
    Ok(mutations)
}

fn settled(key: &[u8], lock: &LockRecord, commit_ts: Option<Timestamp>) -> Vec<Mutation> {
    match commit_ts {
        Some(commit_ts) if !lock.tentative => version_of(key, lock, commit_ts, false),
        // A call that came late, to a transaction that was over: it says nothing.
        Some(_) => removal(key, lock, false),
        None => removal(key, lock, true),
    }
}

/// The intents of one transaction in a span, at most `limit` a page.
///
/// # Errors
/// Engine errors and damage.
pub fn intents_of(
    snapshot: &dyn Snapshot,
    id: Timestamp,
    span: &Span,
    limit: usize,
) -> Result<Settled> {
    walk(snapshot, span, limit, |lock| lock.start_ts == id)
}

/// Intents of a span whose transactions began at or below a timestamp.
///
/// # Errors
/// Engine errors and damage.
pub fn intents_below(
    snapshot: &dyn Snapshot,
    span: &Span,
    at_most: Timestamp,
    limit: usize,
) -> Result<Settled> {
    walk(snapshot, span, limit, |lock| lock.start_ts <= at_most)
}

/// Intents of one transaction in a span.
pub(super) fn walk(
    snapshot: &dyn Snapshot,
    span: &Span,
    limit: usize,
    wanted: impl Fn(&LockRecord) -> bool,
) -> Result<Settled> {
    let held = bounds(span);
    let mut iter = snapshot.iterator(Family::Lock, &held.lower, &held.upper)?;
    let mut page = Settled::default();
    let mut valid = iter.seek_to_first()?;
    while valid {
        let lock = LockRecord::decode(iter.value())?;
        if wanted(&lock) {
            let key = decode_key(Family::Lock, iter.key())?;
            if page.intents.len() == limit {
                page.resume = Some(key);
                break;
            }
            page.intents.push((key, lock));
        }
        valid = iter.next()?;
    }
    Ok(page)
}

/// The end of an intent without a version.
pub(super) fn removal(key: &[u8], lock: &LockRecord, marked: bool) -> Vec<Mutation> {
    let mut mutations = vec![Mutation::remove(Family::Lock, encode_key(key))];
    if has_long_value(lock) {
        mutations.push(Mutation::remove(Family::Data, versioned_key(key, lock.start_ts)));
    }
    if marked {
        mutations.push(mark(key, lock.start_ts));
    }
    mutations
}

/// Every other key of a transaction is settled: nobody will ask its primary any more.
///
/// # Errors
/// Engine errors and damage.
pub fn finish(
    snapshot: &dyn Snapshot,
    id: Timestamp,
    primary: &[u8],
    commit_ts: Timestamp,
) -> Result<Vec<Mutation>> {
    let key = versioned_key(primary, commit_ts);
    let Some(stored) = snapshot.get(Family::Write, &key)? else { return Ok(Vec::new()) };
    let record = WriteRecord::decode(&stored)?;
    if record.start_ts != id || !record.open {
        return Ok(Vec::new());
    }
    let record = WriteRecord { open: false, ..record };
    Ok(vec![Mutation::put(Family::Write, key, record.encode())])
}

/// A transaction with this id never writes the key.
pub(super) fn mark(key: &[u8], id: Timestamp) -> Mutation {
    let record = record_of(WriteKind::Rollback, id, None);
    Mutation::put(Family::Write, versioned_key(key, id), record.encode())
}
