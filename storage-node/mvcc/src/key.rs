//! How keys are written in the engine, so that the engine's order is the order of keys and, within a
//! key, newest versions come first.
//!
//! An encoded key is `k`, the key with every 0x00 written as 0x00 0xFF, and the terminator
//! 0x00 0x01. No encoded key is a prefix of another, so versions may follow it.

use crate::{MvccError, Result, state};
use rangedb_engine::{Family, VERSION_BYTES};
use rangedb_types::{RangeDescriptor, Span, Timestamp};

/// First byte of every encoded key.
pub const KEY_SPACE: u8 = b'k';
/// The bound above every encoded key.
pub const KEY_SPACE_END: u8 = KEY_SPACE + 1;

const ESCAPED_ZERO: u8 = 0xff;
const TERMINATOR: u8 = 0x01;

/// `[lower, upper)` in a family's order. `upper` is never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanBounds {
    pub lower: Vec<u8>,
    pub upper: Vec<u8>,
}

/// A contiguous part of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilySpan {
    pub family: Family,
    pub lower: Vec<u8>,
    pub upper: Vec<u8>,
}

/// The bounds of everything about the keys of `span`, the same in the families data, lock, write
/// and range tombstone.
#[must_use]
pub fn bounds(span: &Span) -> SpanBounds {
    let upper = if span.end.is_empty() { vec![KEY_SPACE_END] } else { encode_key(&span.end) };
    SpanBounds { lower: encode_key(&span.start), upper }
}

/// Every part of the engine that all replicas of a range hold alike: what a snapshot carries, what
/// installing one clears first, and what the checksum covers. In the order a snapshot sends it.
#[must_use]
pub fn replicated_spans(range: &RangeDescriptor) -> Vec<FamilySpan> {
    let SpanBounds { lower, upper } = bounds(&range.span);
    let mut spans: Vec<_> = [Family::Data, Family::Lock, Family::Write, Family::RangeTombstone]
        .into_iter()
        .map(|family| FamilySpan { family, lower: lower.clone(), upper: upper.clone() })
        .collect();
    let meta = state::replicated_meta_bounds(range.range_id);
    spans.push(FamilySpan { family: Family::Meta, lower: meta.lower, upper: meta.upper });
    spans
}

/// The encoded key, with room for a version.
#[must_use]
pub fn encode_key(key: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(key.len() + 3 + VERSION_BYTES);
    encode_key_into(key, &mut encoded);
    encoded
}

/// Appends the encoded key.
pub fn encode_key_into(key: &[u8], encoded: &mut Vec<u8>) {
    encoded.push(KEY_SPACE);
    let mut parts = key.split(|&byte| byte == 0);
    if let Some(first) = parts.next() {
        encoded.extend_from_slice(first);
    }
    for part in parts {
        encoded.extend_from_slice(&[0, ESCAPED_ZERO]);
        encoded.extend_from_slice(part);
    }
    encoded.extend_from_slice(&[0, TERMINATOR]);
}

/// The key that `encoded` (without a version) stands for.
///
/// # Errors
/// `Damaged` if it is no encoded key.
pub fn decode_key(family: Family, encoded: &[u8]) -> Result<Vec<u8>> {
    let damaged = |detail| MvccError::Damaged { family, detail };
    let mut rest = match encoded.split_first() {
        Some((&KEY_SPACE, rest)) => rest,
        _ => return Err(damaged("the key does not begin as keys do")),
    };
    let mut key = Vec::with_capacity(rest.len());
    loop {
        let zero = rest
            .iter()
            .position(|&byte| byte == 0)
            .ok_or_else(|| damaged("the key has no terminator"))?;
        key.extend_from_slice(&rest[..zero]);
        match rest.get(zero + 1) {
            Some(&ESCAPED_ZERO) => key.push(0),
            Some(&TERMINATOR) if rest.len() == zero + 2 => return Ok(key),
            _ => return Err(damaged("the key holds a zero byte that means nothing")),
        }
        rest = &rest[zero + 2..];
    }
}

/// A version as it stands at the end of a key: descending.
#[must_use]
pub const fn encode_version(version: Timestamp) -> [u8; VERSION_BYTES] {
    (!version.0).to_be_bytes()
}

/// The version that stands at the end of a key.
#[must_use]
pub const fn decode_version(bytes: [u8; VERSION_BYTES]) -> Timestamp {
    Timestamp(!u64::from_be_bytes(bytes))
}

/// An encoded key with a version: of the data family with the start timestamp, of the write family
/// with the commit timestamp, of the range tombstone family (key: its start) with its timestamp.
#[must_use]
pub fn versioned_key(key: &[u8], version: Timestamp) -> Vec<u8> {
    let mut encoded = encode_key(key);
    encoded.extend_from_slice(&encode_version(version));
    encoded
}

/// Splits a key of a versioned family into the encoded key and the version.
///
/// # Errors
/// `Damaged` if it is too short.
pub fn split_version(family: Family, key: &[u8]) -> Result<(&[u8], Timestamp)> {
    key.split_last_chunk::<VERSION_BYTES>()
        .map(|(encoded, version)| (encoded, decode_version(*version)))
        .ok_or(MvccError::Damaged { family, detail: "the key is too short to hold a version" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn few_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, b'k', 0xfe, 0xff]), 0..6)
    }

    proptest! {
        #[test]
        fn encoded_keys_come_back_and_keep_their_order(a in few_bytes(), b in few_bytes()) {
            let (ea, eb) = (encode_key(&a), encode_key(&b));
            prop_assert_eq!(decode_key(Family::Lock, &ea).expect("own encoding"), a.clone());
            prop_assert_eq!(ea.cmp(&eb), a.cmp(&b));
            prop_assert!(a == b || !ea.starts_with(&eb));
        }

        #[test]
        fn versions_of_a_key_are_together_newest_first(
            a in few_bytes(), b in few_bytes(), x: u64, y: u64,
        ) {
            let (va, vb) = (versioned_key(&a, Timestamp(x)), versioned_key(&b, Timestamp(y)));
            prop_assert_eq!(va.cmp(&vb), a.cmp(&b).then(y.cmp(&x)));
        }

        #[test]
        fn bounds_hold_what_the_span_holds(
            start in few_bytes(), end in few_bytes(), key in few_bytes(), version: u64,
        ) {
            prop_assume!(end.is_empty() || start < end);
            let span = Span { start, end };
            let held = bounds(&span);
            let encoded = versioned_key(&key, Timestamp(version));
            prop_assert_eq!(
                held.lower <= encoded && encoded < held.upper,
                span.contains(&key)
            );
        }
    }

    #[test]
    fn broken_keys_are_damage() {
        for broken in [&b""[..], b"k", b"ka", b"ka\0", b"ka\0\x02", b"xa\0\x01", b"ka\0\x01b"] {
            let error = decode_key(Family::Write, broken).expect_err("not a key");
            assert!(error.is_corruption(), "{broken:?}");
        }
        assert!(split_version(Family::Write, b"short").is_err());
    }
}
