//! Data family: a value that is too long for its write record. Format byte, then the value.

use crate::codec::Reader;
use crate::{MvccError, Result};
use bytes::{Buf, Bytes};
use rangedb_engine::Family;

const FORMAT: u8 = 1;

/// The record of a value.
#[must_use]
pub fn encode_value(value: &[u8]) -> Bytes {
    let mut record = Vec::with_capacity(1 + value.len());
    record.push(FORMAT);
    record.extend_from_slice(value);
    record.into()
}

/// The value of a record; shares its memory.
///
/// # Errors
/// `Damaged` or `NewerFormat`.
pub fn decode_value(mut record: Bytes) -> Result<Bytes, MvccError> {
    Reader::with_format(Family::Data, &record, FORMAT)?;
    record.advance(1);
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        for value in [&b""[..], b"v", &[0xff; 300]] {
            assert_eq!(decode_value(encode_value(value)), Ok(Bytes::copy_from_slice(value)));
        }
        assert!(decode_value(Bytes::new()).expect_err("empty").is_corruption());
        let newer = decode_value(Bytes::from_static(&[2, 1])).expect_err("newer");
        assert_eq!(newer, MvccError::NewerFormat { family: Family::Data, found: 2 });
    }
}
