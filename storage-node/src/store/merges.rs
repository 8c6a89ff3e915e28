//! How an apply thread merges: the left range stops at the merge until the right one, which may
//! belong to another apply thread, has come to its freeze and is handed over. See docs/ranges.md.

use super::applier::{ApplyTask, ApplyThread};
use super::handle::ProposeError;
use super::hosted::Hosted;
use super::range_state;
use super::worker::{Task, Worker};
use super::{IdMap, IdSet};
use crate::replica::apply::{Applier, CommittedEntry};
use crate::replica::command::MergePlan;
use rangedb_engine::Durability;
use rangedb_types::{Epoch, RangeId, ReplicaId, Span};
use std::collections::VecDeque;

/// The merges that one apply thread has to do with.
#[derive(Default)]
pub(super) struct Merges {
    /// Left ranges and what they are to apply, the merge first. Bounded by the apply lag of their
    /// leaders.
    stalled: IdMap<RangeId, VecDeque<CommittedEntry>>,
    /// Right ranges, and who waits for them.
    called_in: IdMap<RangeId, Call>,
    /// Left ranges that are stopped at a merge for good: only a snapshot brings them on.
    stuck: IdSet<RangeId>,
}

/// A left range waits for a right one.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The index of the right range's freeze.
    pub freeze: u64,
    pub left: RangeId,
    /// The right range's replica on this node.
    pub replica_id: Option<ReplicaId>,
}

impl Merges {
    pub(super) fn is_stalled(&self, left: RangeId) -> bool {
        self.stalled.contains_key(&left)
    }

    pub(super) fn stall(&mut self, left: RangeId, entries: impl Iterator<Item = CommittedEntry>) {
        self.stalled.entry(left).or_default().extend(entries);
    }

    pub(super) fn called_in(&mut self, right: RangeId, call: Call) {
        self.called_in.insert(right, call);
    }
}

impl ApplyThread {
    /// The merge that an entry holds, if it is to be applied.
    pub(super) fn wants_merge(
        &self,
        range_id: RangeId,
        committed: &CommittedEntry,
    ) -> Result<Option<MergePlan>, String> {
        let Some(owned) = self.ranges.get(&range_id) else { return Ok(None) };
        let wanted = owned.applier.wants_merge(&committed.entry);
        wanted.map_err(|error| format!("range {range_id} cannot go on: {error}"))
    }

    /// Hands over the right ranges that have come to their freeze.
    pub(super) fn yield_ranges(&mut self) -> Result<(), String> {
        if self.merges.called_in.is_empty() {
            return Ok(());
        }
        let arrived = self.merges.called_in.iter().filter(|(right, call)| {
            let owned = self.ranges.get(right);
            owned.is_some_and(|owned| owned.applier.applied.index >= call.freeze)
        });
        let arrived: Vec<_> = arrived.map(|(right, call)| (*right, call.left)).collect();
        if arrived.is_empty() {
            return Ok(());
        }
        self.write()?;
        for (right, left) in arrived {
            self.merges.called_in.remove(&right);
            if let Some(owned) = self.ranges.remove(&right) {
                let right = Box::new(owned.applier);
                self.shared.apply(left, ApplyTask::Absorb { left, right });
            }
        }
        Ok(())
    }

    /// A right range that is called in was removed from this node, for it was seen to be merged away,
    /// or is itself stopped at a merge before its freeze and, being frozen, will get no snapshot: the
    /// left one cannot take it in any more, and needs a snapshot.
    pub(super) fn cannot_yield(&mut self, right: RangeId) -> Result<(), String> {
        let Some(call) = self.merges.called_in.get(&right).copied() else { return Ok(()) };
        let never = if self.ranges.contains_key(&right) {
            self.merges.stuck.contains(&right)
        } else {
            let removed = range_state::tombstone(self.engine.as_ref(), right)?;
            removed.is_some() && removed >= call.replica_id
        };
        if never {
            self.merges.called_in.remove(&right);
            self.shared.send(call.left, Task::CannotMerge { range_id: call.left });
            self.shared.apply(call.left, ApplyTask::Stuck { range_id: call.left });
        }
        Ok(())
    }

    /// A range is stopped at a merge that it can never apply; so is whoever waits for that range.
    pub(super) fn stuck(&mut self, left: RangeId) -> Result<(), String> {
        if self.merges.is_stalled(left) {
            self.merges.stuck.insert(left);
            self.cannot_yield(left)?;
        }
        Ok(())
    }

    /// A snapshot brought the left range beyond a merge that it waited for.
    pub(super) fn give_up_merge(&mut self, left: RangeId) {
        self.merges.stuck.remove(&left);
        for committed in self.merges.stalled.remove(&left).into_iter().flatten() {
            self.answers.push((committed.replies, Err(ProposeError::OutcomeUnknown)));
        }
    }

    /// Applies the merge that the left range stopped at, as one durable batch, and goes on.
    pub(super) fn absorb(&mut self, left: RangeId, right: &Applier) -> Result<(), String> {
        self.write()?;
        let Some(mut entries) = self.merges.stalled.remove(&left) else { return Ok(()) };
        let Some(merge) = entries.pop_front() else { return Ok(()) };
        let Some(owned) = self.ranges.get_mut(&left) else { return Ok(()) };
        let right_range = &right.descriptor;
        owned.applier.absorb(&merge.entry, right);
        let handle = std::sync::Arc::clone(&owned.handle);
        range_state::absorb(self.engine.as_ref(), &mut self.batch, left, right)?;
        self.progress.entry(left).or_default().boundary = true;
        self.answers.push((merge.replies, Ok(())));
        let replica = self.shared.registry.read().get(right_range.range_id).cloned();
        if let Some(bytes) = replica.and_then(|replica| replica.size_bytes()) {
            handle.add_bytes(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        handle.bump_special_generation();
        self.write_with(Durability::Synced)?;
        handle.bump_special_generation();
        let (range_id, replica_id) = (right_range.range_id, right.replica_id);
        tracing::info!(range_id = %left, right = %range_id, "the ranges were merged");
        self.shared.send(range_id, Task::Destroyed { range_id, replica_id });
        self.apply(left, entries.into())
    }
}

impl Worker {
    /// A message or a snapshot shows a range as it is elsewhere, and others here must have been merged
    /// away while this node slept: they go, and what showed it is taken when it comes again.
    ///
    /// A range keeps its first key for as long as it lives. So one that is not the newest to own its
    /// first key is gone everywhere else, whatever became of the rest of its keys since.
    pub(super) fn remove_merged_away(&mut self, range_id: RangeId, span: &Span, epoch: Epoch) {
        let may_take_in =
            |hosted: &Hosted| hosted.core.is_initialised() && !hosted.core.is_all_applied();
        if self.replicas.get(&range_id).is_some_and(may_take_in) {
            // It may be about to take them in itself, and needs them for that.
            return;
        }
        let stale: Vec<_> = self
            .shared
            .registry
            .read()
            .overlapping(span)
            .map(|handle| handle.descriptor())
            .filter(|range| {
                range.range_id != range_id
                    && span.contains(&range.span.start)
                    && range.epoch.version < epoch.version
            })
            .map(|range| range.range_id)
            .collect();
        for stale in stale {
            tracing::info!(range_id = %stale, into = %range_id, "merged away while this node slept");
            self.shared.send(stale, Task::MergedAway { range_id: stale, version: epoch.version });
        }
    }

    /// A range stopped at a merge that it can never apply.
    pub(super) fn cannot_merge(&mut self, range_id: RangeId) {
        if let Some(hosted) = self.replicas.get_mut(&range_id) {
            tracing::info!(%range_id, "waits for a snapshot, for what it is to take in is gone");
            hosted.core.ask_for_snapshot();
        }
    }

    /// Another Raft thread saw that a range of this one was merged away.
    pub(super) fn merged_away(&mut self, range_id: RangeId, version: u64) {
        let older = |hosted: &Hosted| {
            let core = &hosted.core;
            core.is_initialised() && !core.is_busy() && core.descriptor().epoch.version < version
        };
        if self.replicas.get(&range_id).is_some_and(older) {
            self.destroy(range_id);
        }
    }
}
