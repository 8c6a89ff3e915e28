//! Where a transaction's intents are, in few bytes.
//!
//! Owns: how spans are condensed. Must not know: tokens. Invariant: every key that was added lies in a span;
//! spans neither overlap nor touch, and are in order.

use bytes::Bytes;
use rangedb_types::key::next_key;

/// Most spans, and bytes of a bound: what is longer is cut, which makes the span wider.
const SPANS_MAX: usize = 16;
const BOUND_BYTES_MAX: usize = 64;

/// A set of keys, and what lies between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans(Vec<(Bytes, Bytes)>);

impl Spans {
    #[must_use]
    pub fn new(spans: Vec<(Bytes, Bytes)>) -> Self {
        let mut condensed = Self(spans);
        condensed.condense();
        condensed
    }

    /// Start and exclusive end of each; an empty end is unbounded.
    #[must_use]
    pub fn as_slice(&self) -> &[(Bytes, Bytes)] {
        &self.0
    }

    pub fn add(&mut self, key: &[u8]) {
        if self.0.iter().any(|(start, end)| contains(start, end, key)) {
            return;
        }
        let (start, end) = if key.len() < BOUND_BYTES_MAX {
            (key.to_vec(), next_key(key))
        } else {
            let cut = &key[..BOUND_BYTES_MAX];
            (cut.to_vec(), rangedb_types::key::prefix_end(cut))
        };
        self.0.push((start.into(), end.into()));
        self.condense();
    }

    fn condense(&mut self) {
        self.0.sort();
        let mut joined: Vec<(Bytes, Bytes)> = Vec::with_capacity(self.0.len());
        for (start, end) in self.0.drain(..) {
            match joined.last_mut() {
                Some((_, last)) if last.is_empty() || *last >= start => {
                    if !last.is_empty() && (end.is_empty() || end > *last) {
                        *last = end;
                    }
                }
                _ => joined.push((start, end)),
            }
        }
        while joined.len() > SPANS_MAX {
            let at = nearest(&joined);
            let (_, end) = joined.remove(at + 1);
            joined[at].1 = end;
        }
        self.0 = joined;
    }
}

fn contains(start: &[u8], end: &[u8], key: &[u8]) -> bool {
    start <= key && (end.is_empty() || key < end)
}

/// The span whose next one begins with most of the bytes of its end: what lies between is few, more likely.
fn nearest(spans: &[(Bytes, Bytes)]) -> usize {
    let common = |pair: &[(Bytes, Bytes)]| {
        pair[0].1.iter().zip(pair[1].0.iter()).take_while(|(a, b)| a == b).count()
    };
    let pairs = spans.windows(2).map(common).enumerate();
    pairs.max_by_key(|(_, common)| *common).map_or(0, |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_types::{Random as _, SeededRandom};

    #[test]
    fn near_keys_share_a_span() {
        let mut spans = Spans::default();
        for number in 0..100 {
            spans.add(format!("account/{number:04}").as_bytes());
            spans.add(format!("transfer/{number:04}").as_bytes());
        }
        let starts: Vec<_> = spans.as_slice().iter().map(|(start, _)| start.clone()).collect();
        assert_eq!(starts.len(), SPANS_MAX);
        assert!(
            starts
                .iter()
                .all(|start| start.starts_with(b"account") || start.starts_with(b"transfer"))
        );
        let across =
            |(start, end): &(Bytes, Bytes)| start.starts_with(b"a") && end.starts_with(b"t");
        assert!(!spans.as_slice().iter().any(across));
    }

    #[test]
    fn every_key_is_inside_and_spans_are_apart() {
        for seed in 0..50 {
            println!("seed {seed}");
            let (mut random, mut spans, mut keys) =
                (SeededRandom::new(seed), Spans::default(), Vec::new());
            for _ in 0..200 {
                let length = random.below(120) as usize + 1;
                let key: Vec<u8> =
                    (0..length).map(|_| b'a' + u8::try_from(random.below(3)).unwrap()).collect();
                spans.add(&key);
                keys.push(key);
                let found = spans.as_slice();
                assert!(found.len() <= SPANS_MAX);
                assert!(
                    found.windows(2).all(|pair| !pair[0].1.is_empty() && pair[0].1 < pair[1].0)
                );
                for key in &keys {
                    assert!(found.iter().any(|(start, end)| contains(start, end, key)));
                }
                let bytes: usize = found.iter().map(|(start, end)| start.len() + end.len()).sum();
                assert!(bytes <= 2 * SPANS_MAX * BOUND_BYTES_MAX);
            }
        }
    }
}
