//! Carries out placement's orders to merge, on the node that leads both ranges: freeze the right one,
//! wait for its replicas, merge in the left one's log. See docs/ranges.md.
//!
//! Owns: the order of these steps, and the thaw of ranges whose merge cannot happen any more. Must not
//! know: what an entry does (`replica`, `store`), who wants it (placement). Invariant: a range is thawed
//! only after a replica on this node has shown that the left range is beyond the version which the
//! freeze named, without having taken the frozen one in.

use crate::replica::apply::Freeze;
use crate::replica::command::{BoundaryChange, MergeName, MergePlan};
use crate::replica::merge::merge;
use crate::store::{ReplicaHandle, ReplicaStatus, Store};
use rangedb_types::{Epoch, RangeDescriptor, RangeId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Merges that one node works on at once; placement repeats what was dropped.
const MERGES_MAX: usize = 4;
/// How long the replicas of a frozen range may take to hold its whole log.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often they are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// How often frozen ranges are looked at whose merge may have been given up.
const THAW_INTERVAL: Duration = Duration::from_millis(500);

/// An order to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeOrder {
    pub left: RangeId,
    pub left_epoch: Epoch,
    pub right: RangeId,
    pub right_epoch: Epoch,
}

/// Merges the ranges of one node.
#[derive(Clone)]
pub struct Merger {
    store: Store,
    tasks: TaskTracker,
    slots: Arc<Semaphore>,
}

impl Merger {
    #[must_use]
    pub fn new(store: Store, tasks: TaskTracker) -> Self {
        Self { store, tasks, slots: Arc::new(Semaphore::new(MERGES_MAX)) }
    }

    /// Begins a merge, or goes on with it. Fire and forget: placement looks at the next report.
    pub fn begin(&self, order: MergeOrder) {
        let (left, right) = (order.left, order.right);
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            tracing::debug!(%left, %right, "a merge was dropped: others are under way");
            return;
        };
        let merger = self.clone();
        self.tasks.spawn(async move {
            if let Err(reason) = merger.run(&order).await {
                tracing::info!(%left, %right, reason, "a merge was not made");
            }
            drop(slot);
        });
    }

    /// Makes sure that the merge which the left range's version was named for never happens.
    pub fn abort(&self, left: RangeId, version: u64) {
        let merger = self.clone();
        self.tasks.spawn(async move { merger.raise_version(left, version).await });
    }

    async fn raise_version(&self, left: RangeId, version: u64) {
        let Some(handle) = self.store.replica(left) else { return };
        let epoch = handle.descriptor().epoch;
        if epoch.version != version {
            return;
        }
        let raised = handle.change_bounds(epoch, BoundaryChange::RaiseVersion(version)).await;
        match raised {
            Ok(()) => tracing::info!(range_id = %left, "gave up a merge"),
            Err(error) => tracing::info!(range_id = %left, %error, "a merge was not given up yet"),
        }
    }

    async fn run(&self, order: &MergeOrder) -> Result<(), String> {
        let here = |range_id| self.store.replica(range_id).ok_or("a range is not here");
        let (left, right) = (here(order.left)?, here(order.right)?);
        let (left_range, right_range) = (left.descriptor(), right.descriptor());
        if right_range.epoch != order.right_epoch {
            return Err("the right range has changed since".to_owned());
        }
        merge(&left_range, order.left_epoch, &right_range).map_err(|error| error.to_string())?;
        if left.leadership().is_none() || !right.status().is_leader {
            return Err("this node does not lead both ranges".to_owned());
        }
        let left_version = left_range.epoch.version;
        let name = MergeName { left_range_id: order.left, left_version };
        let freeze = freeze(&right, &right_range, name).await?;
        if let Err(reason) = await_replicas(&right, freeze).await {
            self.raise_version(order.left, left_version).await;
            return Err(reason);
        }
        let plan = MergePlan { right: (*right_range).clone(), freeze: freeze.position };
        let merged = left.change_bounds(order.left_epoch, BoundaryChange::Merge(plan)).await;
        merged.map_err(|error| error.to_string())
    }

    /// Thaws ranges whose merge cannot happen any more, until it is cancelled.
    pub async fn thaw_forsaken(self, stop: CancellationToken) {
        let mut ticks = interval(THAW_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            for (range, freeze) in self.store.frozen_leaders() {
                let mut here = self.store.statuses().into_iter();
                if here.any(|it| is_forsaken(&it.descriptor, &range, freeze.name)) {
                    self.thaw(&range, freeze).await;
                }
            }
        }
    }

    async fn thaw(&self, range: &RangeDescriptor, freeze: Freeze) {
        let range_id = range.range_id;
        let Some(handle) = self.store.replica(range_id) else { return };
        match handle.change_bounds(range.epoch, BoundaryChange::Thaw(freeze.name)).await {
            Ok(()) => tracing::info!(%range_id, "serves again: its merge was given up"),
            Err(error) => tracing::debug!(%range_id, %error, "was not thawed yet"),
        }
    }
}

/// True if a replica shows that the merge for which a range is frozen can never happen: the left
/// range, or whoever has its last keys now, is of a later version and has not taken the range in. (The
/// left range may have been split, or taken in itself. That it is of a later version is not enough:
/// the merge makes it so, too, and the frozen replica is still here for a moment.)
pub(crate) fn is_forsaken(
    other: &RangeDescriptor,
    right: &RangeDescriptor,
    name: MergeName,
) -> bool {
    let left = other.range_id == name.left_range_id || other.span.end == right.span.start;
    left && other.epoch.version > name.left_version && !other.span.overlaps(&right.span)
}

/// Whether every replica of the right range holds its log up to the freeze.
pub(crate) fn replicas_hold(right: &ReplicaStatus, freeze: Freeze) -> Result<bool, &'static str> {
    if !right.is_leader || right.frozen != Some(freeze) {
        return Err("leadership of the right range was lost");
    }
    Ok(right.slowest_match >= freeze.position.index)
}

/// Freezes the right range, unless it is frozen for this merge already.
async fn freeze(
    right: &ReplicaHandle,
    range: &RangeDescriptor,
    name: MergeName,
) -> Result<Freeze, String> {
    match right.frozen() {
        Some(freeze) if freeze.name == name => return Ok(freeze),
        Some(_) => return Err("the right range is frozen for another merge".to_owned()),
        None => {}
    }
    let frozen = right.change_bounds(range.epoch, BoundaryChange::Freeze(name)).await;
    frozen.map_err(|error| error.to_string())?;
    let freeze = right.frozen().filter(|freeze| freeze.name == name);
    freeze.ok_or_else(|| "the right range was thawed again".to_owned())
}

/// Waits until every replica of the right range holds its log up to the freeze.
async fn await_replicas(right: &ReplicaHandle, freeze: Freeze) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if replicas_hold(&right.status(), freeze)? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err("a replica of the right range does not keep up".to_owned());
        }
        sleep(LOOK_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_types::Span;

    const NAME: MergeName = MergeName { left_range_id: RangeId(1), left_version: 4 };

    fn range(id: u64, start: &str, end: &str, version: u64) -> RangeDescriptor {
        RangeDescriptor {
            range_id: RangeId(id),
            span: Span { start: start.into(), end: end.into() },
            epoch: Epoch { version, conf_version: 1 },
            replicas: Vec::new(),
        }
    }

    /// The merge raises the version, too: a thaw right after it would let writes into a range that
    /// is gone, on nodes that have not merged yet.
    #[test]
    fn a_range_that_was_just_merged_is_not_thawed() {
        let right = range(2, "m", "x", 7);
        assert!(!is_forsaken(&range(1, "b", "x", 8), &right, NAME));
        assert!(is_forsaken(&range(1, "b", "m", 5), &right, NAME));
        assert!(!is_forsaken(&range(1, "b", "m", 4), &right, NAME));
        assert!(!is_forsaken(&range(3, "a", "b", 9), &right, NAME));
    }

    /// Nobody would thaw it otherwise: the range that the freeze names is gone.
    #[test]
    fn a_range_whose_left_neighbour_was_itself_merged_or_split_is_thawed() {
        let right = range(2, "m", "x", 7);
        assert!(is_forsaken(&range(5, "a", "m", 6), &right, NAME), "the neighbour was taken in");
        assert!(is_forsaken(&range(6, "g", "m", 5), &right, NAME), "the neighbour was split");
        assert!(is_forsaken(&range(1, "b", "g", 5), &right, NAME), "the neighbour was split");
    }
}
