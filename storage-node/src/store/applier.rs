//! The apply threads: committed entries become data.
//!
//! One thread owns the applied state of its ranges. It writes what is waiting for many ranges as one
//! batch, each range's state in the same batch as its data, makes it visible, and only then answers.

use super::IdMap;
use super::handle::{ProposeError, ReplicaHandle};
use super::merges::{Call, Merges};
use super::range_state;
use super::shared::Shared;
use super::worker::{AppliedNotice, Task, WorkerSender};
use crate::raft_log::LogPosition;
use crate::replica::apply::{Applier, CommittedEntry, Outcome, SplitOff};
use crate::replica::command::DamagedEntry;
use crate::replica::proposals::ProposeReply;
use crossbeam_channel::Receiver;
use raft::eraftpb::{ConfChangeV2, Entry};
use rangedb_engine::{Durability, Engine, WriteBatch};
use rangedb_types::RangeId;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Most bytes written as one batch, unless one entry is larger.
const BATCH_BYTES_TARGET: usize = 4 << 20;

/// Work for an apply thread.
pub enum ApplyTask {
    /// A replica that was loaded, made, or installed anew.
    Register {
        applier: Applier,
        handle: Arc<ReplicaHandle>,
    },
    Entries {
        range_id: RangeId,
        entries: Vec<CommittedEntry>,
    },
    /// The left range waits to take this one in, as it is at its freeze.
    Yield {
        range_id: RangeId,
        call: Call,
    },
    /// What the left range waited for.
    Absorb {
        left: RangeId,
        right: Box<Applier>,
    },
    /// What the range is to take in by its next entry is here no more.
    Stuck {
        range_id: RangeId,
    },
    /// The replica is a member no more, as another node told us with proof.
    Destroy {
        range_id: RangeId,
    },
    Stop,
}

pub(super) struct Owned {
    pub(super) applier: Applier,
    pub(super) handle: Arc<ReplicaHandle>,
    removed: bool,
}

/// Answers that wait until the batch is visible.
pub(super) type Answers = Vec<(Vec<ProposeReply>, Result<(), ProposeError>)>;

/// What one range went through in a batch.
#[derive(Default)]
pub(super) struct Progress {
    changes: Vec<ConfChangeV2>,
    special: bool,
    /// Intents were placed.
    intents: bool,
    /// The bounds changed.
    pub(super) boundary: bool,
}

/// What came of an entry, and what its proposer is told.
type AppliedEntry = Result<(Outcome, Result<(), ProposeError>), DamagedEntry>;

/// Applies an entry, and counts what it brings; also gives the bytes that it frees.
fn apply_one(owned: &mut Owned, entry: &Entry, batch: &mut WriteBatch) -> (AppliedEntry, u64) {
    let (bytes_before, freed) = (batch.data_bytes(), owned.applier.freed_bytes);
    let applied = owned.applier.apply(entry, batch);
    owned.handle.add_bytes(batch.data_bytes() - bytes_before);
    let freed = owned.applier.freed_bytes - freed;
    if freed > 0 {
        owned.handle.remove_bytes(freed);
    }
    (applied, freed)
}

/// One apply thread.
pub struct ApplyThread {
    pub(super) shared: Arc<Shared>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) tasks: Receiver<ApplyTask>,
    worker: WorkerSender,
    pub(super) ranges: IdMap<RangeId, Owned>,
    pub(super) merges: Merges,
    pub(super) batch: WriteBatch,
    pub(super) answers: Answers,
    pub(super) progress: IdMap<RangeId, Progress>,
}

impl ApplyThread {
    #[must_use]
    pub fn new(shared: Arc<Shared>, tasks: Receiver<ApplyTask>, worker: WorkerSender) -> Self {
        Self {
            engine: Arc::clone(&shared.engine),
            shared,
            tasks,
            worker,
            ranges: IdMap::default(),
            merges: Merges::default(),
            batch: WriteBatch::new(),
            answers: Vec::new(),
            progress: IdMap::default(),
        }
    }

    /// Runs until it is told to stop, or until something fails that must end the process.
    ///
    /// # Errors
    /// What failed, in words.
    pub fn run(mut self) -> Result<(), String> {
        while let Ok(task) = self.tasks.recv() {
            if !self.take(task)? {
                return Ok(());
            }
            while self.batch.byte_size() < BATCH_BYTES_TARGET {
                match self.tasks.try_recv() {
                    Ok(task) => {
                        if !self.take(task)? {
                            return Ok(());
                        }
                    }
                    Err(_) => break,
                }
            }
            self.write()?;
        }
        Ok(())
    }

    /// False when it is time to stop.
    pub(super) fn take(&mut self, task: ApplyTask) -> Result<bool, String> {
        match task {
            ApplyTask::Register { applier, handle } => {
                self.write()?;
                handle.note_applied(
                    applier.applied.index,
                    applier.largest_commit,
                    &applier.descriptor,
                );
                // An installed snapshot may have brought fences and range tombstones.
                handle.bump_special_generation();
                handle.bump_special_generation();
                let range_id = applier.descriptor.range_id;
                self.give_up_merge(range_id);
                self.ranges.insert(range_id, Owned { applier, handle, removed: false });
                self.yield_ranges()?;
            }
            ApplyTask::Entries { range_id, entries } => {
                self.apply(range_id, entries)?;
                self.yield_ranges()?;
            }
            ApplyTask::Yield { range_id, call } => {
                self.merges.called_in(range_id, call);
                self.yield_ranges()?;
                self.cannot_yield(range_id)?;
            }
            ApplyTask::Absorb { left, right } => self.absorb(left, &right)?,
            ApplyTask::Stuck { range_id } => self.stuck(range_id)?,
            ApplyTask::Destroy { range_id } => {
                self.write()?;
                self.destroy(range_id)?;
            }
            ApplyTask::Stop => {
                self.write()?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn apply(
        &mut self,
        range_id: RangeId,
        entries: Vec<CommittedEntry>,
    ) -> Result<(), String> {
        let mut entries = entries.into_iter();
        while let Some(committed) = entries.next() {
            if self.merges.is_stalled(range_id) {
                self.merges.stall(range_id, std::iter::once(committed).chain(entries));
                return Ok(());
            }
            if committed.is_boundary() {
                self.write()?;
                if let Some(plan) = self.wants_merge(range_id, &committed)? {
                    self.merges.stall(range_id, std::iter::once(committed).chain(entries));
                    self.shared.call_in(&plan, range_id);
                    return Ok(());
                }
            }
            let CommittedEntry { entry, replies } = committed;
            let Some(owned) = self.ranges.get_mut(&range_id).filter(|owned| !owned.removed) else {
                self.answers.push((replies, Err(ProposeError::OutcomeUnknown)));
                continue;
            };
            let intents = owned.applier.intents_placed;
            let (applied, freed) = apply_one(owned, &entry, &mut self.batch);
            self.shared.freed_bytes.fetch_add(freed, Ordering::Relaxed);
            let (outcome, result) =
                applied.map_err(|error| format!("range {range_id} cannot go on: {error}"))?;
            let progress = self.progress.entry(range_id).or_default();
            if owned.applier.intents_placed > intents && !progress.intents {
                progress.intents = true;
                owned.handle.bump_intent_generation();
            }
            self.answers.push((replies, result));
            match outcome {
                Outcome::Written => {}
                Outcome::Special => {
                    if !progress.special {
                        progress.special = true;
                        owned.handle.bump_special_generation();
                    }
                }
                Outcome::ConfChanged(change) => progress.changes.push(change),
                Outcome::Removed(change) => {
                    progress.changes.push(change);
                    owned.removed = true;
                    self.write()?;
                    self.destroy(range_id)?;
                }
                Outcome::Check { check_id } => {
                    self.write()?;
                    self.check(range_id, check_id);
                }
                Outcome::Boundary => {
                    progress.boundary = true;
                    // Before anybody can see it, or be told of it.
                    owned.handle.set_frozen(owned.applier.frozen);
                    self.write()?;
                }
                Outcome::Split(split) => {
                    progress.boundary = true;
                    self.split(range_id, *split)?;
                }
            }
        }
        Ok(())
    }

    /// Everything before the split is written; the split itself is one durable batch. Only then may
    /// the new replica speak: one whose log is known and whose state is not would be lost.
    fn split(&mut self, range_id: RangeId, split: SplitOff) -> Result<(), String> {
        let Some(owned) = self.ranges.get(&range_id) else { return Ok(()) };
        let handle = Arc::clone(&owned.handle);
        let largest_commit = owned.applier.largest_commit;
        let right_bytes = split.right_bytes;
        handle.set_size(split.left_bytes);
        let right = range_state::split_off(
            self.engine.as_ref(),
            &mut self.batch,
            range_id,
            split,
            largest_commit,
        )?;
        handle.bump_special_generation();
        self.write_with(Durability::Synced)?;
        handle.bump_special_generation();
        let Some(right) = right else { return Ok(()) };
        tracing::info!(%range_id, right = %right.descriptor.range_id, "the range was split");
        let campaign = handle.leads();
        self.shared.adopt(right, campaign, right_bytes);
        Ok(())
    }

    pub(super) fn write(&mut self) -> Result<(), String> {
        self.write_with(Durability::Buffered)
    }

    /// Writes the batch, makes it visible, answers, and tells the Raft thread.
    pub(super) fn write_with(&mut self, durability: Durability) -> Result<(), String> {
        if self.progress.is_empty() && self.answers.is_empty() {
            return Ok(());
        }
        for (range_id, progress) in &self.progress {
            if let Some(owned) = self.ranges.get(range_id) {
                let changed = progress.boundary || !progress.changes.is_empty();
                range_state::put(&mut self.batch, &owned.applier, changed);
            }
        }
        self.engine
            .write(&self.batch, durability)
            .map_err(|error| format!("cannot write to the data store: {error}"))?;
        self.batch.clear();
        let mut notices = Vec::with_capacity(self.progress.len());
        for (range_id, progress) in self.progress.drain() {
            let Some(owned) = self.ranges.get(&range_id) else { continue };
            let applier = &owned.applier;
            owned.handle.note_applied(
                applier.applied.index,
                applier.largest_commit,
                &applier.descriptor,
            );
            if progress.special {
                owned.handle.bump_special_generation();
            }
            if progress.intents {
                owned.handle.bump_intent_generation();
            }
            notices.push(AppliedNotice {
                range_id,
                replica_id: applier.replica_id,
                position: applier.applied,
                descriptor: Arc::clone(&applier.descriptor),
                changes: progress.changes,
                boundary: progress.boundary,
                frozen: applier.frozen.is_some(),
                removed: owned.removed,
            });
        }
        // After the indexes: log upkeep reads them once it has seen that this has grown.
        self.shared.applied_batches.fetch_add(1, Ordering::Release);
        for (replies, result) in self.answers.drain(..) {
            for reply in replies {
                reply(result.clone());
            }
        }
        self.worker.send(Task::Applied(notices));
        Ok(())
    }

    /// The replica was removed from its range: its data goes, a tombstone stays.
    fn destroy(&mut self, range_id: RangeId) -> Result<(), String> {
        let Some(owned) = self.ranges.remove(&range_id) else {
            return Ok(());
        };
        let descriptor = Arc::clone(&owned.applier.descriptor);
        range_state::destroy(self.engine.as_ref(), &descriptor, owned.applier.replica_id)
            .map_err(|error| format!("cannot remove range {range_id}: {error}"))?;
        let replica_id = owned.applier.replica_id;
        self.worker.send(Task::Destroyed { range_id, replica_id });
        self.cannot_yield(range_id)
    }

    /// Computes a checksum of the range as it stands, on a thread of its own.
    fn check(&self, range_id: RangeId, check_id: u64) {
        let Some(owned) = self.ranges.get(&range_id) else { return };
        let snapshot = self.engine.snapshot();
        let (handle, applier) = (Arc::clone(&owned.handle), owned.applier.clone());
        handle.checks().begin(check_id, applier.applied.index);
        let compute = move || {
            let LogPosition { index, .. } = applier.applied;
            match range_state::checksum(snapshot.as_ref(), &applier.descriptor) {
                Ok((checksum, entries)) => {
                    let result =
                        super::checks::ChecksumResult { applied_index: index, checksum, entries };
                    handle.checks().add(check_id, result);
                }
                Err(error) => tracing::error!(%range_id, %error, "cannot compute a checksum"),
            }
        };
        let spawned = std::thread::Builder::new().name("checksum".to_owned()).spawn(compute);
        if let Err(error) = spawned {
            tracing::warn!(%range_id, %error, "cannot start a thread for a checksum");
        }
    }
}
