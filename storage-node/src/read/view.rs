//! A snapshot of the engine with what belongs to it.

use super::metrics;
use crate::access::{Refusal, Target};
use parking_lot::Mutex;
use rangedb_engine::{Engine, Snapshot};
use rangedb_mvcc::state::{GcState, RangeRecord as _};
use rangedb_mvcc::{FenceSet, TombstoneSet};
use rangedb_types::Timestamp;
use std::sync::Arc;

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

/// The number of changes around a snapshot.
#[derive(Clone, Copy)]
pub struct Generations {
    pub before: u64,
    pub after: u64,
}

impl Generations {
    /// The generation the snapshot shows, if that is certain.
    fn settled(self) -> Option<u64> {
        (self.before == self.after && self.before.is_multiple_of(2)).then_some(self.before)
    }
}

/// One range as of one moment.
pub struct View {
    pub snapshot: Arc<dyn Snapshot>,
    pub specials: Arc<Specials>,
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
        let before = target.access().special_generation();
        let snapshot = engine.snapshot();
        let after = target.access().special_generation();
        if !leased() {
            return Ok(None);
        }
        Self::with(snapshot, target, Generations { before, after }).map(Some)
    }

    /// Refuses a read of versions that may be gone. The snapshot was taken before, so what it shows at
    /// or above the safe point is whole.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn check_version(&self, read_version: Timestamp) -> Result<(), Refusal> {
        if read_version >= self.specials.safe_point {
            return Ok(());
        }
        Err(Refusal::Invalid(
            "the read version is older than what is kept (gc_retention); read at a newer one"
                .to_owned(),
        ))
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
            return Ok(Self { snapshot, specials });
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
        Ok(Self { snapshot, specials })
    }
}
