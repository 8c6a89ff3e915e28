//! Lock family: an undecided transaction's intent on one key.

use crate::codec::{Reader, put_bytes};
use crate::{MvccError, Result};
use rangedb_engine::Family;
use rangedb_types::Timestamp;

const FORMAT: u8 = 1;
const HAS_SHORT_VALUE: u8 = 1;
const HAS_SECONDARIES: u8 = 1 << 1;
const TENTATIVE: u8 = 1 << 2;
const KNOWN_FLAGS: u8 = HAS_SHORT_VALUE | HAS_SECONDARIES | TENTATIVE;

/// What the transaction wants with the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// To write a value.
    Put,
    /// To delete the key.
    Delete,
    /// That nobody else writes it.
    Check,
}

/// An intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockRecord {
    pub kind: LockKind,
    /// The transaction is still running: readers pass, and it is made firm before the commit.
    pub tentative: bool,
    /// Names the transaction; also where its value is in the data family.
    pub start_ts: Timestamp,
    /// The transaction cannot commit below this.
    pub min_commit_ts: Timestamp,
    /// How long after `start_ts` (in oracle time) the transaction lives without being renewed.
    pub lifetime_ms: u64,
    /// Counts the calls of one transaction, so that a late one is told from the newest.
    pub sequence: u32,
    /// The key whose lock decides.
    pub primary: Vec<u8>,
    pub short_value: Option<Vec<u8>>,
    /// In the primary of a transaction that is done once all its intents are there: the others.
    pub secondaries: Option<Vec<Vec<u8>>>,
}

impl LockRecord {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(64 + self.primary.len());
        record.push(FORMAT);
        record.push(match self.kind {
            LockKind::Put => 1,
            LockKind::Delete => 2,
            LockKind::Check => 3,
        });
        let mut flags = 0;
        flags |= if self.short_value.is_some() { HAS_SHORT_VALUE } else { 0 };
        flags |= if self.secondaries.is_some() { HAS_SECONDARIES } else { 0 };
        flags |= if self.tentative { TENTATIVE } else { 0 };
        record.push(flags);
        record.extend_from_slice(&self.start_ts.0.to_be_bytes());
        record.extend_from_slice(&self.min_commit_ts.0.to_be_bytes());
        record.extend_from_slice(&self.lifetime_ms.to_be_bytes());
        record.extend_from_slice(&self.sequence.to_be_bytes());
        put_bytes(&mut record, &self.primary);
        if let Some(value) = &self.short_value {
            put_bytes(&mut record, value);
        }
        if let Some(keys) = &self.secondaries {
            let count = u32::try_from(keys.len()).expect("a transaction has far fewer keys");
            record.extend_from_slice(&count.to_be_bytes());
            for key in keys {
                put_bytes(&mut record, key);
            }
        }
        record
    }

    /// # Errors
    /// `Damaged` or `NewerFormat`.
    pub fn decode(record: &[u8]) -> Result<Self, MvccError> {
        let mut reader = Reader::with_format(Family::Lock, record, FORMAT)?;
        let kind = match reader.u8()? {
            1 => LockKind::Put,
            2 => LockKind::Delete,
            3 => LockKind::Check,
            _ => return Err(reader.damaged("its kind is unknown")),
        };
        let flags = reader.u8()?;
        if flags & !KNOWN_FLAGS != 0 {
            return Err(reader.damaged("it has flags that mean nothing"));
        }
        let start_ts = Timestamp(reader.u64()?);
        let min_commit_ts = Timestamp(reader.u64()?);
        let lifetime_ms = reader.u64()?;
        let sequence = reader.u32()?;
        let primary = reader.bytes()?.to_vec();
        let mut short_value = None;
        if flags & HAS_SHORT_VALUE != 0 {
            short_value = Some(reader.bytes()?.to_vec());
        }
        let mut secondaries = None;
        if flags & HAS_SECONDARIES != 0 {
            let count = reader.u32()? as usize;
            // Every key takes at least its length.
            if count > reader.left() / 4 {
                return Err(reader.damaged("a count points behind its end"));
            }
            let keys: Result<Vec<_>> =
                (0..count).map(|_| reader.bytes().map(<[u8]>::to_vec)).collect();
            secondaries = Some(keys?);
        }
        reader.end()?;
        Ok(Self {
            kind,
            tentative: flags & TENTATIVE != 0,
            start_ts,
            min_commit_ts,
            lifetime_ms,
            sequence,
            primary,
            short_value,
            secondaries,
        })
    }

    /// Whether a read at `read_ts` must know first what becomes of the transaction.
    #[must_use]
    pub fn blocks_read_at(&self, read_ts: Timestamp) -> bool {
        !self.tentative
            && matches!(self.kind, LockKind::Put | LockKind::Delete)
            && self.start_ts <= read_ts
            && self.min_commit_ts <= read_ts
    }

    /// When it dies unless it is renewed, in oracle time.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        let dies = self.start_ts.physical_ms().saturating_add(self.lifetime_ms);
        Timestamp::new(dies.min(Timestamp::MAX.physical_ms()), 0)
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
                LockKind::Put, LockKind::Delete, LockKind::Check,
            ]),
            tentative: bool,
            start_ts: u64, min_commit_ts: u64, lifetime_ms: u64, sequence: u32,
            primary: Vec<u8>, short_value: Option<Vec<u8>>,
            secondaries in prop::option::of(prop::collection::vec(
                prop::collection::vec(any::<u8>(), 0..4), 0..4)),
        ) {
            let record = LockRecord {
                kind,
                tentative,
                start_ts: Timestamp(start_ts),
                min_commit_ts: Timestamp(min_commit_ts),
                lifetime_ms,
                sequence,
                primary,
                short_value,
                secondaries,
            };
            prop_assert_eq!(LockRecord::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(mut bytes: Vec<u8>) {
            bytes.splice(0..0, [1, 1, 3]);
            if let Ok(record) = LockRecord::decode(&bytes) {
                prop_assert_eq!(LockRecord::decode(&record.encode()), Ok(record));
            }
        }
    }
}
