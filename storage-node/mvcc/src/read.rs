//! Point reads at a timestamp.

use crate::key::{decode_version, encode_key, encode_version};
use crate::record::{LockRecord, WriteKind, WriteRecord, decode_value};
use crate::{MvccError, Result, TombstoneSet};
use bytes::Bytes;
use rangedb_engine::{Family, Snapshot, VERSION_BYTES, VersionEntry};
use rangedb_types::Timestamp;

/// A value and its version (the timestamp its write was committed at).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub bytes: Bytes,
    pub version: Timestamp,
}

/// What a read sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<'a> {
    /// [`Timestamp::MAX`]: the latest.
    pub read_ts: Timestamp,
    /// Transactions that will not commit at or below `read_ts`: their intents are passed over.
    pub pass_over: &'a [Timestamp],
}

impl Seen<'_> {
    /// The latest state.
    pub const LATEST: Self = Self::at(Timestamp::MAX);

    /// Everything at or below a timestamp.
    #[must_use]
    pub const fn at(read_ts: Timestamp) -> Self {
        Self { read_ts, pass_over: &[] }
    }

    /// Whether the read must know first what becomes of an intent.
    pub(crate) fn is_blocked_by(&self, lock: &LockRecord) -> bool {
        lock.blocks_read_at(self.read_ts) && !self.pass_over.contains(&lock.start_ts)
    }
}

/// The value of `key`. The caller has checked that the key is the range's.
///
/// # Errors
/// `KeyLocked` if an intent is undecided that the read may have to see; engine errors and damage.
pub fn get(
    snapshot: &dyn Snapshot,
    tombstones: &TombstoneSet,
    key: &[u8],
    seen: Seen<'_>,
) -> Result<Option<Value>> {
    if let Some(lock) = snapshot.get(Family::Lock, &encode_key(key))? {
        check_lock(key, &lock, &seen)?;
    }
    get_committed(snapshot, tombstones, key, seen.read_ts)
}

/// [`get`] without a look at intents: for who knows that none stands in the way.
pub(crate) fn get_committed(
    snapshot: &dyn Snapshot,
    tombstones: &TombstoneSet,
    key: &[u8],
    read_ts: Timestamp,
) -> Result<Option<Value>> {
    let mut seek = encode_key(key);
    seek.extend_from_slice(&encode_version(read_ts));
    let found = snapshot.first_version(Family::Write, &seek)?;
    resolve(snapshot, tombstones, key, read_ts, &mut seek, found)
}

/// [`get`] of many keys, in the order of the keys; cheapest if they are sorted.
///
/// # Errors
/// As [`get`]; the first error found.
pub fn multi_get(
    snapshot: &dyn Snapshot,
    tombstones: &TombstoneSet,
    keys: &[&[u8]],
    seen: Seen<'_>,
) -> Result<Vec<Option<Value>>> {
    let read_ts = seen.read_ts;
    let mut seeks: Vec<Vec<u8>> = keys.iter().map(|key| encode_key(key)).collect();
    let locks = snapshot.multi_get(Family::Lock, &borrowed(&seeks))?;
    for (key, lock) in keys.iter().zip(&locks) {
        if let Some(lock) = lock {
            check_lock(key, lock, &seen)?;
        }
    }
    for seek in &mut seeks {
        seek.extend_from_slice(&encode_version(read_ts));
    }
    let found = snapshot.first_versions(Family::Write, &borrowed(&seeks))?;
    keys.iter()
        .zip(&mut seeks)
        .zip(found)
        .map(|((key, seek), found)| resolve(snapshot, tombstones, key, read_ts, seek, found))
        .collect()
}

fn borrowed(keys: &[Vec<u8>]) -> Vec<&[u8]> {
    keys.iter().map(Vec::as_slice).collect()
}

fn check_lock(key: &[u8], lock: &[u8], seen: &Seen<'_>) -> Result<()> {
    let lock = LockRecord::decode(lock)?;
    if seen.is_blocked_by(&lock) {
        return Err(MvccError::KeyLocked { key: key.to_vec(), lock: Box::new(lock) });
    }
    Ok(())
}

/// Makes the answer of the newest write record that a read sees. `seek` is where it was sought; it
/// is moved on over records that say nothing.
fn resolve(
    snapshot: &dyn Snapshot,
    tombstones: &TombstoneSet,
    key: &[u8],
    read_ts: Timestamp,
    seek: &mut [u8],
    mut found: Option<VersionEntry>,
) -> Result<Option<Value>> {
    let encoded_len = seek.len() - VERSION_BYTES;
    loop {
        let Some(entry) = found else { return Ok(None) };
        let version = decode_version(entry.version);
        let record = WriteRecord::decode(&entry.value)?;
        match record.kind {
            WriteKind::Delete => return Ok(None),
            WriteKind::Put => {
                if tombstones.hides(key, version, read_ts) {
                    return Ok(None);
                }
                record.check_readable()?;
                let bytes = match record.short_value {
                    Some(short) => entry.value.slice_ref(short),
                    None => long_value(snapshot, &seek[..encoded_len], record.start_ts)?,
                };
                return Ok(Some(Value { bytes, version }));
            }
            _ if version.is_zero() => return Ok(None),
            WriteKind::Rollback | WriteKind::Trace => {
                seek[encoded_len..].copy_from_slice(&encode_version(version.prev()));
                found = snapshot.first_version(Family::Write, seek)?;
            }
        }
    }
}

/// A value in the data family, that a write record says is there.
pub(crate) fn long_value(
    snapshot: &dyn Snapshot,
    encoded: &[u8],
    start_ts: Timestamp,
) -> Result<Bytes> {
    let mut data_key = Vec::with_capacity(encoded.len() + VERSION_BYTES);
    data_key.extend_from_slice(encoded);
    data_key.extend_from_slice(&encode_version(start_ts));
    let record = snapshot.get(Family::Data, &data_key)?.ok_or(MvccError::Damaged {
        family: Family::Data,
        detail: "the value of a write record is missing",
    })?;
    decode_value(record)
}
