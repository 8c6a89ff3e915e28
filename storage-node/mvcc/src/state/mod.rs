//! The meta family: the state of ranges and of the store itself.
//!
//! Every record but the fences is: format byte, fields (`crate::codec`), CRC-32. Records of one range
//! lie together, under `02`, its id, and one byte that says which:
//!
//! | key | record |
//! |---|---|
//! | `01` | [`StoreRecord`] |
//! | `02` id `01` | [`RangeState`]: written when the descriptor changes |
//! | `02` id `02` | [`AppliedState`]: written in every batch that applies entries |
//! | `02` id `03` request id | a [fence](crate::fence) |
//! | `02` id `05` | [`GcState`]: below which version nothing is promised any more |
//! | `02` id `04` | [`FreezeState`]: only while the range is frozen for a merge |
//! | `03` id | [`ReplicaTombstone`] |
//! | `04` id | [`InstallIntent`] |

mod range;
mod store;

pub use range::{AppliedState, FreezeState, GcState, InstallIntent, RangeState, ReplicaTombstone};
pub use store::StoreRecord;

use crate::SpanBounds;
use crate::codec::{Reader, unseal};
use crate::{MvccError, Result};
use rangedb_engine::{Family, Snapshot, WriteBatch};
use rangedb_types::{RangeId, RequestId};

/// The format that new records have.
const FORMAT: u8 = 1;

const STORE: u8 = 1;
const RANGE: u8 = 2;
const REPLICA_TOMBSTONE: u8 = 3;
const INSTALL_INTENT: u8 = 4;

const RANGE_STATE: u8 = 1;
const APPLIED_STATE: u8 = 2;
const FENCE: u8 = 3;
const FREEZE_STATE: u8 = 4;
const GC_STATE: u8 = 5;

fn key_of(kind: u8, range_id: RangeId) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + 8 + 1 + 16);
    key.push(kind);
    key.extend_from_slice(&range_id.0.to_be_bytes());
    key
}

fn range_key(range_id: RangeId, what: u8) -> Vec<u8> {
    let mut key = key_of(RANGE, range_id);
    key.push(what);
    key
}

/// Every record of the meta family that belongs to one range and goes when its replica goes:
/// state, applied state, fences. (Its replica tombstone and install intent do not.)
#[must_use]
pub fn range_bounds(range_id: RangeId) -> SpanBounds {
    SpanBounds { lower: range_key(range_id, 0), upper: range_key(range_id, u8::MAX) }
}

/// The fences of a range.
#[must_use]
pub fn fence_bounds(range_id: RangeId) -> SpanBounds {
    SpanBounds { lower: range_key(range_id, FENCE), upper: range_key(range_id, FENCE + 1) }
}

/// What all replicas of a range hold alike in the meta family: the fences, and all that follows them.
#[must_use]
pub fn replicated_meta_bounds(range_id: RangeId) -> SpanBounds {
    SpanBounds { lower: range_key(range_id, FENCE), upper: range_key(range_id, u8::MAX) }
}

pub(crate) fn fence_key(range_id: RangeId, request_id: RequestId) -> Vec<u8> {
    let mut key = range_key(range_id, FENCE);
    key.extend_from_slice(&request_id.to_bytes());
    key
}

pub(crate) fn split_fence_key(key: &[u8]) -> Option<(RangeId, RequestId)> {
    let rest = key.strip_prefix(&[RANGE])?;
    let (range_id, rest) = rest.split_first_chunk::<8>()?;
    let request_id: [u8; 16] = rest.strip_prefix(&[FENCE])?.try_into().ok()?;
    Some((RangeId(u64::from_be_bytes(*range_id)), RequestId(u128::from_be_bytes(request_id))))
}

/// One record of the meta family that belongs to a range.
pub trait RangeRecord: Sized {
    /// Where it is.
    fn key(range_id: RangeId) -> Vec<u8>;
    fn encode(&self) -> Vec<u8>;

    /// # Errors
    /// `Damaged` or `NewerFormat`.
    fn decode(record: &[u8]) -> Result<Self>;

    /// # Errors
    /// Engine errors and damage.
    fn load(snapshot: &dyn Snapshot, range_id: RangeId) -> Result<Option<Self>> {
        snapshot
            .get(Family::Meta, &Self::key(range_id))?
            .map(|record| Self::decode(&record))
            .transpose()
    }

    /// Appends the record to a batch.
    fn put(&self, batch: &mut WriteBatch, range_id: RangeId) {
        batch.put(Family::Meta, &Self::key(range_id), &self.encode());
    }

    /// Appends the record's removal to a batch.
    fn remove(batch: &mut WriteBatch, range_id: RangeId) {
        batch.delete(Family::Meta, &Self::key(range_id));
    }

    /// Every record of this kind, by range.
    ///
    /// # Errors
    /// Engine errors and damage.
    fn load_all(snapshot: &dyn Snapshot) -> Result<Vec<(RangeId, Self)>> {
        let lower = Self::key(RangeId(0));
        let kind = lower[0];
        let mut iter = snapshot.iterator(Family::Meta, &[kind], &[kind + 1])?;
        let mut records = Vec::new();
        let mut valid = iter.seek(&lower)?;
        while valid {
            let range_id = range_id_of(iter.key())?;
            let key = Self::key(range_id);
            if iter.key() == key {
                records.push((range_id, Self::decode(iter.value())?));
            }
            // Over whatever else there is of this range, and to the next one's record.
            let Some(next) = range_id.0.checked_add(1) else { break };
            valid = iter.seek(&Self::key(RangeId(next)))?;
            // A range that has other records but not this one is found by the seek, too: it stops
            // at its first record behind the place where this one would be.
        }
        Ok(records)
    }
}

fn range_id_of(key: &[u8]) -> Result<RangeId> {
    key.get(1..9)
        .and_then(|id| id.try_into().ok())
        .map(|id| RangeId(u64::from_be_bytes(id)))
        .ok_or(MvccError::Damaged { family: Family::Meta, detail: "a key is too short" })
}

/// Begins to read a sealed record.
fn open(record: &[u8]) -> Result<Reader<'_>> {
    // The format comes before the checksum in judgement: a newer one may be sealed otherwise.
    Reader::with_format(Family::Meta, record, FORMAT)?;
    let mut reader = Reader::new(Family::Meta, unseal(Family::Meta, record)?);
    reader.u8()?;
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_lie_in_their_bounds() {
        let key = fence_key(RangeId(9), RequestId(5));
        let bounds = fence_bounds(RangeId(9));
        assert!(bounds.lower < key && key < bounds.upper);
        let all = range_bounds(RangeId(9));
        assert!(all.lower < key && key < all.upper);
        assert!(
            all.lower < RangeState::key(RangeId(9)) && RangeState::key(RangeId(10)) > all.upper
        );
        assert_eq!(split_fence_key(&key), Some((RangeId(9), RequestId(5))));
        assert_eq!(split_fence_key(&RangeState::key(RangeId(9))), None);
    }
}
