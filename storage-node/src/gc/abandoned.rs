//! What transactions that nobody sees to any more left behind, until a gateway fetches it.
//!
//! Owns: a bounded list, filled by passes. Must not know: how a transaction is settled. What is handed out
//! and not settled after all is found again by a later pass.

use super::metrics;
use bytes::Bytes;
use parking_lot::Mutex;
use rangedb_mvcc::collect::OpenPrimary;
use rangedb_mvcc::record::LockRecord;
use rangedb_types::Timestamp;
use std::collections::BTreeMap;

/// Most intents, and most records, that are kept for gateways.
const KEPT_MAX: usize = 4096;
/// Most of each that one answer holds.
const TAKEN_MAX: usize = 256;

/// What passes found on one node.
#[derive(Default)]
pub struct Abandoned {
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    intents: BTreeMap<(Bytes, Timestamp), LockRecord>,
    primaries: BTreeMap<(Bytes, Timestamp), OpenPrimary>,
}

/// A part of it.
#[derive(Default)]
pub struct Taken {
    pub intents: Vec<(Bytes, LockRecord)>,
    pub primaries: Vec<OpenPrimary>,
}

impl Abandoned {
    /// Adds what is not known yet, as far as there is room.
    pub(super) fn add(&self, intents: Vec<(Vec<u8>, LockRecord)>, primaries: Vec<OpenPrimary>) {
        metrics::ABANDONED.inc_by((intents.len() + primaries.len()) as u64);
        let mut found = self.found.lock();
        let room = KEPT_MAX.saturating_sub(found.intents.len());
        for (key, lock) in intents.into_iter().take(room) {
            // What the primary says is asked of the primary.
            let lock = LockRecord { secondaries: None, short_value: None, ..lock };
            found.intents.insert((key.into(), lock.start_ts), lock);
        }
        let room = KEPT_MAX.saturating_sub(found.primaries.len());
        for primary in primaries.into_iter().take(room) {
            let key = Bytes::copy_from_slice(&primary.key);
            found.primaries.insert((key, primary.id), primary);
        }
    }

    /// Takes some of it off the list.
    #[must_use]
    pub fn take(&self) -> Taken {
        let mut found = self.found.lock();
        let mut taken = Taken::default();
        while taken.intents.len() < TAKEN_MAX
            && let Some(((key, _), lock)) = found.intents.pop_first()
        {
            taken.intents.push((key, lock));
        }
        while taken.primaries.len() < TAKEN_MAX
            && let Some((_, primary)) = found.primaries.pop_first()
        {
            taken.primaries.push(primary);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(number: usize) -> OpenPrimary {
        let key = format!("{number:06}").into_bytes();
        OpenPrimary { key, id: Timestamp(1), version: Timestamp(2) }
    }

    #[test]
    fn the_list_is_bounded_and_handed_out_in_parts() {
        let abandoned = Abandoned::default();
        for _ in 0..2 {
            abandoned.add(Vec::new(), (0..KEPT_MAX + 10).map(primary).collect());
        }
        let mut taken = Vec::new();
        loop {
            let part = abandoned.take().primaries;
            assert!(part.len() <= TAKEN_MAX);
            if part.is_empty() {
                break;
            }
            taken.extend(part);
        }
        assert_eq!(taken, (0..KEPT_MAX).map(primary).collect::<Vec<_>>());
    }
}
