//! Range tombstone family: a deletion of every key from the start in the record's key up to the end
//! in the record.

use crate::codec::Reader;
use crate::{MvccError, Result};
use rangedb_engine::Family;
use rangedb_types::RequestId;

const FORMAT: u8 = 1;
const HAS_REQUEST_ID: u8 = 1;

/// A deletion of a span. Its start and its timestamp are in its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TombstoneRecord<'a> {
    /// Which logical write made it.
    pub request_id: RequestId,
    /// The first key that is not deleted; empty if there is none.
    pub end: &'a [u8],
}

impl<'a> TombstoneRecord<'a> {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(2 + 16 + self.end.len());
        record.push(FORMAT);
        if self.request_id.is_none() {
            record.push(0);
        } else {
            record.push(HAS_REQUEST_ID);
            record.extend_from_slice(&self.request_id.to_bytes());
        }
        record.extend_from_slice(self.end);
        record
    }

    /// # Errors
    /// `Damaged` or `NewerFormat`.
    pub fn decode(record: &'a [u8]) -> Result<Self, MvccError> {
        let mut reader = Reader::with_format(Family::RangeTombstone, record, FORMAT)?;
        let request_id = match reader.u8()? {
            0 => RequestId(0),
            HAS_REQUEST_ID => RequestId(reader.u128()?),
            _ => return Err(reader.damaged("it has flags that mean nothing")),
        };
        Ok(Self { request_id, end: reader.rest() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        for request_id in [RequestId(0), RequestId(7)] {
            for end in [&b""[..], b"m", b"m\0"] {
                let record = TombstoneRecord { request_id, end };
                assert_eq!(TombstoneRecord::decode(&record.encode()), Ok(record));
            }
        }
        for broken in [&b""[..], &[1], &[1, 2], &[1, 1, 0], &[0, 0]] {
            assert!(TombstoneRecord::decode(broken).expect_err("broken").is_corruption());
        }
    }
}
