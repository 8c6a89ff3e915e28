//! Tentative intents of pessimistic transactions.

use super::history::look;
use super::place::{check, value_mutations};
use super::{ActionError, Result, Transaction, Want};
use crate::key::{encode_key, versioned_key};
use crate::read::get_committed;
use crate::record::{LockKind, LockRecord, encode_value};
use crate::{Mutation, TombstoneSet, Value};
use bytes::Bytes;
use rangedb_engine::{Family, Snapshot};
use rangedb_types::Timestamp;

/// A key that may be the transaction's, once it is proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    key: Bytes,
    /// `None`: the own intent stays as it is.
    want: Option<Want>,
    own: Option<LockRecord>,
    /// The newest committed value: nobody changes it until the transaction is over.
    pub value: Option<Value>,
}

/// Looks whether a tentative intent may be placed, or the own one changed. A call with a smaller sequence
/// number than the intent's came late and changes nothing; one with the same number is the same call again.
///
/// # Errors
/// `KeyLocked`, `WriteConflict` (if the transaction has a snapshot), `Aborted`, `Committed`, `OutOfTurn`.
pub fn acquire(
    snapshot: &dyn Snapshot,
    tombstones: &TombstoneSet,
    txn: &Transaction,
    key: Bytes,
    want: Want,
) -> Result<Hold> {
    let own = check(look(snapshot, tombstones, &key, txn.id)?, txn, &key)?;
    let want = match &own {
        Some(own) if own.sequence > txn.sequence => None,
        Some(own) if !own.tentative => return Err(ActionError::OutOfTurn { key: key.to_vec() }),
        Some(own) if own.sequence == txn.sequence => {
            if !says(snapshot, &key, own, &want)? {
                return Err(ActionError::OutOfTurn { key: key.to_vec() });
            }
            None
        }
        // What was written stays written; that the key is locked is true already.
        Some(_) if want.kind() == LockKind::Check => None,
        _ => Some(want),
    };
    // The own intent is no obstacle to its owner.
    let value = get_committed(snapshot, tombstones, &key, Timestamp::MAX)?;
    Ok(Hold { key, want, own, value })
}

/// Whether an intent is what a call wants.
fn says(snapshot: &dyn Snapshot, key: &[u8], own: &LockRecord, want: &Want) -> Result<bool> {
    if own.kind != want.kind() {
        return Ok(false);
    }
    Ok(match want {
        Want::Put(value) => match &own.short_value {
            Some(short) => short[..] == value[..],
            None => {
                let stored = snapshot.get(Family::Data, &versioned_key(key, own.start_ts))?;
                stored.is_some_and(|stored| stored[..] == encode_value(value)[..])
            }
        },
        Want::Delete | Want::Check => true,
    })
}

impl Hold {
    /// The tentative intent, unless it is there.
    #[must_use]
    pub fn intent(self, txn: &Transaction, least: Timestamp) -> Vec<Mutation> {
        let Self { key, want, own, .. } = self;
        let Some(want) = want else { return Vec::new() };
        let mut mutations = value_mutations(&key, txn.id, &want, own.as_ref());
        let mut lock = txn.lock(&want, least, true, None);
        if let Some(own) = own {
            // What others were promised, and what it was granted, stays so.
            lock.min_commit_ts = lock.min_commit_ts.max(own.min_commit_ts);
            lock.lifetime_ms = lock.lifetime_ms.max(own.lifetime_ms);
        }
        mutations.push(Mutation::put(Family::Lock, encode_key(&key), lock.encode()));
        mutations
    }
}
