//! What the log store keeps of a replica beside its entries: three small records in the replica's
//! group of raft-engine. Part of the format on disk.
//!
//! | key | record, integers big-endian |
//! |---|---|
//! | `h` | hard state: format, term, vote, commit |
//! | `t` | the last entry that is no longer in the log: format, index, term |
//! | `l` | the last entry that is in the log: format, index |
//!
//! `l` travels with every append. Without it, entries that were overwritten or cut could come back
//! with the files they once were in, and a log that lost its end could not be told from a short one.

use super::LogPosition;
use raft::eraftpb::HardState;

/// The format that this version writes.
const FORMAT: u8 = 1;

pub(super) const HARD_STATE_KEY: &[u8] = b"h";
pub(super) const TRUNCATED_KEY: &[u8] = b"t";
pub(super) const LAST_KEY: &[u8] = b"l";

pub(super) fn encode_hard_state(state: &HardState) -> Vec<u8> {
    encode([state.term, state.vote, state.commit])
}

pub(super) fn decode_hard_state(record: &[u8]) -> Result<HardState, String> {
    let [term, vote, commit] = decode(record)?;
    Ok(HardState { term, vote, commit, ..HardState::default() })
}

pub(super) fn encode_position(position: LogPosition) -> Vec<u8> {
    encode([position.index, position.term])
}

pub(super) fn decode_position(record: &[u8]) -> Result<LogPosition, String> {
    let [index, term] = decode(record)?;
    Ok(LogPosition { index, term })
}

pub(super) fn encode_index(index: u64) -> Vec<u8> {
    encode([index])
}

pub(super) fn decode_index(record: &[u8]) -> Result<u64, String> {
    let [index] = decode(record)?;
    Ok(index)
}

fn encode<const N: usize>(numbers: [u64; N]) -> Vec<u8> {
    let mut record = Vec::with_capacity(1 + N * 8);
    record.push(FORMAT);
    for number in numbers {
        record.extend_from_slice(&number.to_be_bytes());
    }
    record
}

fn decode<const N: usize>(record: &[u8]) -> Result<[u64; N], String> {
    let (&format, rest) = record.split_first().ok_or("a record is empty")?;
    if format != FORMAT {
        return Err(format!(
            "a record has format {format}, this version reads {FORMAT}; start the version that wrote it"
        ));
    }
    let (numbers, rest) = rest.as_chunks::<8>();
    if !rest.is_empty() {
        return Err("a record has the wrong length".to_owned());
    }
    let numbers: [[u8; 8]; N] =
        numbers.try_into().map_err(|_| "a record has the wrong length".to_owned())?;
    Ok(numbers.map(u64::from_be_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_others_are_refused() {
        let mut state = HardState::default();
        (state.term, state.vote, state.commit) = (3, 4, 5);
        assert_eq!(decode_hard_state(&encode_hard_state(&state)), Ok(state));
        let position = LogPosition { index: 10, term: 1 };
        assert_eq!(decode_position(&encode_position(position)), Ok(position));
        assert_eq!(decode_index(&encode_index(7)), Ok(7));
        for broken in [&[][..], &[1], &[2, 0, 0, 0, 0, 0, 0, 0, 7], &[1, 0, 0, 0, 0, 0, 0, 0, 7, 0]]
        {
            assert!(decode_index(broken).is_err(), "{broken:?}");
        }
    }
}
