//! The Raft threads. One thread drives many replicas: drain the inbox, step, collect what is ready
//! of all of them, send what may be sent, write the log once for all with one fsync, send the rest.

use super::applier::ApplyTask;
use super::handle::{Leadership, ReplicaHandle};
use super::hosted::Hosted;
use super::news::Reporter;
use super::shared::Shared;
use super::sleepers::Sleepers;
use super::splits::EarlyVotes;
use super::{IdMap, IdSet};
use crate::raft_log::{LogChange, LogPosition, LogWrite};
use crate::replica::Input;
use crate::replica::apply::Applier;
use crate::snapshot::{InstallDone, StagedSnapshot};
use crate::transport::{Inbound, Outbound};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use raft::eraftpb::ConfChangeV2;
use rangedb_types::{MonotonicTime, RangeDescriptor, RangeId, ReplicaId};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Tasks from outside the store that may wait for one thread.
const INBOX_TASKS_MAX: usize = 100_000;
/// Tasks taken before the ready work is collected.
const DRAIN_MAX: usize = 16_384;

/// Below this many tasks in a pass, others get a turn of the processor before the log is written…
const GATHER_TASKS: usize = 256;
/// …this many times a pass.
const GATHER_YIELDS: u32 = 3;

/// What was applied to one range.
pub struct AppliedNotice {
    pub range_id: RangeId,
    pub replica_id: ReplicaId,
    pub position: LogPosition,
    pub descriptor: Arc<RangeDescriptor>,
    pub changes: Vec<ConfChangeV2>,
    /// The range's bounds changed.
    pub boundary: bool,
    pub frozen: bool,
    pub removed: bool,
}

/// What a Raft thread can be asked.
pub enum Task {
    Replica {
        range_id: RangeId,
        input: Input,
    },
    Inbound(Box<Inbound>),
    Staged {
        staged: Box<StagedSnapshot>,
        done: InstallDone,
    },
    Installed {
        range_id: RangeId,
        result: Result<(), String>,
    },
    SnapshotSent {
        range_id: RangeId,
        to: ReplicaId,
        installed: bool,
    },
    Bootstrap {
        descriptor: RangeDescriptor,
        done: Box<dyn FnOnce(Result<(), String>) + Send>,
    },
    Applied(Vec<AppliedNotice>),
    /// The right part of a range that was split; its state is on disk.
    Adopt {
        applier: Box<Applier>,
        campaign: bool,
        bytes: u64,
    },
    Destroyed {
        range_id: RangeId,
        replica_id: ReplicaId,
    },
    /// Another range's log proves that this much of the range's log is committed.
    ForceCommit {
        range_id: RangeId,
        position: LogPosition,
    },
    /// Another range, of this version, has its first key now.
    MergedAway {
        range_id: RangeId,
        version: u64,
    },
    /// What the range is to take in by its next entry is here no more.
    CannotMerge {
        range_id: RangeId,
    },
    /// The applied index of each range that is durable in the data store.
    Compact {
        durable: Arc<IdMap<RangeId, u64>>,
        force: Arc<IdSet<ReplicaId>>,
    },
    Stop,
}

/// The way to a Raft thread. What comes from outside is bounded; what the store's own threads send
/// is bounded by what they were given.
#[derive(Clone)]
pub struct WorkerSender {
    sender: Sender<Task>,
    waiting: Arc<AtomicUsize>,
}

impl WorkerSender {
    #[must_use]
    pub fn new(sender: Sender<Task>) -> Self {
        Self { sender, waiting: Arc::new(AtomicUsize::new(0)) }
    }

    /// False if too much is waiting or the thread has ended.
    #[must_use]
    pub fn try_send(&self, task: Task) -> bool {
        if self.waiting.load(Ordering::Relaxed) >= INBOX_TASKS_MAX {
            return false;
        }
        self.send(task)
    }

    /// For the store's own threads: never refused while the thread runs.
    pub fn send(&self, task: Task) -> bool {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.sender.send(task).is_ok()
    }

    pub(super) fn note_taken(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One Raft thread.
pub struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Receiver<Task>,
    pub(super) sender: WorkerSender,
    pub(super) appliers: Sender<ApplyTask>,
    pub(super) replicas: IdMap<RangeId, Hosted>,
    /// Ranges with something to collect.
    pub(super) touched: IdSet<RangeId>,
    pub(super) early_votes: EarlyVotes,
    pub(super) sleepers: Sleepers,
    pub(super) outbound: Vec<Outbound>,
}

impl Worker {
    /// Runs until told to stop or something fails that must end the process.
    ///
    /// # Errors
    /// What failed, in words.
    pub fn run(mut self) -> Result<(), String> {
        let tick = self.shared.settings.replica.tick;
        let mut next_tick = self.shared.clock.now() + tick;
        loop {
            let now = self.shared.clock.now();
            if !self.drain(next_tick.since(now))? {
                self.stop();
                return Ok(());
            }
            let now = self.shared.clock.now();
            if now >= next_tick {
                self.tick(now);
                // Ticks that were missed stay missed: a burst of them would cut leases short.
                next_tick = now + tick;
            }
            self.process(now)?;
        }
    }

    /// Takes what waits. False when it is time to stop.
    fn drain(&mut self, wait: Duration) -> Result<bool, String> {
        let wait = if self.touched.is_empty() { wait } else { Duration::ZERO };
        let mut next = match self.inbox.recv_timeout(wait) {
            Ok(task) => Some(task),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        };
        let (mut taken, mut gathered) = (0, 0);
        while let Some(task) = next {
            self.sender.note_taken();
            if matches!(task, Task::Stop) {
                return Ok(false);
            }
            self.take(task)?;
            taken += 1;
            next = if taken < DRAIN_MAX { self.inbox.try_recv().ok() } else { None };
            if next.is_none() && taken < GATHER_TASKS && gathered < GATHER_YIELDS {
                // Whoever is about to ask gets its turn first: its work then shares this fsync.
                gathered += 1;
                std::thread::yield_now();
                next = self.inbox.try_recv().ok();
            }
        }
        self.shared.metrics.inbox_drained.observe(taken as f64);
        Ok(true)
    }

    pub(super) fn take(&mut self, task: Task) -> Result<(), String> {
        let now = self.shared.clock.now();
        match task {
            Task::Replica { range_id, input } => self.input(range_id, input, now),
            Task::Inbound(inbound) => self.inbound(*inbound, now),
            Task::Staged { staged, done } => self.staged(*staged, done, now),
            Task::Installed { range_id, result } => self.installed(range_id, result)?,
            Task::SnapshotSent { range_id, to, installed } => {
                self.input(range_id, Input::SnapshotSent { to, installed }, now);
            }
            Task::Bootstrap { descriptor, done } => done(self.bootstrap(descriptor, now)),
            Task::Applied(notices) => self.applied(notices, now),
            Task::Adopt { applier, campaign, bytes } => {
                self.adopt_split(*applier, campaign, bytes, now)?;
            }
            Task::Destroyed { range_id, replica_id } => self.destroyed(range_id, replica_id)?,
            Task::ForceCommit { range_id, position } => {
                if let Some(hosted) = self.replicas.get_mut(&range_id)
                    && !hosted.core.is_busy()
                {
                    hosted.core.force_commit(position);
                    self.touched.insert(range_id);
                }
            }
            Task::MergedAway { range_id, version } => self.merged_away(range_id, version),
            Task::CannotMerge { range_id } => self.cannot_merge(range_id),
            Task::Compact { durable, force } => self.compact(&durable, &force)?,
            Task::Stop => unreachable!("the caller looks for it first"),
        }
        Ok(())
    }

    pub(super) fn input(&mut self, range_id: RangeId, input: Input, now: MonotonicTime) {
        match self.replicas.get_mut(&range_id) {
            Some(hosted) => {
                hosted.step(input, now);
                self.touched.insert(range_id);
            }
            None => Hosted::refuse(input),
        }
    }

    fn applied(&mut self, notices: Vec<AppliedNotice>, now: MonotonicTime) {
        for notice in notices {
            let same = |hosted: &&mut Hosted| hosted.core.replica_id == notice.replica_id;
            let Some(hosted) = self.replicas.get_mut(&notice.range_id).filter(same) else {
                continue;
            };
            if notice.boundary || !notice.changes.is_empty() {
                self.shared.changed.notify_waiters();
            }
            if notice.removed {
                // Its end comes as `Destroyed`; until then it must not speak.
                continue;
            }
            hosted.step(
                Input::Applied {
                    position: notice.position,
                    descriptor: notice.descriptor,
                    changes: notice.changes,
                    frozen: notice.frozen,
                },
                now,
            );
            if notice.boundary {
                hosted.core.announce_commit();
            }
            self.touched.insert(notice.range_id);
        }
    }

    /// Collects and performs what is ready, once for all touched replicas.
    pub(super) fn process(&mut self, now: MonotonicTime) -> Result<(), String> {
        let touched = std::mem::take(&mut self.touched);
        let mut log = LogWrite::default();
        let mut sync = false;
        let mut written = Vec::with_capacity(touched.len());
        for range_id in touched {
            let Some(hosted) = self.replicas.get_mut(&range_id) else { continue };
            hosted.tell_of_nap();
            if !hosted.core.is_asleep() {
                self.sleepers.note_awake(range_id);
            }
            let Some(effects) = hosted.core.ready(now) else {
                hosted.discard_staged(&self.shared);
                hosted.publish(&self.shared);
                continue;
            };
            sync |= effects.must_sync;
            hosted.send(effects.send_now, &self.shared, &self.sender, &mut self.outbound);
            Self::hand_over(&self.appliers, range_id, effects.apply);
            log.changes.extend(effects.log);
            if effects.install.is_some() {
                hosted.install(&self.shared, &self.sender);
            } else {
                hosted.discard_staged(&self.shared);
                written.push(range_id);
            }
        }
        self.flush_outbound();
        self.write_log(log, sync)?;
        for range_id in written {
            self.persisted(range_id, now);
        }
        self.flush_outbound();
        Ok(())
    }

    pub(super) fn persisted(&mut self, range_id: RangeId, now: MonotonicTime) {
        let Some(hosted) = self.replicas.get_mut(&range_id) else { return };
        let persisted = hosted.core.persisted();
        hosted.send(persisted.send, &self.shared, &self.sender, &mut self.outbound);
        Self::hand_over(&self.appliers, range_id, persisted.apply);
        hosted.release_held(now);
        hosted.publish(&self.shared);
        // What persisting made ready is collected in the next pass, with whatever arrived meanwhile.
        self.touched.insert(range_id);
    }

    fn hand_over(
        appliers: &Sender<ApplyTask>,
        range_id: RangeId,
        entries: Vec<crate::replica::apply::CommittedEntry>,
    ) {
        if !entries.is_empty() {
            // The apply thread only ends before this one when the process is failing.
            let _ = appliers.send(ApplyTask::Entries { range_id, entries });
        }
    }

    pub(super) fn write_log(&self, log: LogWrite, sync: bool) -> Result<(), String> {
        if log.is_empty() {
            return Ok(());
        }
        let timer = self.shared.metrics.log_write_seconds.start_timer();
        // A failed write or fsync is never retried: what is on disk is unknown then.
        self.shared.log.write(log, sync).map_err(|error| error.to_string())?;
        timer.observe_duration();
        Ok(())
    }

    fn flush_outbound(&mut self) {
        if !self.outbound.is_empty() {
            self.shared.sender.send(std::mem::take(&mut self.outbound));
        }
    }

    /// Cuts logs whose applied state is durable.
    fn compact(
        &mut self,
        durable: &IdMap<RangeId, u64>,
        force: &IdSet<ReplicaId>,
    ) -> Result<(), String> {
        let mut log = LogWrite::default();
        for (range_id, index) in durable {
            let Some(hosted) = self.replicas.get_mut(range_id) else { continue };
            let force = force.contains(&hosted.core.replica_id);
            let Some(change) = hosted.core.compaction(*index, force) else { continue };
            if let LogChange::Truncate { position, .. } = &change {
                hosted.core.note_compacted(*position);
            }
            log.changes.push(change);
        }
        self.write_log(log, false)
    }

    fn stop(&mut self) {
        for hosted in self.replicas.values_mut() {
            hosted.stop();
        }
        // Whoever else waits in the inbox is answered by its reply being dropped.
    }
}

impl Drop for Worker {
    /// However this thread ends, its apply thread ends too: nobody else would tell it.
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.appliers.send(ApplyTask::Stop);
    }
}

/// The leadership to publish: only once this leader knows all that was committed before it.
#[must_use]
pub fn leadership_of(core: &crate::replica::Replica) -> Option<Leadership> {
    core.leadership_established()
        .then(|| Leadership { term: core.term(), epoch: core.descriptor().epoch })
}

/// For the handle's use at creation.
#[must_use]
pub fn new_handle(
    shared: &Shared,
    sender: &WorkerSender,
    replica_id: ReplicaId,
    descriptor: Arc<RangeDescriptor>,
) -> Arc<ReplicaHandle> {
    let reporter = Reporter::new(Arc::clone(&shared.news), descriptor.range_id);
    let clock = Arc::clone(&shared.clock);
    Arc::new(ReplicaHandle::new(replica_id, descriptor, sender.clone(), clock, reporter))
}
