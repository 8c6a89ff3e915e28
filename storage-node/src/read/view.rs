//! A snapshot of the engine with what belongs to it.

use super::metrics;
use crate::access::{RangeAccess, Refusal, Target};
use parking_lot::Mutex;
use rangedb_engine::{Engine, Snapshot};
use rangedb_mvcc::state::{AppliedState, GcState, RangeRecord as _, RangeState};
use rangedb_mvcc::txn::intents_below;
use rangedb_mvcc::{FenceSet, TombstoneSet};
use rangedb_types::{RangeDescriptor, Timestamp};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The rare records of a range that almost every request has to know.
#[derive(Debug, Default)]
pub struct Specials {
    pub fences: FenceSet,
    pub tombstones: TombstoneSet,
    /// Reads below it are promised nothing.
    pub safe_point: Timestamp,
}

/// Keeps the specials of one replica, so that they are read from the engine only when they changed.
///
/// The replica counts changes: odd while one is being applied. What was loaded from a snapshot is
/// kept only if the count was the same, even number before and after the snapshot was taken; the
/// same rule says when what was kept belongs to another snapshot.
#[derive(Default)]
pub struct SpecialsCache {
    kept: Mutex<Option<(u64, Arc<Specials>)>>,
}

impl SpecialsCache {
    /// The specials as of this generation, if they are kept.
    #[must_use]
    pub fn at(&self, generation: u64) -> Option<Arc<Specials>> {
        let kept = self.kept.lock();
        let (kept_at, specials) = kept.as_ref()?;
        (*kept_at == generation).then(|| Arc::clone(specials))
    }

    fn keep(&self, generation: u64, specials: Arc<Specials>) {
        *self.kept.lock() = Some((generation, specials));
    }
}

/// Remembers that a range holds no intents, so that plain writes need not look for one. They hold the
/// latches of their keys, and an intent is applied before its latch is given up: so what was not there
/// at the present count of placed intents is not there now.
#[derive(Default)]
pub struct IntentHint {
    none_at: Mutex<Option<Counts>>,
    looked_at: Mutex<Option<Instant>>,
}

impl IntentHint {
    /// True if the range surely holds no intent.
    #[must_use]
    pub fn none(&self, access: &dyn RangeAccess) -> bool {
        let counts = Counts::of(access);
        counts.are_even() && *self.none_at.lock() == Some(counts)
    }

    /// True if it is time to look again whether there are any.
    fn is_due(&self) -> bool {
        let mut looked_at = self.looked_at.lock();
        let due = looked_at.is_none_or(|at| at.elapsed() >= LOOK_FOR_INTENTS_EVERY);
        if due {
            *looked_at = Some(Instant::now());
        }
        due
    }
}

/// How often, at most, a range that had intents is looked through for any.
const LOOK_FOR_INTENTS_EVERY: Duration = Duration::from_millis(100);

/// Changes of what requests keep of a range, counted by the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    special: u64,
    intents: u64,
}

impl Counts {
    #[must_use]
    pub fn of(access: &dyn RangeAccess) -> Self {
        Self { special: access.special_generation(), intents: access.intent_generation() }
    }

    const fn are_even(self) -> bool {
        self.special.is_multiple_of(2) && self.intents.is_multiple_of(2)
    }
}

/// The counts around a snapshot.
#[derive(Clone, Copy)]
pub struct Generations {
    pub before: Counts,
    pub after: Counts,
}

impl Generations {
    /// The special generation the snapshot shows, if that is certain.
    fn settled(self) -> Option<u64> {
        let (before, after) = (self.before.special, self.after.special);
        (before == after && before.is_multiple_of(2)).then_some(before)
    }

    /// All that the snapshot shows, if that is certain.
    fn all_settled(self) -> Option<Counts> {
        (self.before == self.after && self.before.are_even()).then_some(self.before)
    }
}

/// One range as of one moment.
pub struct View {
    pub snapshot: Arc<dyn Snapshot>,
    pub specials: Arc<Specials>,
    generations: Generations,
}

/// How the leader is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// By the lease, now.
    Lease,
    /// A ReadIndex round did it already.
    Done,
    /// Not at all: for what is only a guess that consensus will check.
    Unneeded,
}

impl View {
    /// A range without special records, of which nothing else changes the snapshot's store.
    #[cfg(feature = "fault-injection")]
    #[must_use]
    pub fn alone(snapshot: Arc<dyn Snapshot>) -> Self {
        let counts = Counts { special: 0, intents: 0 };
        let generations = Generations { before: counts, after: counts };
        Self { snapshot, specials: Arc::default(), generations }
    }

    /// Takes a snapshot; `None` if the lease does not hold. Blocks on the engine.
    pub fn open(
        engine: &dyn Engine,
        target: &Target,
        confirm: Confirm,
    ) -> Result<Option<Self>, Refusal> {
        let leased = || confirm != Confirm::Lease || target.access().lease_holds(target.term());
        if !leased() {
            return Ok(None);
        }
        let before = Counts::of(target.access());
        let snapshot = engine.snapshot();
        let after = Counts::of(target.access());
        if !leased() {
            return Ok(None);
        }
        Self::with(snapshot, target, Generations { before, after }).map(Some)
    }

    /// One replica's state in a snapshot, whoever leads: what bounds it has there, and what is applied, the
    /// snapshot itself says. `None` if it holds none of this replica.
    pub fn of_replica(
        snapshot: Arc<dyn Snapshot>,
        access: &dyn RangeAccess,
    ) -> Result<Option<(Self, RangeDescriptor, u64)>, Refusal> {
        let range_id = access.range_id();
        let state = RangeState::load(&*snapshot, range_id)?;
        let (Some(state), Some(applied)) = (state, AppliedState::load(&*snapshot, range_id)?)
        else {
            return Ok(None);
        };
        if state.replica_id != access.replica_id() {
            return Ok(None);
        }
        let safe_point = GcState::load(&*snapshot, range_id)?.unwrap_or_default().safe_point;
        let tombstones = TombstoneSet::load(&*snapshot, &state.descriptor.span)?;
        let specials = Arc::new(Specials { fences: FenceSet::default(), tombstones, safe_point });
        let none = Counts { special: 1, intents: 1 };
        let view =
            Self { snapshot, specials, generations: Generations { before: none, after: none } };
        Ok(Some((view, state.descriptor, applied.index)))
    }

    /// Refuses a read of versions that may be gone. The snapshot was taken before, so what it shows at
    /// or above the safe point is whole.
    ///
    /// # Errors
    /// `TooOld`.
    pub fn check_version(&self, read_version: Timestamp) -> Result<(), Refusal> {
        if read_version >= self.specials.safe_point {
            return Ok(());
        }
        Err(Refusal::TooOld)
    }

    /// Remembers for writes to come that the range holds no intents, if that is so. Looks seldom.
    ///
    /// # Errors
    /// Engine errors and damage.
    pub fn look_for_intents(&self, target: &Target) -> Result<(), Refusal> {
        let hint = &target.state().intents;
        let Some(counts) = self.generations.all_settled().filter(|_| hint.is_due()) else {
            return Ok(());
        };
        let found = intents_below(&*self.snapshot, target.span(), Timestamp::MAX, 1)?;
        if found.intents.is_empty() {
            *hint.none_at.lock() = Some(counts);
        }
        Ok(())
    }

    /// Completes a snapshot that was taken under confirmed leadership.
    pub fn with(
        snapshot: Arc<dyn Snapshot>,
        target: &Target,
        generations: Generations,
    ) -> Result<Self, Refusal> {
        if !target.is_current() {
            return Err(target.outdated());
        }
        let cache = &target.state().specials;
        let settled = generations.settled();
        if let Some(specials) = settled.and_then(|generation| cache.at(generation)) {
            return Ok(Self { snapshot, specials, generations });
        }
        metrics::SPECIALS_LOADED.inc();
        let specials = Arc::new(Specials {
            fences: FenceSet::load(&*snapshot, target.range_id())?,
            tombstones: TombstoneSet::load(&*snapshot, target.span())?,
            safe_point: GcState::load(&*snapshot, target.range_id())?
                .unwrap_or_default()
                .safe_point,
        });
        if let Some(generation) = settled {
            cache.keep(generation, Arc::clone(&specials));
        }
        Ok(Self { snapshot, specials, generations })
    }
}
