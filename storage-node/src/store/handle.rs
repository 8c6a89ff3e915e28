//! What the rest of the process sees of one replica: readable without the Raft thread.

use super::checks::{Checks, ChecksumResult};
use super::closed::ClosedClaims;
use super::news::Reporter;
use super::shared::Metrics;
use super::size::RangeSize;
use super::worker::{Task, WorkerSender};
use crate::replica::apply::Freeze;
use crate::replica::command::BoundaryChange;
use crate::replica::lease::Lease;
use crate::replica::membership::ReplicaChangeKind;
use crate::replica::proposals::Write;
use crate::replica::{Input, Nap};
use parking_lot::RwLock;
use prost::Message as _;
use rangedb_proto::internal::v1::WriteCommand;
use rangedb_types::{
    Epoch, MonotonicClock, MonotonicTime, RangeDescriptor, RangeId, Replica, ReplicaId, Timestamp,
};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// Proof that a replica led its range in a term and had applied that term's first entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    /// The bounds version the leader had; a proposal made under another is refused at apply.
    pub epoch: Epoch,
}

/// Why a proposal did not (or may not have) come through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Surely not in any log.
    #[error("this replica does not lead the range")]
    NotLeader,
    /// Surely not applied: the range's bounds changed first.
    #[error("the range's bounds changed")]
    EpochMismatch,
    /// Surely not in any log: too much is waiting.
    #[error("too many proposals are waiting")]
    Overloaded,
    /// Surely not applied: the range is frozen for a merge.
    #[error("the range is being merged with its left neighbour")]
    Frozen,
    /// Surely not in any log: another replica is about to lead.
    #[error("the lead of the range is being handed over")]
    HandingOver,
    /// It entered a log and its fate is not known here.
    #[error("leadership was lost while the write was under way")]
    OutcomeUnknown,
    #[error("the node is stopping")]
    Stopping,
}

/// Why a read could not be confirmed. A read is always safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("this replica does not lead the range")]
    NotLeader,
    #[error("the leader has not confirmed itself yet")]
    NotReady,
    #[error("the node is stopping")]
    Stopping,
}

/// A replica at a glance, for reports and metrics.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    pub descriptor: Arc<RangeDescriptor>,
    pub replica_id: ReplicaId,
    pub leader: Option<Replica>,
    pub is_leader: bool,
    pub term: u64,
    pub applied_index: u64,
    pub last_index: u64,
    /// Followers that hold (nearly) all of the log; empty unless this replica leads.
    pub caught_up: Vec<ReplicaId>,
    /// Followers that were silent for long; empty unless this replica leads.
    pub down: Vec<ReplicaId>,
    /// Roughly, all versions counted; `None` if nobody measured yet.
    pub size_bytes: Option<u64>,
    pub frozen: Option<Freeze>,
    /// Up to where every follower holds the log; only while frozen.
    pub slowest_match: u64,
}

/// Written by the Raft thread (and the descriptor by the apply thread), read by everybody.
pub(super) struct Published {
    pub descriptor: Arc<RangeDescriptor>,
    pub leader: Option<Replica>,
    pub is_leader: bool,
    pub term: u64,
    pub last_index: u64,
    pub leadership: Option<Leadership>,
    pub lease: Lease,
    pub caught_up: Vec<ReplicaId>,
    pub down: Vec<ReplicaId>,
    pub slowest_match: u64,
}

/// One replica, as the services see it.
pub struct ReplicaHandle {
    range_id: RangeId,
    replica_id: ReplicaId,
    worker: WorkerSender,
    clock: Arc<dyn MonotonicClock>,
    published: RwLock<Published>,
    applied_index: AtomicU64,
    largest_commit: AtomicU64,
    special_generation: AtomicU64,
    intent_generation: AtomicU64,
    size: RangeSize,
    frozen: RwLock<Option<Freeze>>,
    /// Somebody read under the lease since the Raft thread last looked.
    used: AtomicBool,
    checks: Checks,
    closed: ClosedClaims,
    nap: RwLock<Option<Nap>>,
    reporter: Reporter,
}

impl ReplicaHandle {
    pub(super) fn new(
        replica_id: ReplicaId,
        descriptor: Arc<RangeDescriptor>,
        worker: WorkerSender,
        clock: Arc<dyn MonotonicClock>,
        reporter: Reporter,
    ) -> Self {
        Self {
            range_id: descriptor.range_id,
            replica_id,
            worker,
            clock,
            published: RwLock::new(Published {
                descriptor,
                leader: None,
                is_leader: false,
                term: 0,
                last_index: 0,
                leadership: None,
                lease: Lease::default(),
                caught_up: Vec::new(),
                down: Vec::new(),
                slowest_match: 0,
            }),
            applied_index: AtomicU64::new(0),
            largest_commit: AtomicU64::new(0),
            special_generation: AtomicU64::new(0),
            intent_generation: AtomicU64::new(0),
            size: RangeSize::default(),
            frozen: RwLock::new(None),
            used: AtomicBool::new(false),
            checks: Checks::default(),
            closed: ClosedClaims::default(),
            nap: RwLock::new(None),
            reporter,
        }
    }

    #[must_use]
    pub fn range_id(&self) -> RangeId {
        self.range_id
    }

    #[must_use]
    pub fn replica_id(&self) -> ReplicaId {
        self.replica_id
    }

    #[must_use]
    pub fn descriptor(&self) -> Arc<RangeDescriptor> {
        Arc::clone(&self.published.read().descriptor)
    }

    /// The leader as this replica knows it.
    #[must_use]
    pub fn leader(&self) -> Option<Replica> {
        self.published.read().leader
    }

    /// Some only while this replica leads, has applied the first entry of its term, and is not frozen
    /// for a merge.
    #[must_use]
    pub fn leadership(&self) -> Option<Leadership> {
        if self.frozen.read().is_some() {
            return None;
        }
        self.published.read().leadership
    }

    /// True while no other leader can have been elected since `term` began. Check it again after
    /// the engine snapshot was taken.
    #[must_use]
    pub fn lease_holds(&self, term: u64) -> bool {
        // Written only where it changes something: readers share the line.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        let lease = self.published.read().lease;
        lease.holds(term, self.clock.now())
    }

    /// Confirms leadership with a quorum and waits until all that was committed before is applied:
    /// then the engine is safe to read for a request that arrived before this call.
    ///
    /// # Errors
    /// A read is always safe to repeat.
    pub async fn read_index(&self) -> Result<(), ReadError> {
        let (reply, answer) = oneshot::channel();
        let reply = Box::new(move |result| {
            // The reader may have gone away; a read leaves nothing behind.
            let _ = reply.send(result);
        });
        self.ask_quorum(Input::Read(reply), answer).await
    }

    /// As [`Self::read_index`], but no use of the range: it may fall asleep all the same.
    ///
    /// # Errors
    /// As there.
    pub async fn prove_leadership(&self) -> Result<(), ReadError> {
        let (reply, answer) = oneshot::channel();
        let reply = Box::new(move |result| {
            // Who asked may have gone away.
            let _ = reply.send(result);
        });
        self.ask_quorum(Input::Prove(reply), answer).await
    }

    async fn ask_quorum(
        &self,
        input: Input,
        answer: oneshot::Receiver<Result<(), ReadError>>,
    ) -> Result<(), ReadError> {
        if !self.worker.try_send(Task::Replica { range_id: self.range_id, input }) {
            return Err(ReadError::NotReady);
        }
        answer.await.unwrap_or(Err(ReadError::Stopping))
    }

    /// Replicates a write. The future resolves when it is applied on this replica, and therefore
    /// durable on a majority. Not awaiting it does not cancel it.
    pub fn propose(
        &self,
        leadership: Leadership,
        command: WriteCommand,
    ) -> impl Future<Output = Result<(), ProposeError>> + Send + 'static {
        Metrics::get().proposals.inc();
        let (reply, answer) = oneshot::channel();
        let write = Write {
            term: leadership.term,
            epoch_version: leadership.epoch.version,
            size_bytes: command.encoded_len(),
            command,
            reply: Box::new(move |result| {
                // Who proposed may have gone away; the write happens all the same.
                let _ = reply.send(result);
            }),
        };
        let task = Task::Replica { range_id: self.range_id, input: Input::Propose(write) };
        let accepted = self.worker.try_send(task);
        async move {
            if !accepted {
                return Err(ProposeError::Overloaded);
            }
            answer.await.unwrap_or(Err(ProposeError::OutcomeUnknown))
        }
    }

    /// The largest commit timestamp applied here.
    #[must_use]
    pub fn largest_commit(&self) -> Timestamp {
        Timestamp(self.largest_commit.load(Ordering::Acquire))
    }

    /// A sequence lock over fences and range tombstones: odd while such a write is being applied.
    /// Read it before and after the engine snapshot is taken. Cached sets of the generation read
    /// after may be used with that snapshot; sets loaded from it may be cached if both readings are
    /// the same and even.
    #[must_use]
    pub fn special_generation(&self) -> u64 {
        self.special_generation.load(Ordering::SeqCst)
    }

    /// True if no other leader can have been elected since `term` began, and no change of bounds was under way
    /// at some moment since `at`. Says nothing of the range's use.
    #[must_use]
    pub fn is_leased_since(&self, term: u64, at: MonotonicTime) -> bool {
        let lease = self.published.read().lease;
        lease.is_renewed_since(term, at, self.clock.now())
    }

    /// What the replica has agreed to sleep upon. It is taken away before the replica votes or says anything
    /// else.
    #[must_use]
    pub fn nap(&self) -> Option<Nap> {
        self.nap.read().clone()
    }

    /// What was claimed of the range.
    #[must_use]
    pub const fn closed(&self) -> &ClosedClaims {
        &self.closed
    }

    /// The same for intents that are placed. What a snapshot, a split or a merge changes at once is told by
    /// the special generation alone.
    #[must_use]
    pub fn intent_generation(&self) -> u64 {
        self.intent_generation.load(Ordering::SeqCst)
    }

    /// Roughly how many bytes the range holds, all versions counted; `None` if nobody measured yet.
    #[must_use]
    pub fn size_bytes(&self) -> Option<u64> {
        self.size.get()
    }

    /// The range's files were measured; counts if nobody did before.
    pub fn found_size(&self, bytes: u64) {
        self.size.found(bytes);
        self.reporter.changed();
    }

    /// A snapshot took the place of what it held.
    pub(super) fn forget_size(&self) {
        self.size.forget();
        self.reporter.changed();
    }

    /// The range was read.
    pub fn set_size(&self, bytes: u64) {
        self.size.set(bytes);
        self.reporter.changed();
    }

    /// Garbage was removed.
    pub fn remove_bytes(&self, bytes: u64) {
        self.size.remove(bytes);
        self.reporter.changed();
    }

    /// The range has grown.
    pub(super) fn add_bytes(&self, bytes: usize) {
        self.size.add(bytes as u64);
    }

    #[must_use]
    pub fn applied_index(&self) -> u64 {
        self.applied_index.load(Ordering::Acquire)
    }

    /// Proposes that every replica computes the checksum of its contents at one point of the log.
    ///
    /// # Errors
    /// As for a write.
    pub async fn consistency_check(&self, check_id: u64) -> Result<(), ProposeError> {
        let (reply, answer) = oneshot::channel();
        let reply = Box::new(move |result| {
            // Who asked may have gone away.
            let _ = reply.send(result);
        });
        let input = Input::Check { check_id, reply };
        if !self.worker.try_send(Task::Replica { range_id: self.range_id, input }) {
            return Err(ProposeError::Overloaded);
        }
        answer.await.unwrap_or(Err(ProposeError::OutcomeUnknown))
    }

    /// This replica's answer to a check, once it applied it; `None` if it does not within `limit`.
    pub async fn checksum(&self, check_id: u64, limit: Duration) -> Option<ChecksumResult> {
        self.checks.wait(check_id, limit).await
    }

    #[must_use]
    pub const fn checks(&self) -> &Checks {
        &self.checks
    }

    /// True if a snapshot has brought this replica beyond a check, so that it never answers.
    #[must_use]
    pub fn has_passed(&self, check_id: u64, index: u64) -> bool {
        // In this order: what is applied was begun before.
        let applied = self.applied_index();
        index > 0 && applied >= index && self.checks.index_of(check_id).is_none()
    }

    /// Asks for a change of replicas. Fire and forget: a stale one is dropped.
    pub(super) fn change_replicas(
        &self,
        epoch: Epoch,
        changes: Vec<(ReplicaChangeKind, Replica)>,
        leave_joint: bool,
    ) -> bool {
        let input = Input::ChangeReplicas { epoch, changes, leave_joint };
        self.worker.try_send(Task::Replica { range_id: self.range_id, input })
    }

    /// Proposes a change of bounds; resolves when it is applied here.
    pub(crate) async fn change_bounds(
        &self,
        epoch: Epoch,
        change: BoundaryChange,
    ) -> Result<(), ProposeError> {
        let (reply, answer) = oneshot::channel();
        let reply = Box::new(move |result| {
            // Who asked may have gone away.
            let _ = reply.send(result);
        });
        let input = Input::Boundary { epoch, change, reply };
        if !self.worker.try_send(Task::Replica { range_id: self.range_id, input }) {
            return Err(ProposeError::Overloaded);
        }
        answer.await.unwrap_or(Err(ProposeError::OutcomeUnknown))
    }

    /// Set while the range waits to become part of its left neighbour.
    #[must_use]
    pub fn frozen(&self) -> Option<Freeze> {
        *self.frozen.read()
    }

    /// Must be set before the freeze is visible to anybody.
    pub(super) fn set_frozen(&self, frozen: Option<Freeze>) {
        *self.frozen.write() = frozen;
        self.reporter.changed();
    }

    /// True if somebody read under the lease since the last call.
    pub(super) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    pub(super) fn set_nap(&self, nap: Option<Nap>) {
        *self.nap.write() = nap;
    }

    pub(crate) fn leads(&self) -> bool {
        self.published.read().is_leader
    }

    pub(super) fn transfer_leader(&self, to: ReplicaId) -> bool {
        let input = Input::TransferLeader { to };
        self.worker.try_send(Task::Replica { range_id: self.range_id, input })
    }

    /// It can be looked at from now on: whoever was told of it before did not find it.
    pub(super) fn list_anew(&self) {
        self.reporter.seen();
        self.reporter.changed();
    }

    /// Its status; from now on it is listed again once that changes.
    pub(super) fn look(&self) -> ReplicaStatus {
        self.reporter.seen();
        self.status()
    }

    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        let published = self.published.read();
        ReplicaStatus {
            descriptor: Arc::clone(&published.descriptor),
            replica_id: self.replica_id,
            leader: published.leader,
            is_leader: published.is_leader,
            term: published.term,
            applied_index: self.applied_index(),
            last_index: published.last_index,
            caught_up: published.caught_up.clone(),
            down: published.down.clone(),
            size_bytes: self.size_bytes(),
            frozen: self.frozen(),
            slowest_match: published.slowest_match,
        }
    }

    // ---- for the threads of the store

    pub(super) fn publish(&self, change: impl FnOnce(&mut Published)) {
        change(&mut self.published.write());
        self.reporter.changed();
    }

    /// Applied entries are visible in the engine. Must come before anybody is answered.
    pub(super) fn note_applied(
        &self,
        index: u64,
        largest_commit: Timestamp,
        descriptor: &Arc<RangeDescriptor>,
    ) {
        if !Arc::ptr_eq(&self.published.read().descriptor, descriptor) {
            self.published.write().descriptor = Arc::clone(descriptor);
        }
        self.largest_commit.fetch_max(largest_commit.0, Ordering::AcqRel);
        self.applied_index.store(index, Ordering::Release);
        self.reporter.changed();
    }

    /// Call before and after a write of fences or range tombstones becomes visible.
    pub(super) fn bump_special_generation(&self) {
        self.special_generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Call before and after intents that were placed become visible.
    pub(super) fn bump_intent_generation(&self) {
        self.intent_generation.fetch_add(1, Ordering::SeqCst);
    }
}
