//! What a write changes. Nothing here reads: an unconditional write needs no read at all.

use crate::key::{encode_key, encode_version, versioned_key};
use crate::record::{TombstoneRecord, WriteKind, WriteRecord, encode_value};
use bytes::Bytes;
use rangedb_engine::{Family, WriteBatch};
use rangedb_types::{RequestId, Span, Timestamp};

/// Longest value that is kept in its write record; longer ones go to the data family. Readers take
/// any length, so it may change. Measured with values of 256 bytes: in the record, writes take half
/// the time they take in the data family, and scans a fourth.
pub const SHORT_VALUE_BYTES_MAX: usize = 1024;

/// One change of the engine, as it travels in the Raft log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    pub family: Family,
    pub key: Bytes,
    /// `None`: the key is removed.
    pub value: Option<Bytes>,
}

impl Mutation {
    #[must_use]
    pub fn put(family: Family, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { family, key: key.into(), value: Some(value.into()) }
    }

    #[must_use]
    pub fn remove(family: Family, key: impl Into<Bytes>) -> Self {
        Self { family, key: key.into(), value: None }
    }

    /// Appends the change to a batch.
    pub fn add_to(&self, batch: &mut WriteBatch) {
        match &self.value {
            Some(value) => batch.put(self.family, &self.key, value),
            None => batch.delete(self.family, &self.key),
        }
    }

    /// Bytes of key and value.
    #[must_use]
    pub fn byte_size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// A value for a key, committed in one round: its start timestamp is its commit timestamp.
#[must_use]
pub fn put(key: &[u8], value: &[u8], commit_ts: Timestamp, request_id: RequestId) -> Vec<Mutation> {
    let short = value.len() <= SHORT_VALUE_BYTES_MAX;
    let record = WriteRecord {
        kind: WriteKind::Put,
        start_ts: commit_ts,
        request_id,
        expiry: None,
        encryption_key_id: None,
        open: false,
        short_value: short.then_some(value),
    };
    let key = Bytes::from(versioned_key(key, commit_ts));
    let write = Mutation::put(Family::Write, key.clone(), record.encode());
    if short {
        return vec![write];
    }
    // The start timestamp equals the commit timestamp, so both families have the same key.
    vec![Mutation::put(Family::Data, key, encode_value(value)), write]
}

/// The end of a key's value.
#[must_use]
pub fn delete(key: &[u8], commit_ts: Timestamp, request_id: RequestId) -> Vec<Mutation> {
    let record = WriteRecord {
        kind: WriteKind::Delete,
        start_ts: commit_ts,
        request_id,
        expiry: None,
        encryption_key_id: None,
        open: false,
        short_value: None,
    };
    vec![Mutation::put(Family::Write, versioned_key(key, commit_ts), record.encode())]
}

/// The end of the values of every key in `span`, which must lie inside the range: every version
/// with a commit timestamp below `commit_ts` is hidden from reads at or above it.
#[must_use]
pub fn delete_range(span: &Span, commit_ts: Timestamp, request_id: RequestId) -> Vec<Mutation> {
    let record = TombstoneRecord { request_id, end: &span.end };
    let mut key = encode_key(&span.start);
    key.extend_from_slice(&encode_version(commit_ts));
    vec![Mutation::put(Family::RangeTombstone, key, record.encode())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_leave_their_record() {
        let short = put(b"k", &[1; SHORT_VALUE_BYTES_MAX], Timestamp(5), RequestId(1));
        assert_eq!(short.len(), 1);
        let long = put(b"k", &[1; SHORT_VALUE_BYTES_MAX + 1], Timestamp(5), RequestId(1));
        let families: Vec<_> = long.iter().map(|mutation| mutation.family).collect();
        assert_eq!(families, [Family::Data, Family::Write]);
    }
}
