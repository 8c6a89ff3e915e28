//! The timestamps of one range's leader: which it has served reads at, which its writes bear.
//!
//! A leader may stamp a write with a timestamp only if no read at or above it was served already;
//! a read at T may start only when no write at or below T is still under way. Both decisions are
//! made under one lock.
//!
//! **A new term may start afresh.** A leader fetches timestamps only while it leads, so every
//! timestamp of a term was made after that term's leadership began. Every read of an earlier term
//! was confirmed, by lease or by a quorum, before this leadership began, and its T was made before
//! that; every write of an earlier term is either applied (leadership begins with the term's first
//! entry applied) or will never be. So neither needs to be remembered.
//!
//! **The lookup floor.** The first attempt of a write, delayed on its way, may arrive after a retry
//! of it was done. A retry therefore raises the floor above its `seen_version`, and any attempt
//! whose `seen_version` lies below the floor is looked up like a retry. Retries of earlier terms
//! saw versions from before this term, and the floor begins at the term's first timestamp.

use parking_lot::Mutex;
use rangedb_types::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Most reads of one range that wait for writes to end.
pub const WAITING_READS_MAX: usize = 4096;

/// The clockwork of one range. Belongs to one term at a time.
#[derive(Default)]
pub struct Stamps {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    term: u64,
    /// The largest timestamp a read was promised in this term.
    high_mark: Timestamp,
    /// Attempts that saw less are looked up; unknown until the term's first timestamp.
    lookup_floor: Option<Timestamp>,
    /// Writes under way, and how many share each timestamp.
    in_flight: BTreeMap<Timestamp, usize>,
    waiting: Vec<(Timestamp, oneshot::Sender<()>)>,
}

/// Why a timestamp cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StampError {
    /// A read was served at or above it: fetch another.
    Behind,
    /// The term has passed.
    OtherTerm,
    /// Too many reads wait.
    Overloaded,
}

/// Until when a read must wait.
#[derive(Debug)]
pub enum ReadStart {
    Now,
    /// When this resolves: with an error if the term ended meanwhile.
    After(oneshot::Receiver<()>),
}

impl State {
    /// Enters `term`, forgetting the one before; false if `term` is over.
    fn enter(&mut self, term: u64) -> bool {
        if term > self.term {
            // Dropping the waiting reads tells them that their term is over.
            *self = Self { term, ..Self::default() };
        }
        term == self.term
    }
}

impl Stamps {
    /// Gives a write its timestamp, and keeps it in flight until the guard is dropped.
    ///
    /// # Errors
    /// `Behind` or `OtherTerm`.
    pub fn stamp(self: &Arc<Self>, term: u64, version: Timestamp) -> Result<InFlight, StampError> {
        let mut state = self.state.lock();
        if !state.enter(term) {
            return Err(StampError::OtherTerm);
        }
        state.lookup_floor.get_or_insert(version);
        if version <= state.high_mark {
            return Err(StampError::Behind);
        }
        *state.in_flight.entry(version).or_default() += 1;
        drop(state);
        Ok(InFlight { stamps: Arc::clone(self), term, version })
    }

    /// Promises a read at `version`: no write will be stamped at or below it any more.
    ///
    /// # Errors
    /// `OtherTerm` or `Overloaded`.
    pub fn begin_read(&self, term: u64, version: Timestamp) -> Result<ReadStart, StampError> {
        let mut state = self.state.lock();
        if !state.enter(term) {
            return Err(StampError::OtherTerm);
        }
        let must_wait =
            state.in_flight.first_key_value().is_some_and(|(first, _)| *first <= version);
        if must_wait && state.waiting.len() >= WAITING_READS_MAX {
            // Those that gave up free their places before anybody is turned away.
            state.waiting.retain(|(_, wake)| !wake.is_closed());
            if state.waiting.len() >= WAITING_READS_MAX {
                return Err(StampError::Overloaded);
            }
        }
        state.high_mark = state.high_mark.max(version);
        if !must_wait {
            return Ok(ReadStart::Now);
        }
        let (wake, woken) = oneshot::channel();
        state.waiting.push((version, wake));
        Ok(ReadStart::After(woken))
    }

    /// Promises that no write will be stamped at or below `version` any more. False if one is under way that
    /// is, or if the term is over.
    #[must_use]
    pub fn close(&self, term: u64, version: Timestamp) -> bool {
        let mut state = self.state.lock();
        if !state.enter(term) {
            return false;
        }
        state.high_mark = state.high_mark.max(version);
        state.in_flight.first_key_value().is_none_or(|(first, _)| *first > version)
    }

    /// True if an attempt that saw `seen` must be looked up before it is done.
    #[must_use]
    pub fn needs_lookup(&self, term: u64, seen: Timestamp) -> bool {
        let state = self.state.lock();
        state.term != term || state.lookup_floor.is_none_or(|floor| seen < floor)
    }

    /// A retry that saw `seen` is about to be done. Call it under the retry's latch.
    pub fn raise_lookup_floor(&self, term: u64, seen: Timestamp) {
        let mut state = self.state.lock();
        if state.enter(term)
            && let Some(floor) = state.lookup_floor
        {
            state.lookup_floor = Some(floor.max(seen.next()));
        }
    }

    /// How many writes are under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.state.lock().in_flight.values().sum()
    }

    fn settle(&self, term: u64, version: Timestamp) {
        let mut freed = Vec::new();
        let mut state = self.state.lock();
        if state.term != term {
            return;
        }
        if let Some(count) = state.in_flight.get_mut(&version) {
            *count -= 1;
            if *count == 0 {
                state.in_flight.remove(&version);
            }
        }
        if state.waiting.is_empty() {
            return;
        }
        let first = state.in_flight.first_key_value().map(|(version, _)| *version);
        let mut at = 0;
        while at < state.waiting.len() {
            if first.is_none_or(|first| first > state.waiting[at].0) {
                freed.push(state.waiting.swap_remove(at).1);
            } else {
                at += 1;
            }
        }
        drop(state);
        for wake in freed {
            // A read that gave up does not wait any more.
            let _ = wake.send(());
        }
    }
}

/// A write under way. Dropped when its fate at this leader is settled, and not before: it lives
/// with the proposal, whatever becomes of the caller.
pub struct InFlight {
    stamps: Arc<Stamps>,
    term: u64,
    version: Timestamp,
}

impl InFlight {
    /// The write's commit timestamp.
    #[must_use]
    pub const fn version(&self) -> Timestamp {
        self.version
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.stamps.settle(self.term, self.version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: u64 = 7;

    fn at(version: u64) -> Timestamp {
        Timestamp(version)
    }

    #[test]
    fn a_write_is_stamped_above_every_served_read() {
        let stamps = Arc::new(Stamps::default());
        assert!(matches!(stamps.begin_read(TERM, at(10)), Ok(ReadStart::Now)));
        assert_eq!(stamps.stamp(TERM, at(10)).err(), Some(StampError::Behind));
        assert_eq!(stamps.stamp(TERM, at(11)).expect("above").version(), at(11));
        assert_eq!(stamps.in_flight(), 0);
    }

    #[test]
    fn a_read_waits_for_every_write_at_or_below_it() {
        let stamps = Arc::new(Stamps::default());
        let (five, also_five, nine) = (
            stamps.stamp(TERM, at(5)).unwrap(),
            stamps.stamp(TERM, at(5)).unwrap(),
            stamps.stamp(TERM, at(9)).unwrap(),
        );
        assert!(matches!(stamps.begin_read(TERM, at(4)), Ok(ReadStart::Now)));
        let Ok(ReadStart::After(mut read)) = stamps.begin_read(TERM, at(8)) else {
            panic!("a write at 5 is under way")
        };
        drop(five);
        assert!(read.try_recv().is_err());
        drop(also_five);
        assert_eq!(read.try_recv(), Ok(()));
        drop(nine);
    }

    #[test]
    fn what_is_closed_stays_so_and_waits_for_writes_under_way() {
        let stamps = Arc::new(Stamps::default());
        let five = stamps.stamp(TERM, at(5)).unwrap();
        assert!(stamps.close(TERM, at(4)) && !stamps.close(TERM, at(5)));
        drop(five);
        assert!(stamps.close(TERM, at(5)));
        assert_eq!(stamps.stamp(TERM, at(5)).err(), Some(StampError::Behind));
        assert!(stamps.close(TERM + 1, at(1)) && !stamps.close(TERM, at(9)), "a term that is over");
    }

    #[test]
    fn a_new_term_forgets_the_old_one_and_tells_its_reads() {
        let stamps = Arc::new(Stamps::default());
        let old = stamps.stamp(TERM, at(5)).unwrap();
        let Ok(ReadStart::After(mut read)) = stamps.begin_read(TERM, at(100)) else {
            panic!("a write at 5 is under way")
        };
        let new = stamps.stamp(TERM + 1, at(50)).unwrap();
        assert_eq!(read.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(stamps.stamp(TERM, at(200)).err(), Some(StampError::OtherTerm));
        drop(old);
        assert_eq!(stamps.in_flight(), 1, "a write of the old term takes nothing from the new one");
        drop(new);
    }

    #[test]
    fn a_late_first_attempt_is_looked_up_after_its_retry() {
        let stamps = Arc::new(Stamps::default());
        assert!(stamps.needs_lookup(TERM, at(1_000)), "nothing is known of the term yet");
        drop(stamps.stamp(TERM, at(100)));
        assert!(stamps.needs_lookup(TERM, at(99)) && !stamps.needs_lookup(TERM, at(100)));
        stamps.raise_lookup_floor(TERM, at(150));
        assert!(stamps.needs_lookup(TERM, at(150)) && !stamps.needs_lookup(TERM, at(151)));
        drop(stamps.stamp(TERM + 1, at(300)));
        assert!(stamps.needs_lookup(TERM + 1, at(299)));
    }
}
