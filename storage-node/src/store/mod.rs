//! Every replica of this node: the Raft threads that drive them, the apply threads behind those, and
//! the handles by which the rest of the process reaches them.
//!
//! Owns: which replicas exist here and what they have applied. Must not know: gRPC, placement, the
//! meaning of a write. Invariants: a replica belongs to one Raft thread and one apply thread for its
//! whole life; a failed write to the log or the data ends the process.

mod applier;
pub mod checks;
mod claims;
pub mod closed;
pub mod handle;
mod hosted;
mod lifecycle;
mod load;
mod maintenance;
mod merges;
mod news;
mod peers;
mod raft_logger;
mod range_state;
mod registry;
pub mod settings;
mod shared;
mod size;
mod sleepers;
mod splits;
mod start;
#[cfg(test)]
pub(crate) mod stepped;
mod worker;

pub use handle::{Leadership, ProposeError, ReadError, ReplicaHandle, ReplicaStatus};
pub use settings::StoreSettings;
pub use start::StoreOptions;

use crate::replica::apply::Freeze;
use crate::replica::command::{BoundaryChange, SplitPlan};
use crate::replica::membership::ReplicaChangeKind;
use crate::snapshot::{InstallDone, SnapshotReceiver, StagedSnapshot};
use crate::transport::{Inbound, RaftReceiver};
use rangedb_types::{
    Epoch, MonotonicTime, NodeId, RangeDescriptor, RangeId, Replica, ReplicaId, Span,
};
use shared::Shared;
use start::Threads;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use worker::{Task, WorkerSender};

/// Why the store refused.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0}")]
    Load(String),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("cannot make the range: {0}")]
    Bootstrap(String),
    #[error("the node is stopping")]
    Stopping,
}

/// The replicas of this node.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    workers: Arc<Vec<WorkerSender>>,
    threads: Arc<Threads>,
}

impl Store {
    /// Loads every replica and starts the threads.
    ///
    /// # Errors
    /// `Load` if something on disk is damaged; the node must not start then.
    pub fn start(options: StoreOptions) -> Result<Self, StoreError> {
        start::start(options)
    }

    fn worker(&self, range_id: RangeId) -> &WorkerSender {
        &self.workers[worker_index(range_id, self.workers.len())]
    }

    /// The time by which leases are reckoned.
    #[must_use]
    pub fn now(&self) -> MonotonicTime {
        self.shared.clock.now()
    }

    /// All initialised replicas of this node.
    #[must_use]
    pub fn replicas(&self) -> Vec<Arc<ReplicaHandle>> {
        self.shared.registry.read().handles().map(Arc::clone).collect()
    }

    /// The replica of a range on this node, once it is initialised.
    #[must_use]
    pub fn replica(&self, range_id: RangeId) -> Option<Arc<ReplicaHandle>> {
        self.shared.registry.read().get(range_id).cloned()
    }

    /// The ranges of this node that overlap a span.
    #[must_use]
    pub fn overlapping(&self, span: &Span) -> Vec<RangeDescriptor> {
        let registry = self.shared.registry.read();
        registry.overlapping(span).map(|handle| (*handle.descriptor()).clone()).collect()
    }

    /// Every replica at a glance. There may be very many: not for anything that is done often.
    #[must_use]
    pub fn statuses(&self) -> Vec<ReplicaStatus> {
        self.shared.registry.read().handles().map(|handle| handle.status()).collect()
    }

    /// All ranges with a replica here.
    #[must_use]
    pub fn range_ids(&self) -> Vec<RangeId> {
        self.shared.registry.read().handles().map(|handle| handle.range_id()).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn replicas_count(&self) -> usize {
        self.shared.registry.read().len()
    }

    /// A replica at a glance, and it is listed anew once something about it changes; `None` if it is
    /// not here.
    #[must_use]
    pub fn look(&self, range_id: RangeId) -> Option<ReplicaStatus> {
        self.replica(range_id).map(|handle| handle.look())
    }

    /// The ranges that were listed since the last call: something about their replicas may have
    /// changed, or they are gone. For one caller, who looks at each of them.
    #[must_use]
    pub fn take_listed(&self) -> Vec<RangeId> {
        self.shared.news.take()
    }

    /// The frozen ranges that this node leads.
    #[must_use]
    pub fn frozen_leaders(&self) -> Vec<(Arc<RangeDescriptor>, Freeze)> {
        let registry = self.shared.registry.read();
        let frozen = registry.handles().filter_map(|handle| {
            let freeze = handle.frozen()?;
            handle.leads().then(|| (handle.descriptor(), freeze))
        });
        frozen.collect()
    }

    /// Notified when something worth reporting changed.
    #[must_use]
    pub fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.changed)
    }

    /// Makes the first replica of the first range; durable when it returns. Repeating it is harmless.
    ///
    /// # Errors
    /// `Bootstrap` if the range cannot be here.
    pub async fn bootstrap(&self, descriptor: RangeDescriptor) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let done = Box::new(move |result| {
            // Who asked may have gone away; asking again is harmless.
            let _ = reply.send(result);
        });
        self.worker(descriptor.range_id).send(Task::Bootstrap { descriptor, done });
        match answer.await {
            Ok(result) => result.map_err(StoreError::Bootstrap),
            Err(_) => Err(StoreError::Stopping),
        }
    }

    /// Asks a range's leader to change its replicas. Fire and forget: a stale command is dropped,
    /// and placement looks at the next report.
    pub fn change_replicas(
        &self,
        range_id: RangeId,
        epoch: Epoch,
        changes: Vec<(ReplicaChangeKind, Replica)>,
        leave_joint: bool,
    ) {
        if let Some(handle) = self.replica(range_id)
            && !handle.change_replicas(epoch, changes, leave_joint)
        {
            tracing::debug!(%range_id, "a change of replicas was dropped: too much is waiting");
        }
    }

    /// Asks a range's leader to hand over. Dropped if the epoch is not the range's.
    pub fn transfer_leader(&self, range_id: RangeId, epoch: Epoch, to: ReplicaId) {
        if let Some(handle) = self.replica(range_id)
            && handle.descriptor().epoch == epoch
            && !handle.transfer_leader(to)
        {
            tracing::debug!(%range_id, "a transfer was dropped: too much is waiting");
        }
    }

    /// Splits a range that this node leads; resolves when the split is applied here.
    ///
    /// # Errors
    /// `NotLeader` also if the range is not here, `EpochMismatch` if the plan does not fit the range
    /// as it is now.
    pub async fn split(
        &self,
        range_id: RangeId,
        epoch: Epoch,
        plan: SplitPlan,
    ) -> Result<(), ProposeError> {
        match self.replica(range_id) {
            Some(handle) => handle.change_bounds(epoch, BoundaryChange::Split(plan)).await,
            None => Err(ProposeError::NotLeader),
        }
    }

    /// Bytes that removals have freed on this node since it started: an estimate.
    #[must_use]
    pub fn freed_bytes(&self) -> u64 {
        self.shared.freed_bytes.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Hands every leadership to a follower that has caught up, as far as that goes within `limit`.
    pub async fn hand_leaders_away(&self, limit: Duration) {
        let deadline = tokio::time::Instant::now() + limit;
        let changed = self.changed();
        loop {
            let notified = changed.notified();
            let mut waiting = false;
            for status in self.statuses().iter().filter(|status| status.is_leader) {
                let target = status.caught_up.iter().find(|id| {
                    !status.down.contains(id)
                        && status.descriptor.replica(**id).is_some_and(|member| {
                            member.role != rangedb_types::ReplicaRole::Learner
                        })
                });
                if let Some(target) = target {
                    waiting = true;
                    let range_id = status.descriptor.range_id;
                    self.transfer_leader(range_id, status.descriptor.epoch, *target);
                }
            }
            if !waiting || tokio::time::timeout_at(deadline, notified).await.is_err() {
                return;
            }
        }
    }

    /// Stops the threads and waits for them. What waits is answered.
    pub async fn stop(&self) {
        for worker in self.workers.iter() {
            worker.send(Task::Stop);
        }
        let threads = Arc::clone(&self.threads);
        let joined = tokio::task::spawn_blocking(move || threads.join()).await;
        if let Err(error) = joined {
            tracing::error!(%error, "a thread of the store panicked");
        }
    }

    /// Resolves with the reason when the process must end.
    pub async fn failed(&self) -> String {
        let mut failed: watch::Receiver<Option<String>> = self.shared.failed.subscribe();
        // Cloned at once: what `wait_for` lends must not be held over the await below.
        let reason = failed.wait_for(Option::is_some).await.map(|reason| reason.clone());
        match reason {
            Ok(reason) => reason.unwrap_or_default(),
            // The store was dropped: it cannot fail any more.
            Err(_) => std::future::pending().await,
        }
    }
}

impl RaftReceiver for Store {
    fn deliver(&self, message: Inbound) {
        // What does not fit is dropped; Raft repeats it.
        let _ = self.worker(message.range_id).try_send(Task::Inbound(Box::new(message)));
    }

    fn opened(&self, from: NodeId) {
        self.shared.peers.opened(from, self.shared.clock.now());
    }

    fn heard(&self, from: NodeId) {
        self.shared.peers.heard(from, self.shared.clock.now());
    }
}

impl SnapshotReceiver for Store {
    fn deliver_snapshot(&self, staged: StagedSnapshot, done: InstallDone) {
        let worker = self.worker(staged.descriptor.range_id);
        worker.send(Task::Staged { staged: Box::new(staged), done });
    }
}

/// Maps of ids, walked in an order that depends on nothing but what was put in: a simulation can
/// repeat what happened. The ids are our own, so nobody can choose them to collide.
type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;
type IdSet<K> = HashSet<K, BuildHasherDefault<DefaultHasher>>;

/// Which Raft thread a range belongs to.
fn worker_index(range_id: RangeId, workers: usize) -> usize {
    usize::try_from(range_id.get() % workers as u64).expect("below the number of threads")
}
