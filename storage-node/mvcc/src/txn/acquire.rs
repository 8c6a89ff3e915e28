//! Tentative intents of pessimistic transactions.

use super::history::look;
use super::place::{check, value_mutations};
use super::{Result, Transaction, Want};
use crate::key::encode_key;
use crate::record::LockKind;
use crate::{Mutation, TombstoneSet, Value};
use bytes::Bytes;
use rangedb_engine::{Family, Snapshot};
use rangedb_types::Timestamp;

/// A key that is the transaction's from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquired {
    pub mutations: Vec<Mutation>,
    /// The newest committed value: nobody changes it until the transaction is over.
    pub value: Option<Value>,
}

/// Places a tentative intent, or changes what the own one says. A call with a smaller sequence number than
/// the intent's came late and changes nothing.
///
/// # Errors
/// `KeyLocked`, `WriteConflict` (if the transaction has a snapshot), `Aborted`, `Committed`.
pub fn acquire(
    snapshot: &dyn Snapshot,
    tombstones: &TombstoneSet,
    txn: &Transaction,
    key: &Bytes,
    want: &Want,
    least: Timestamp,
) -> Result<Acquired> {
    let own = check(look(snapshot, tombstones, key, txn.id)?, txn, key)?;
    let mutations = match &own {
        Some(own) if own.sequence >= txn.sequence || !own.tentative => Vec::new(),
        // What was written stays written; that the key is locked is true already.
        Some(_) if want.kind() == LockKind::Check => Vec::new(),
        own => {
            let mut mutations = value_mutations(key, txn.id, want, own.as_ref());
            let least = own.as_ref().map_or(least, |own| own.min_commit_ts.max(least));
            let lifetime_ms =
                own.as_ref().map_or(txn.lifetime_ms, |own| own.lifetime_ms.max(txn.lifetime_ms));
            let lock =
                crate::record::LockRecord { lifetime_ms, ..txn.lock(want, least, true, None) };
            mutations.push(Mutation::put(Family::Lock, encode_key(key), lock.encode()));
            mutations
        }
    };
    // The own intent is no obstacle to its owner.
    let value = newest(snapshot, tombstones, key)?;
    Ok(Acquired { mutations, value })
}

fn newest(snapshot: &dyn Snapshot, tombstones: &TombstoneSet, key: &[u8]) -> Result<Option<Value>> {
    Ok(crate::read::get_committed(snapshot, tombstones, key, Timestamp::MAX)?)
}
