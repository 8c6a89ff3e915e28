//! Which records of an import are acknowledged, are under way, or wait.
//!
//! Owns: the count that a resumed import starts from. Must not know: files, networks, time.
//! Invariants: two records with one key are never under way together, so the later one wins, as in
//! the file; the count only passes over acknowledged records.

use super::records::Record;
use super::resume::Progress;
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet};

/// Records ahead of the first one that is not acknowledged; bounds what is remembered while one
/// write is slow.
const AHEAD_MAX: u64 = 65_536;
/// Bytes of values under way.
const BYTES_MAX: usize = 32 << 20;

#[derive(Debug)]
pub struct Ledger {
    /// Every record below this number is acknowledged.
    acknowledged: u64,
    last_key: Bytes,
    /// Acknowledged records from `acknowledged` on, none of which is that one.
    ahead: BTreeMap<u64, Bytes>,
    /// The number that the next record must have.
    next: u64,
    keys: HashSet<Bytes>,
    bytes: usize,
    records_max: usize,
}

impl Ledger {
    /// Starts behind `done`; at most `records_max` records are under way at once.
    #[must_use]
    pub fn new(done: u64, records_max: usize) -> Self {
        Self {
            acknowledged: done,
            last_key: Bytes::new(),
            ahead: BTreeMap::new(),
            next: done,
            keys: HashSet::new(),
            bytes: 0,
            records_max,
        }
    }

    /// Whether this record may be sent now.
    #[must_use]
    pub fn admits(&self, record: &Record) -> bool {
        self.keys.len() < self.records_max
            && (self.bytes == 0 || self.bytes + record.value.len() <= BYTES_MAX)
            && self.next - self.acknowledged < AHEAD_MAX
            && !self.keys.contains(&record.key)
    }

    /// Notes that the next record is sent; gives its number.
    pub fn sent(&mut self, record: &Record) -> u64 {
        let number = self.next;
        self.next += 1;
        self.bytes += record.value.len();
        let new = self.keys.insert(record.key.clone());
        assert!(new, "no two records with one key are under way");
        number
    }

    /// Notes the answer to a record.
    pub fn answered(&mut self, number: u64, record: &Record, acknowledged: bool) {
        self.keys.remove(&record.key);
        self.bytes -= record.value.len();
        if !acknowledged {
            return;
        }
        self.ahead.insert(number, record.key.clone());
        while let Some(entry) = self.ahead.first_entry().filter(|e| *e.key() == self.acknowledged) {
            self.last_key = entry.remove();
            self.acknowledged += 1;
        }
    }

    /// What a later run may skip; `None` until this run got an answer for its first record.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        (!self.last_key.is_empty()).then(|| Progress::new(self.acknowledged, &self.last_key))
    }

    /// Every record below this number is acknowledged.
    #[must_use]
    pub const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str) -> Record {
        Record { key: key.to_owned().into(), value: Bytes::from_static(b"value") }
    }

    #[test]
    fn the_count_stops_at_the_first_gap() {
        let mut ledger = Ledger::new(10, 8);
        let records = ["a", "b", "c", "d"].map(record);
        for (number, record) in (10..).zip(&records) {
            assert!(ledger.admits(record));
            assert_eq!(ledger.sent(record), number);
        }
        assert_eq!(ledger.progress(), None);
        ledger.answered(11, &records[1], true);
        assert_eq!(ledger.acknowledged(), 10);
        ledger.answered(10, &records[0], true);
        assert_eq!(ledger.progress(), Some(Progress::new(12, b"b")));
        ledger.answered(12, &records[2], false);
        ledger.answered(13, &records[3], true);
        assert_eq!(ledger.progress(), Some(Progress::new(12, b"b")));
        assert!(ledger.keys.is_empty() && ledger.bytes == 0);
    }

    #[test]
    fn a_key_that_comes_again_waits_for_its_predecessor() {
        let mut ledger = Ledger::new(0, 8);
        let first = record("a");
        ledger.sent(&first);
        assert!(!ledger.admits(&record("a")) && ledger.admits(&record("b")));
        ledger.answered(0, &first, true);
        assert!(ledger.admits(&record("a")));
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let mut ledger = Ledger::new(0, 2);
        ledger.sent(&record("a"));
        assert!(ledger.admits(&record("b")));
        ledger.sent(&record("b"));
        assert!(!ledger.admits(&record("c")));
        let mut ledger = Ledger::new(0, 100);
        let large = |key: &str| Record {
            key: key.to_owned().into(),
            value: Bytes::from(vec![0; BYTES_MAX / 2 + 1]),
        };
        ledger.sent(&large("a"));
        assert!(!ledger.admits(&large("b")));
    }
}
