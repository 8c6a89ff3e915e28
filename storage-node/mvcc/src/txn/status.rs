//! What is known of a transaction at its keys.

use super::history::{Fate, fate, intent_of};
use super::settle::{mark, removal};
use super::{ActionError, Result};
use crate::Mutation;
use crate::key::encode_key;
use crate::record::LockRecord;
use rangedb_engine::{Family, Snapshot};
use rangedb_types::Timestamp;

/// A question to a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusQuery {
    pub id: Timestamp,
    pub primary: Vec<u8>,
    /// Of the oracle: what is past its lifetime by now is rolled back.
    pub now: Timestamp,
    /// A read at this timestamp wants to go on: what is alive must commit above it.
    pub push_above: Option<Timestamp>,
    /// If there is no trace of it, it never commits.
    pub roll_back_absent: bool,
}

/// What a primary says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Committed(Timestamp),
    RolledBack,
    /// Undecided here. An async commit may be decided nevertheless, and may be past its lifetime.
    Alive(Box<LockRecord>),
    Absent,
}

/// Asks a primary, and does what the question allows.
///
/// # Errors
/// `NotPrimary`; engine errors and damage.
pub fn status(snapshot: &dyn Snapshot, query: &StatusQuery) -> Result<(Status, Vec<Mutation>)> {
    let StatusQuery { id, primary, now, push_above, roll_back_absent } = query;
    let own = intent_of(snapshot, primary)?.filter(|lock| lock.start_ts == *id);
    let Some(mut lock) = own else {
        return Ok(match fate(snapshot, primary, *id)? {
            Some(Fate::Committed(version)) => (Status::Committed(version), Vec::new()),
            Some(Fate::RolledBack) => (Status::RolledBack, Vec::new()),
            None if *roll_back_absent => (Status::RolledBack, vec![mark(primary, *id)]),
            None => (Status::Absent, Vec::new()),
        });
    };
    if lock.primary != *primary {
        return Err(ActionError::NotPrimary { key: primary.clone() });
    }
    let is_async = lock.secondaries.is_some();
    if !is_async && lock.expires_at() < *now {
        return Ok((Status::RolledBack, removal(primary, &lock, true)));
    }
    let mut mutations = Vec::new();
    // An async commit is decided by what its intents said when they were placed.
    if let Some(above) = push_above.filter(|above| !is_async && lock.min_commit_ts <= *above) {
        lock.min_commit_ts = above.next();
        mutations.push(Mutation::put(Family::Lock, encode_key(primary), lock.encode()));
    }
    Ok((Status::Alive(Box::new(lock)), mutations))
}

/// How a transaction stands on a key that is not its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Its intent is firm; the transaction commits no earlier than this.
    Firm {
        least: Timestamp,
    },
    Tentative,
    Committed(Timestamp),
    RolledBack,
    Absent,
}

/// How a transaction stands on keys, in their order. With `roll_back_absent` none stays absent.
///
/// # Errors
/// Engine errors and damage.
pub fn states(
    snapshot: &dyn Snapshot,
    id: Timestamp,
    keys: &[impl AsRef<[u8]>],
    roll_back_absent: bool,
) -> Result<(Vec<KeyState>, Vec<Mutation>)> {
    let mut mutations = Vec::new();
    let mut found = Vec::with_capacity(keys.len());
    for key in keys.iter().map(AsRef::as_ref) {
        let own = intent_of(snapshot, key)?.filter(|lock| lock.start_ts == id);
        found.push(match own {
            Some(lock) if lock.tentative => KeyState::Tentative,
            Some(lock) => KeyState::Firm { least: lock.min_commit_ts },
            None => match fate(snapshot, key, id)? {
                Some(Fate::Committed(version)) => KeyState::Committed(version),
                Some(Fate::RolledBack) => KeyState::RolledBack,
                None if roll_back_absent => {
                    mutations.push(mark(key, id));
                    KeyState::RolledBack
                }
                None => KeyState::Absent,
            },
        });
    }
    Ok((found, mutations))
}

/// Lengthens the life of a transaction to `lifetime_ms` after its start; never shortens it.
///
/// # Errors
/// `Aborted` or `Committed` if it is over.
pub fn renew(
    snapshot: &dyn Snapshot,
    id: Timestamp,
    primary: &[u8],
    lifetime_ms: u64,
) -> Result<Vec<Mutation>> {
    match intent_of(snapshot, primary)?.filter(|lock| lock.start_ts == id) {
        Some(lock) if lock.lifetime_ms >= lifetime_ms => Ok(Vec::new()),
        Some(lock) => {
            let lock = LockRecord { lifetime_ms, ..lock };
            Ok(vec![Mutation::put(Family::Lock, encode_key(primary), lock.encode())])
        }
        None => match fate(snapshot, primary, id)? {
            Some(Fate::Committed(version)) => Err(ActionError::Committed { version }),
            Some(Fate::RolledBack) | None => Err(ActionError::Aborted { key: primary.to_vec() }),
        },
    }
}
