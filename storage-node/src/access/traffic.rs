//! What requests ask of one range: how much, and where. Kept by its leader, for splits by load.
//!
//! Counting costs each request one addition; every sixteenth leaves its key in a small ring.

use bytes::Bytes;
use parking_lot::Mutex;
use rangedb_types::Span;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of this many requests one leaves its key.
const SAMPLE_EVERY: u64 = 16;
/// Keys that are remembered; older ones are forgotten.
const SAMPLES_MAX: usize = 256;
/// Fewer samples say nothing.
const SAMPLES_MIN: usize = 32;

/// Requests since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub reads: u64,
    pub writes: u64,
    pub bytes_written: u64,
}

/// The requests of one range.
#[derive(Default)]
pub struct Traffic {
    reads: AtomicU64,
    writes: AtomicU64,
    bytes_written: AtomicU64,
    samples: Mutex<VecDeque<Bytes>>,
}

impl Traffic {
    /// One key, or the start of one span, was read.
    pub fn read(&self, key: &Bytes) {
        let before = self.reads.fetch_add(1, Ordering::Relaxed);
        self.sample(before, key);
    }

    /// A key was written, with so many bytes.
    pub fn write(&self, key: &Bytes, bytes: usize) {
        let before = self.writes.fetch_add(1, Ordering::Relaxed);
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
        self.sample(before, key);
    }

    fn sample(&self, before: u64, key: &Bytes) {
        if before.is_multiple_of(SAMPLE_EVERY) {
            let mut samples = self.samples.lock();
            if samples.len() >= SAMPLES_MAX {
                samples.pop_front();
            }
            // Copied: a key may be a small part of a large message.
            samples.push_back(Bytes::copy_from_slice(key));
        }
    }

    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            reads: self.reads.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
        }
    }

    /// A key with a quarter of the requests at least on either side of it; `None` if nearly all ask
    /// for one key, or too little is known.
    #[must_use]
    pub fn split_key(&self, span: &Span) -> Option<Vec<u8>> {
        let samples = self.samples.lock();
        let mut keys: Vec<Bytes> =
            samples.iter().filter(|key| span.contains(key)).cloned().collect();
        drop(samples);
        if keys.len() < SAMPLES_MIN {
            return None;
        }
        keys.sort_unstable();
        let quarter = keys.len() / 4;
        let cut = |key: &Bytes| keys.partition_point(|other| other < key);
        let middle = &keys[keys.len() / 2];
        // All that ask for the middle key go to its right; or, if that is uneven, to its left.
        let after = keys.get(keys.partition_point(|other| other <= middle));
        let candidates = [Some(middle), after];
        let even = |key: &&Bytes| {
            let left = cut(key);
            left >= quarter && keys.len() - left >= quarter && ***key != *span.start
        };
        let best = candidates.into_iter().flatten().filter(even);
        best.min_by_key(|key| cut(key).abs_diff(keys.len() / 2)).map(|key| key.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(keys: impl IntoIterator<Item = u8>) -> Traffic {
        let traffic = Traffic::default();
        for key in keys {
            for _ in 0..SAMPLE_EVERY {
                traffic.read(&Bytes::from(vec![b'k', key]));
            }
        }
        traffic
    }

    #[test]
    fn the_key_halves_the_requests() {
        let traffic = asked((0..100).map(|at| if at < 90 { 7 + at % 10 } else { 200 }));
        let key = traffic.split_key(&Span::all()).unwrap();
        assert!((b"k\x0b".to_vec()..=b"k\x0d".to_vec()).contains(&key), "{key:?}");
        assert_eq!(traffic.totals().reads, 1600);
    }

    #[test]
    fn a_single_hot_key_cannot_be_split() {
        assert_eq!(asked(std::iter::repeat_n(7, 100)).split_key(&Span::all()), None);
        let nearly = asked((0..100).map(|at| if at < 80 { 7 } else { 9 }));
        assert_eq!(nearly.split_key(&Span::all()), None);
        let two = asked((0..100).map(|at| if at < 60 { 7 } else { 9 }));
        assert_eq!(two.split_key(&Span::all()), Some(vec![b'k', 9]), "each on a side of its own");
        assert_eq!(asked(0..10).split_key(&Span::all()), None, "too little is known");
    }

    #[test]
    fn only_keys_of_the_range_count() {
        let span = Span { start: vec![b'k', 50], end: vec![b'k', 90] };
        let key = asked(0..200).split_key(&span).unwrap();
        assert!(span.contains(&key) && key != span.start);
    }
}
