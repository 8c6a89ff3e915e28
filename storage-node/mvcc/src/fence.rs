//! Fences: requests that CommitStatus found not committed, and that must therefore never commit.
//!
//! A fence belongs to the range that holds the request's key; a split copies the fences of the range
//! to both halves. It is needed only as long as an attempt of its request could still be accepted
//! ([`REQUEST_ID_LIFETIME_MS`]); older ones are removed, by a proposal like everything else, so that
//! all replicas keep the same.

use crate::codec::Reader;
use crate::{Mutation, MvccError, Result, state};
use rangedb_engine::{Family, Snapshot};
use rangedb_types::limits::REQUEST_ID_LIFETIME_MS;
use rangedb_types::{RangeId, RequestId, Timestamp};
use std::collections::HashMap;
use std::time::Duration;

const FORMAT: u8 = 1;

/// The write that fences a request off.
#[must_use]
pub fn fence(range_id: RangeId, request_id: RequestId, now: Timestamp) -> Mutation {
    let mut record = Vec::with_capacity(9);
    record.push(FORMAT);
    record.extend_from_slice(&now.0.to_be_bytes());
    Mutation::put(Family::Meta, state::fence_key(range_id, request_id), record)
}

/// The write that forgets a fence.
#[must_use]
pub fn remove_fence(range_id: RangeId, request_id: RequestId) -> Mutation {
    Mutation::remove(Family::Meta, state::fence_key(range_id, request_id))
}

/// The writes that give the range `to` every fence of the range `from`: to be made in the batch that
/// splits it.
///
/// # Errors
/// Engine errors and damage.
pub fn fences_for_split(
    snapshot: &dyn Snapshot,
    from: RangeId,
    to: RangeId,
) -> Result<Vec<Mutation>> {
    let fences = FenceSet::load(snapshot, from)?.fences;
    let mut copies: Vec<_> = fences.into_iter().map(|(id, at)| fence(to, id, at)).collect();
    copies.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(copies)
}

/// The range and request of a fence's key; `None` if `key` (of the meta family) is something else.
/// For those who watch what is applied and keep a [`FenceSet`] in step.
#[must_use]
pub fn decode_key(key: &[u8]) -> Option<(RangeId, RequestId)> {
    state::split_fence_key(key)
}

/// When a fence was put up, from its record.
///
/// # Errors
/// `Damaged` or `NewerFormat`.
pub fn decode(record: &[u8]) -> Result<Timestamp, MvccError> {
    let mut reader = Reader::with_format(Family::Meta, record, FORMAT)?;
    let at = Timestamp(reader.u64()?);
    reader.end()?;
    Ok(at)
}

/// The fences of one range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FenceSet {
    fences: HashMap<RequestId, Timestamp>,
}

impl FenceSet {
    /// # Errors
    /// Engine errors and damage.
    pub fn load(snapshot: &dyn Snapshot, range_id: RangeId) -> Result<Self> {
        let bounds = state::fence_bounds(range_id);
        let mut iter = snapshot.iterator(Family::Meta, &bounds.lower, &bounds.upper)?;
        let mut fences = HashMap::new();
        let mut valid = iter.seek_to_first()?;
        while valid {
            let (_, request_id) = decode_key(iter.key()).ok_or(MvccError::Damaged {
                family: Family::Meta,
                detail: "among the fences is a key that is no fence",
            })?;
            fences.insert(request_id, decode(iter.value())?);
            valid = iter.next()?;
        }
        Ok(Self { fences })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fences.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.fences.len()
    }

    /// When the request was fenced off, if it was.
    #[must_use]
    pub fn get(&self, request_id: RequestId) -> Option<Timestamp> {
        self.fences.get(&request_id).copied()
    }

    pub fn insert(&mut self, request_id: RequestId, at: Timestamp) {
        self.fences.insert(request_id, at);
    }

    pub fn remove(&mut self, request_id: RequestId) {
        self.fences.remove(&request_id);
    }

    /// Keeps in step with an applied change of the meta family. Changes of other records and other
    /// ranges are passed over.
    ///
    /// # Errors
    /// `Damaged` or `NewerFormat`.
    pub fn apply(&mut self, range_id: RangeId, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        match (decode_key(key), value) {
            (Some((of, request_id)), Some(record)) if of == range_id => {
                self.insert(request_id, decode(record)?);
            }
            (Some((of, request_id)), None) if of == range_id => self.remove(request_id),
            _ => {}
        }
        Ok(())
    }

    /// Fences that are needed no more at `now` (oracle time), in no order.
    pub fn expired(&self, now: Timestamp) -> impl Iterator<Item = RequestId> + '_ {
        let lifetime = Duration::from_millis(REQUEST_ID_LIFETIME_MS);
        self.fences
            .iter()
            .filter(move |&(_, &at)| now.since(at) > lifetime)
            .map(|(&request_id, _)| request_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_follows_what_is_applied() {
        let (range, other) = (RangeId(1), RangeId(2));
        let mut set = FenceSet::default();
        let mut apply = |mutation: &Mutation| {
            set.apply(range, &mutation.key, mutation.value.as_deref()).expect("own record");
            set.clone()
        };
        let early = Timestamp::new(1_000, 0);
        assert_eq!(apply(&fence(range, RequestId(7), early)).get(RequestId(7)), Some(early));
        assert_eq!(apply(&fence(other, RequestId(8), early)).len(), 1);
        let set_now = apply(&fence(range, RequestId(9), Timestamp::new(600_000, 0)));
        let expired: Vec<_> = set_now.expired(Timestamp::new(601_001, 0)).collect();
        assert_eq!(expired, [RequestId(7)]);
        assert!(apply(&remove_fence(range, RequestId(7))).get(RequestId(7)).is_none());
    }
}
