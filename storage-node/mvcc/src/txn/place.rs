//! Firm intents, and versions without intents.

use super::history::{Fate, Found, look};
use super::{ActionError, Result, Transaction};
use crate::key::{encode_key, versioned_key};
use crate::record::{LockKind, LockRecord, WriteKind, WriteRecord, encode_value};
use crate::write::SHORT_VALUE_BYTES_MAX;
use crate::{Mutation, TombstoneSet};
use bytes::Bytes;
use rangedb_engine::{Family, Snapshot};
use rangedb_types::{RequestId, Timestamp};

/// What a transaction wants with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    Put(Bytes),
    Delete,
    /// That nobody else writes it before the commit.
    Check,
}

impl Want {
    pub(super) const fn kind(&self) -> LockKind {
        match self {
            Self::Put(_) => LockKind::Put,
            Self::Delete => LockKind::Delete,
            Self::Check => LockKind::Check,
        }
    }

    /// The value, if it is too long for an intent or a version.
    pub(super) fn long(&self) -> Option<&Bytes> {
        match self {
            Self::Put(value) if value.len() > SHORT_VALUE_BYTES_MAX => Some(value),
            _ => None,
        }
    }

    pub(super) fn short(&self) -> Option<&Bytes> {
        match self {
            Self::Put(value) if value.len() <= SHORT_VALUE_BYTES_MAX => Some(value),
            _ => None,
        }
    }
}

/// A key on which nothing stands in the transaction's way: what is to be written there, once the
/// timestamp is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(super) key: Bytes,
    content: Content,
    /// The own intent that is there.
    own: Option<LockRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    New(Want),
    /// As the own intent has it.
    Kept,
}

/// Looks whether a transaction may write a key.
///
/// # Errors
/// `KeyLocked`, `WriteConflict`, `Aborted`; `Committed` if it was written by this very transaction.
pub fn plan(
    snapshot: &dyn Snapshot,
    tombstones: &TombstoneSet,
    txn: &Transaction,
    key: Bytes,
    want: Want,
) -> Result<Plan> {
    let own = check(look(snapshot, tombstones, &key, txn.id)?, txn, &key)?;
    let content = match &own {
        // Placed by an earlier attempt.
        Some(lock) if !lock.tentative => Content::Kept,
        _ => Content::New(want),
    };
    Ok(Plan { key, content, own })
}

/// A tentative intent, found by [`super::resolve`]'s walk over a span, is to become what it says.
#[must_use]
pub fn firm_up(key: Bytes, own: LockRecord) -> Plan {
    Plan { key, content: Content::Kept, own: Some(own) }
}

/// The own intent, if the key is the transaction's to write.
pub(super) fn check(found: Found, txn: &Transaction, key: &[u8]) -> Result<Option<LockRecord>> {
    match found.fate {
        Some(Fate::Committed(version)) => return Err(ActionError::Committed { version }),
        Some(Fate::RolledBack) => return Err(ActionError::Aborted { key: key.to_vec() }),
        None => {}
    }
    match found.lock {
        // Nobody could write the key since the intent was placed.
        Some(lock) if lock.start_ts == txn.id => Ok(Some(lock)),
        Some(lock) => Err(ActionError::KeyLocked { key: key.to_vec(), lock: Box::new(lock) }),
        None if !txn.snapshot_ts.is_zero() && found.newest_foreign > txn.snapshot_ts => {
            Err(ActionError::WriteConflict { key: key.to_vec(), version: found.newest_foreign })
        }
        None => Ok(None),
    }
}

impl Plan {
    /// Whether nothing of the transaction stands there yet.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.own.is_none()
    }

    /// The own firm intent: another attempt, which may have been told a commit timestamp, placed it.
    #[must_use]
    pub fn firm(&self) -> Option<&LockRecord> {
        self.own.as_ref().filter(|own| !own.tentative)
    }

    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The least commit timestamp that its intent has once it is placed at a timestamp: another one if it
    /// stands there already.
    #[must_use]
    pub fn least_at(&self, version: Timestamp) -> Timestamp {
        match &self.own {
            Some(own) if own.tentative => own.min_commit_ts.max(version),
            Some(own) => own.min_commit_ts,
            None => version,
        }
    }

    /// Bytes that it will write, about.
    #[must_use]
    pub fn byte_size(&self) -> usize {
        let value = match &self.content {
            Content::New(Want::Put(value)) => value.len(),
            _ => 0,
        };
        self.key.len() + value
    }

    /// The firm intent, unless it is there. `secondaries` make it the primary of a transaction that is done
    /// once all its intents are durable.
    #[must_use]
    pub fn intent(
        self,
        txn: &Transaction,
        least: Timestamp,
        secondaries: Option<Vec<Vec<u8>>>,
    ) -> Vec<Mutation> {
        let encoded = encode_key(&self.key);
        let (lock, values) = match (self.content, self.own) {
            (Content::Kept, Some(own)) if !own.tentative => return Vec::new(),
            (Content::Kept, own) => {
                let own = own.expect("what is kept is there");
                let min_commit_ts = least.max(own.min_commit_ts);
                (LockRecord { tentative: false, min_commit_ts, secondaries, ..own }, Vec::new())
            }
            (Content::New(want), own) => {
                let values = value_mutations(&self.key, txn.id, &want, own.as_ref());
                // A reader may have been promised something by the tentative intent.
                let least = own.map_or(least, |own| own.min_commit_ts.max(least));
                (txn.lock(&want, least, false, secondaries), values)
            }
        };
        let mut mutations = values;
        mutations.push(Mutation::put(Family::Lock, encoded, lock.encode()));
        mutations
    }

    /// The version, and the end of the own intent if there is one.
    #[must_use]
    pub fn version(self, txn: &Transaction, commit_ts: Timestamp) -> Vec<Mutation> {
        match (self.content, self.own) {
            (Content::Kept, own) => {
                let own = own.expect("what is kept is there");
                version_of(&self.key, &own, commit_ts, false)
            }
            (Content::New(want), own) => {
                let mut mutations = value_mutations(&self.key, txn.id, &want, own.as_ref());
                if own.is_some() {
                    mutations.push(Mutation::remove(Family::Lock, encode_key(&self.key)));
                }
                let short = want.short().map(Bytes::as_ref);
                let record = version_record(want.kind(), txn.id, short);
                mutations.push(put_record(&self.key, &record, commit_ts));
                mutations
            }
        }
    }
}

impl Transaction {
    pub(super) fn lock(
        &self,
        want: &Want,
        min_commit_ts: Timestamp,
        tentative: bool,
        secondaries: Option<Vec<Vec<u8>>>,
    ) -> LockRecord {
        LockRecord {
            kind: want.kind(),
            tentative,
            start_ts: self.id,
            min_commit_ts,
            lifetime_ms: self.lifetime_ms,
            sequence: self.sequence,
            primary: self.primary.clone(),
            short_value: want.short().map(|value| value.to_vec()),
            secondaries,
        }
    }
}

/// What an intent's content means for the data family: its value goes there if it is long, and the one
/// of the intent that it replaces goes away.
pub(super) fn value_mutations(
    key: &[u8],
    id: Timestamp,
    want: &Want,
    own: Option<&LockRecord>,
) -> Vec<Mutation> {
    if let Some(value) = want.long() {
        return vec![Mutation::put(Family::Data, versioned_key(key, id), encode_value(value))];
    }
    if own.is_some_and(has_long_value) {
        return vec![Mutation::remove(Family::Data, versioned_key(key, id))];
    }
    Vec::new()
}

/// Whether an intent's value is in the data family.
pub(super) const fn has_long_value(lock: &LockRecord) -> bool {
    matches!(lock.kind, LockKind::Put) && lock.short_value.is_none()
}

/// Turns an intent into a version, and one that writes nothing into a trace, so that nobody takes it for one
/// that was never placed. `open`: intents on other keys may be left.
pub(super) fn version_of(
    key: &[u8],
    lock: &LockRecord,
    commit_ts: Timestamp,
    open: bool,
) -> Vec<Mutation> {
    let mut mutations = vec![Mutation::remove(Family::Lock, encode_key(key))];
    let short = lock.short_value.as_deref();
    let record = version_record(lock.kind, lock.start_ts, short);
    mutations.push(put_record(key, &WriteRecord { open, ..record }, commit_ts));
    mutations
}

fn put_record(key: &[u8], record: &WriteRecord<'_>, commit_ts: Timestamp) -> Mutation {
    Mutation::put(Family::Write, versioned_key(key, commit_ts), record.encode())
}

fn version_record(
    kind: LockKind,
    start_ts: Timestamp,
    short_value: Option<&[u8]>,
) -> WriteRecord<'_> {
    match kind {
        LockKind::Put => record_of(WriteKind::Put, start_ts, short_value),
        LockKind::Delete => record_of(WriteKind::Delete, start_ts, None),
        LockKind::Check => record_of(WriteKind::Trace, start_ts, None),
    }
}

/// The record of a transaction.
pub(super) fn record_of(
    kind: WriteKind,
    start_ts: Timestamp,
    short_value: Option<&[u8]>,
) -> WriteRecord<'_> {
    WriteRecord {
        kind,
        start_ts,
        request_id: RequestId::default(),
        expiry: None,
        encryption_key_id: None,
        open: false,
        short_value,
    }
}
