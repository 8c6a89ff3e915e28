//! A checksum over everything that all replicas of a range hold alike, to compare replicas with.

use crate::Result;
use crate::key::replicated_spans;
use rangedb_engine::Snapshot;
use rangedb_types::RangeDescriptor;
use std::hash::Hasher as _;
use twox_hash::XxHash64;

/// What one replica holds, in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeChecksum {
    pub checksum: u64,
    /// Entries of all families: versions, not keys.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// Reads the whole range. Two replicas that applied the same log to the same index have the same
/// checksum, on every machine: it is the xxHash64 (seed 0) over every entry of
/// [`replicated_spans`] in their order, each as family number, key length, value length (32-bit
/// big-endian), key, value.
///
/// # Errors
/// Engine errors.
pub fn checksum(snapshot: &dyn Snapshot, range: &RangeDescriptor) -> Result<RangeChecksum> {
    let mut hasher = XxHash64::with_seed(0);
    let mut sum = RangeChecksum::default();
    for span in replicated_spans(range) {
        let mut iter = snapshot.iterator(span.family, &span.lower, &span.upper)?;
        let mut valid = iter.seek_to_first()?;
        while valid {
            let (key, value) = (iter.key(), iter.value());
            let mut head = [0; 12];
            head[..4].copy_from_slice(&span.family.number().to_be_bytes());
            head[4..8].copy_from_slice(&length(key).to_be_bytes());
            head[8..].copy_from_slice(&length(value).to_be_bytes());
            hasher.write(&head);
            hasher.write(key);
            hasher.write(value);
            sum.entries += 1;
            sum.bytes += (key.len() + value.len()) as u64;
            valid = iter.next()?;
        }
    }
    sum.checksum = hasher.finish();
    Ok(sum)
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("keys and values are limited far below 4 GiB")
}
