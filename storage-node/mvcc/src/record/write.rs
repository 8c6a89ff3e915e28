//! Write family: one version of a key.

use crate::codec::Reader;
use crate::{MvccError, Result};
use rangedb_engine::Family;
use rangedb_types::{RequestId, Timestamp};

const FORMAT: u8 = 1;

const HAS_REQUEST_ID: u8 = 1;
const HAS_EXPIRY: u8 = 1 << 1;
const HAS_KEY_ID: u8 = 1 << 2;
const HAS_SHORT_VALUE: u8 = 1 << 3;
const OPEN: u8 = 1 << 4;
const KNOWN_FLAGS: u8 = HAS_REQUEST_ID | HAS_EXPIRY | HAS_KEY_ID | HAS_SHORT_VALUE | OPEN;

/// What a version says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// The key has a value.
    Put,
    /// The key has none.
    Delete,
    /// Nothing: a transaction that must never commit stands here. Reads pass over it.
    Rollback,
    /// Nothing: a transaction was committed here that wrote nothing, or whose version is garbage.
    /// Reads pass over it.
    Trace,
}

impl WriteKind {
    /// Whether it says nothing about the key.
    #[must_use]
    pub const fn is_passed_over(self) -> bool {
        matches!(self, Self::Rollback | Self::Trace)
    }
}

/// A version of a key. `short_value` is present exactly if the value is not in the data family (and
/// the kind is `Put`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteRecord<'a> {
    pub kind: WriteKind,
    /// Where the value is in the data family.
    pub start_ts: Timestamp,
    /// Which logical write made it; none if it was a transaction's.
    pub request_id: RequestId,
    /// Reserved: after this timestamp the value counts as deleted.
    pub expiry: Option<Timestamp>,
    /// Reserved: the value is encrypted with this key.
    pub encryption_key_id: Option<u32>,
    /// Other keys of the transaction that made it may still have intents: who meets one asks here.
    pub open: bool,
    pub short_value: Option<&'a [u8]>,
}

impl<'a> WriteRecord<'a> {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let short = self.short_value.unwrap_or_default();
        let mut record = Vec::with_capacity(3 + 8 + 16 + 8 + 4 + short.len());
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        record.push(FORMAT);
        record.push(match self.kind {
            WriteKind::Put => 1,
            WriteKind::Delete => 2,
            WriteKind::Rollback => 3,
            WriteKind::Trace => 4,
        });
        record.push(
            flag(!self.request_id.is_none(), HAS_REQUEST_ID)
                | flag(self.expiry.is_some(), HAS_EXPIRY)
                | flag(self.encryption_key_id.is_some(), HAS_KEY_ID)
                | flag(self.short_value.is_some(), HAS_SHORT_VALUE)
                | flag(self.open, OPEN),
        );
        record.extend_from_slice(&self.start_ts.0.to_be_bytes());
        if !self.request_id.is_none() {
            record.extend_from_slice(&self.request_id.to_bytes());
        }
        if let Some(expiry) = self.expiry {
            record.extend_from_slice(&expiry.0.to_be_bytes());
        }
        if let Some(key_id) = self.encryption_key_id {
            record.extend_from_slice(&key_id.to_be_bytes());
        }
        record.extend_from_slice(short);
        record
    }

    /// # Errors
    /// `Damaged` or `NewerFormat`.
    pub fn decode(record: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::with_format(Family::Write, record, FORMAT)?;
        let kind = match reader.u8()? {
            1 => WriteKind::Put,
            2 => WriteKind::Delete,
            3 => WriteKind::Rollback,
            4 => WriteKind::Trace,
            _ => return Err(reader.damaged("its kind is unknown")),
        };
        let flags = reader.u8()?;
        if flags & !KNOWN_FLAGS != 0 {
            return Err(reader.damaged("it has flags that mean nothing"));
        }
        let has = |flag: u8| flags & flag != 0;
        let start_ts = Timestamp(reader.u64()?);
        let request_id = RequestId(if has(HAS_REQUEST_ID) { reader.u128()? } else { 0 });
        let expiry = has(HAS_EXPIRY).then(|| reader.u64()).transpose()?.map(Timestamp);
        let encryption_key_id = has(HAS_KEY_ID).then(|| reader.u32()).transpose()?;
        let short_value = has(HAS_SHORT_VALUE).then(|| reader.rest());
        reader.end()?;
        let open = has(OPEN);
        Ok(Self { kind, start_ts, request_id, expiry, encryption_key_id, open, short_value })
    }

    /// Refuses values that need a key to read.
    pub(crate) const fn check_readable(&self) -> Result<()> {
        match self.encryption_key_id {
            Some(key_id) => Err(MvccError::Encrypted { key_id }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_come_back(
            kind in prop::sample::select(vec![
                WriteKind::Put, WriteKind::Delete, WriteKind::Rollback, WriteKind::Trace,
            ]),
            start_ts: u64, request_id: u128, expiry: Option<u64>, encryption_key_id: Option<u32>,
            short: Option<Vec<u8>>, open: bool,
        ) {
            let record = WriteRecord {
                kind,
                start_ts: Timestamp(start_ts),
                request_id: RequestId(request_id),
                expiry: expiry.map(Timestamp),
                encryption_key_id,
                open,
                short_value: short.as_deref(),
            };
            let bytes = record.encode();
            prop_assert_eq!(WriteRecord::decode(&bytes), Ok(record));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            if let Ok(record) = WriteRecord::decode(&bytes) {
                let again = record.encode();
                prop_assert_eq!(WriteRecord::decode(&again), Ok(record));
            }
        }
    }

    #[test]
    fn what_is_newer_or_broken_is_refused() {
        let refused = |bytes: &[u8]| WriteRecord::decode(bytes).expect_err("refused");
        assert_eq!(refused(&[2]), MvccError::NewerFormat { family: Family::Write, found: 2 });
        assert!(refused(&[1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 1]).is_corruption());
        assert!(refused(&[1, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 1]).is_corruption());
        assert!(refused(&[1, 1, 0, 0, 0]).is_corruption());
        assert!(refused(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7]).is_corruption());
    }
}
