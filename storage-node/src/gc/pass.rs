//! One pass over one range.

use super::{Abandoned, metrics};
use crate::store::{Leadership, ProposeError, ReplicaHandle};
use crate::write::Stamps;
use rangedb_engine::Engine;
use rangedb_mvcc::collect::{CollectLimits, Garbage, collect, rest_of, spent_tombstones};
use rangedb_mvcc::state::{GcState, RangeRecord as _};
use rangedb_mvcc::txn::{ActionError, intents_below};
use rangedb_mvcc::{Mutation, MvccError, TombstoneSet};
use rangedb_proto::internal::v1 as wire;
use rangedb_types::{Span, Timestamp};
use std::sync::Arc;

/// What one look at the engine covers, and one entry of the log removes.
const LIMITS: CollectLimits = CollectLimits { versions_max: 20_000, removals_max: 2_000 };
/// Intents of transactions that are over which one pass names.
const INTENTS_MAX: usize = 1024;
/// Removals in one proposal.
const REMOVALS_PER_ENTRY: usize = 500;

/// Why a pass was broken off; the next round begins another.
#[derive(Debug, thiserror::Error)]
pub(super) enum PassError {
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error(transparent)]
    Mvcc(#[from] MvccError),
    #[error(transparent)]
    Intents(#[from] ActionError),
    #[error("writes from before the safe point are still under way")]
    UnderWay,
    #[error("the node is stopping")]
    Stopping,
}

/// What a whole pass came to.
pub(super) struct PassEnd {
    /// There is more to do at a later safe point.
    pub(super) more_later: bool,
}

pub(super) struct Pass<'a> {
    pub(super) engine: &'a Arc<dyn Engine>,
    pub(super) handle: &'a ReplicaHandle,
    pub(super) stamps: &'a Stamps,
    /// As it was when the pass began: once the bounds change, nothing it proposes is applied.
    pub(super) leadership: Leadership,
    pub(super) safe_point: Timestamp,
    pub(super) abandoned: &'a Abandoned,
}

impl Pass<'_> {
    pub(super) async fn run(&self) -> Result<PassEnd, PassError> {
        let range = self.handle.descriptor();
        if range.epoch.version != self.leadership.epoch.version {
            return Err(ProposeError::EpochMismatch.into());
        }
        // Writes of one key may be applied in another order than their versions': what an older one is
        // under way to would be found by nobody who saw the newer one removed.
        if !self.stamps.close(self.leadership.term, self.safe_point) {
            return Err(PassError::UnderWay);
        }
        let mut span = range.span.clone();
        let mut end = PassEnd { more_later: false };
        let mut announced = false;
        loop {
            let page = self.look(range.span.clone(), span.clone()).await?;
            end.more_later |= page.more_later || !page.open.is_empty();
            self.abandoned.add(Vec::new(), page.open);
            if !page.removals.is_empty() {
                if !announced {
                    self.announce().await?;
                    announced = true;
                }
                self.remove(page.removals, page.bytes).await?;
            }
            match page.resume {
                Some(resume) => span = rest_of(&span, resume),
                None => break,
            }
        }
        let spent = self.spent(range.span.clone()).await?;
        if !spent.is_empty() {
            if !announced {
                self.announce().await?;
            }
            self.remove(spent, 0).await?;
        }
        end.more_later |= self.look_for_intents(range.span.clone()).await?;
        metrics::PASSES.inc();
        Ok(end)
    }

    /// Names intents of transactions that began at or below the safe point: they are over. True if there are
    /// any, or such as will be.
    async fn look_for_intents(&self, whole: Span) -> Result<bool, PassError> {
        let (engine, safe_point) = (Arc::clone(self.engine), self.safe_point);
        let looking = tokio::task::spawn_blocking(move || {
            let snapshot = engine.snapshot();
            let old = intents_below(&*snapshot, &whole, safe_point, INTENTS_MAX)?.intents;
            let any = match old.as_slice() {
                [] => !intents_below(&*snapshot, &whole, Timestamp::MAX, 1)?.intents.is_empty(),
                _ => true,
            };
            Ok::<_, ActionError>((old, any))
        });
        let (old, any) = looking.await.map_err(|_| PassError::Stopping)??;
        self.abandoned.add(old, Vec::new());
        Ok(any)
    }

    async fn look(&self, whole: Span, span: Span) -> Result<Garbage, PassError> {
        let (engine, safe_point) = (Arc::clone(self.engine), self.safe_point);
        let looking = tokio::task::spawn_blocking(move || {
            let snapshot = engine.snapshot();
            let tombstones = TombstoneSet::load(&*snapshot, &whole)?;
            collect(&*snapshot, &tombstones, &span, safe_point, LIMITS)
        });
        Ok(looking.await.map_err(|_| PassError::Stopping)??)
    }

    async fn spent(&self, whole: Span) -> Result<Vec<Mutation>, PassError> {
        let (engine, safe_point) = (Arc::clone(self.engine), self.safe_point);
        let looking = tokio::task::spawn_blocking(move || {
            spent_tombstones(&*engine.snapshot(), &whole, safe_point)
        });
        Ok(looking.await.map_err(|_| PassError::Stopping)??)
    }

    /// Replicates the safe point: from then on no read below it is begun.
    async fn announce(&self) -> Result<(), PassError> {
        let state = GcState { safe_point: self.safe_point };
        let key = GcState::key(self.handle.range_id());
        let record = Mutation::put(rangedb_engine::Family::Meta, key, state.encode());
        self.propose(vec![record], 0).await
    }

    async fn remove(&self, removals: Vec<Mutation>, bytes: u64) -> Result<(), PassError> {
        let count = removals.len() as u64;
        let entries = count.div_ceil(REMOVALS_PER_ENTRY as u64).max(1);
        let mut rest = removals.into_iter().peekable();
        while rest.peek().is_some() {
            let part = rest.by_ref().take(REMOVALS_PER_ENTRY).collect();
            self.propose(part, bytes / entries).await?;
        }
        metrics::VERSIONS.inc_by(count);
        Ok(())
    }

    async fn propose(&self, mutations: Vec<Mutation>, freed_bytes: u64) -> Result<(), PassError> {
        let mutations = mutations.into_iter().map(|mutation| wire::Mutation {
            family: mutation.family.number(),
            key: mutation.key,
            value: mutation.value,
        });
        let mutations = mutations.collect();
        let command = wire::WriteCommand { mutations, commit_version: 0, freed_bytes };
        Ok(self.handle.propose(self.leadership, command).await?)
    }
}
