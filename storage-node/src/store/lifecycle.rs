//! How replicas come and go on a Raft thread.
//!
//! A replica comes by bootstrap, by loading at start, by a split, or by a message of a leader or of
//! one who asks for its vote; in the last case it knows nothing until its first snapshot. It goes
//! when its group removed it, which it learns from its own log or from a member with proof. Its id
//! never comes back: a tombstone stays. Epoch *and* bounds are checked before anything is made, so
//! that a late message can never lay one range over another.

use super::applier::ApplyTask;
use super::claims::Claim;
use super::hosted::Hosted;
use super::range_state;
use super::splits::EarlyVotes;
use super::worker::{Worker, new_handle};
use crate::raft_log::{LogChange, LogPosition, LogState, LogWrite};
use crate::replica::apply::Applier;
use crate::replica::log_storage::{LogStorage, SnapshotData, SnapshotSource};
use crate::replica::{INITIAL_POSITION, Input, Replica, membership};
use crate::snapshot::{InstallDone, StagedSnapshot};
use crate::transport::{Inbound, Outbound};
use raft::eraftpb::MessageType;
use rangedb_engine::Engine;
use rangedb_types::{Epoch, MonotonicTime, RangeDescriptor, RangeId, ReplicaId, Span, Timestamp};
use std::sync::Arc;

/// Takes snapshots of one range's applied state for its peers.
pub struct EngineSource {
    pub engine: Arc<dyn Engine>,
    pub range_id: RangeId,
}

impl SnapshotSource for EngineSource {
    fn take(&self) -> Result<Option<SnapshotData>, String> {
        let data = self.engine.snapshot();
        let Some(applier) = range_state::load(data.as_ref(), self.range_id)? else {
            // Its left neighbour has taken it in, or it was removed: its end is on its way here.
            return Ok(None);
        };
        if applier.frozen.is_some() {
            // A snapshot would not tell that it is; the merge ends one way or the other soon.
            return Ok(None);
        }
        let (position, descriptor) = (applier.applied, applier.descriptor);
        Ok(Some(SnapshotData { position, descriptor, data }))
    }
}

impl Worker {
    /// Makes the first replica of the first range. Repeating it is harmless.
    pub(super) fn bootstrap(
        &mut self,
        descriptor: RangeDescriptor,
        now: MonotonicTime,
    ) -> Result<(), String> {
        let range_id = descriptor.range_id;
        if self.replicas.contains_key(&range_id) {
            return Ok(());
        }
        let replica_id = descriptor
            .replica_on(self.shared.node_id)
            .ok_or_else(|| format!("range {range_id} has no replica on this node"))?
            .replica_id;
        self.check_free(range_id, replica_id, &descriptor.span)?;
        let applier = Applier {
            replica_id,
            descriptor: Arc::new(descriptor),
            applied: INITIAL_POSITION,
            largest_commit: Timestamp::ZERO,
            frozen: None,
            freed_bytes: 0,
            intents_placed: 0,
        };
        range_state::create(self.shared.engine.as_ref(), &applier)?;
        let state = self.reset_log(replica_id, INITIAL_POSITION)?;
        self.adopt(applier, state, now)?;
        tracing::info!(%range_id, %replica_id, "made the first replica of the range");
        Ok(())
    }

    /// The log begins at `position`. Term and vote stay.
    pub(super) fn reset_log(
        &self,
        replica_id: ReplicaId,
        position: LogPosition,
    ) -> Result<LogState, String> {
        let stored = self.shared.log.load(replica_id).map_err(|error| error.to_string())?;
        let mut hard_state = stored.unwrap_or_default().hard_state;
        hard_state.term = hard_state.term.max(position.term);
        hard_state.commit = position.index;
        let change = LogChange::ResetTo { replica_id, position, hard_state: hard_state.clone() };
        self.write_log(LogWrite { changes: vec![change] }, true)?;
        Ok(LogState { hard_state, truncated: position, last_index: position.index })
    }

    /// Starts driving a replica whose state is on disk.
    pub(super) fn adopt(
        &mut self,
        applier: Applier,
        state: LogState,
        now: MonotonicTime,
    ) -> Result<(), String> {
        let range_id = applier.descriptor.range_id;
        let handle = new_handle(
            &self.shared,
            &self.sender,
            applier.replica_id,
            Arc::clone(&applier.descriptor),
        );
        handle.set_frozen(applier.frozen);
        handle.note_applied(applier.applied.index, applier.largest_commit, &applier.descriptor);
        let mut core = self.core(&applier, state, now)?;
        core.set_frozen(applier.frozen.is_some());
        self.replicas.insert(range_id, Hosted::new(core, Arc::clone(&handle)));
        self.touched.insert(range_id);
        if !applier.descriptor.replicas.is_empty() {
            self.shared.registry.write().insert(Arc::clone(&handle));
            handle.list_anew();
            self.register_applier(applier, handle);
            self.shared.changed.notify_waiters();
        }
        Ok(())
    }

    fn register_applier(&self, applier: Applier, handle: Arc<super::handle::ReplicaHandle>) {
        // The apply thread only ends before this one when the process is failing.
        let _ = self.appliers.send(ApplyTask::Register { applier, handle });
    }

    fn core(
        &self,
        applier: &Applier,
        state: LogState,
        now: MonotonicTime,
    ) -> Result<Replica, String> {
        let replica_id = applier.replica_id;
        let source = EngineSource {
            engine: Arc::clone(&self.shared.engine),
            range_id: applier.descriptor.range_id,
        };
        let storage = LogStorage::new(
            replica_id,
            Arc::clone(&self.shared.log),
            Box::new(source),
            state,
            membership::conf_state(&applier.descriptor.replicas),
        )
        .map_err(|error| error.to_string())?;
        Replica::new(
            replica_id,
            Arc::clone(&applier.descriptor),
            storage,
            applier.applied,
            self.shared.settings.replica,
            &self.shared.logger,
            now,
        )
        .map_err(|error| format!("replica {replica_id} cannot start: {error}"))
    }

    /// Refuses what would bring back a removed replica or lie over another range.
    fn check_free(
        &self,
        range_id: RangeId,
        replica_id: ReplicaId,
        span: &Span,
    ) -> Result<(), String> {
        self.shared.claims.check(range_id, span)?;
        self.check_registered(range_id, replica_id, span)
    }

    fn check_registered(
        &self,
        range_id: RangeId,
        replica_id: ReplicaId,
        span: &Span,
    ) -> Result<(), String> {
        let removed = range_state::tombstone(self.shared.engine.as_ref(), range_id)?;
        if removed.is_some_and(|removed| removed >= replica_id) {
            return Err(format!("replica {replica_id} was removed from this node"));
        }
        let initialised = |hosted: &Hosted| hosted.core.is_initialised();
        if !self.replicas.get(&range_id).is_some_and(initialised)
            && range_state::load(self.shared.engine.snapshot().as_ref(), range_id)?.is_some()
        {
            // Nothing may be put over it on its way from the apply thread.
            return Err("a split made its replica, which is about to come".to_owned());
        }
        let registry = self.shared.registry.read();
        let overlap = registry.overlapping(span).find(|handle| handle.range_id() != range_id);
        match overlap {
            Some(other) => Err(format!("its keys overlap those of range {}", other.range_id())),
            None => Ok(()),
        }
    }

    /// A message of another node.
    pub(super) fn inbound(&mut self, inbound: Inbound, now: MonotonicTime) {
        let range_id = inbound.range_id;
        if inbound.says_nothing() {
            self.answer_whether_it_is_left(&inbound);
            return;
        }
        if self
            .replicas
            .get(&range_id)
            .is_some_and(|hosted| hosted.core.replica_id != inbound.to_replica)
        {
            self.other_incarnation(&inbound);
            return;
        }
        if let Some(range) = &inbound.removed_by {
            if range.range_id == range_id {
                self.told_removed(inbound.to_replica, range);
            } else {
                self.remove_merged_away(range.range_id, &range.span, range.epoch);
            }
            return;
        }
        if let Some(sleep) = inbound.sleep {
            self.input(range_id, Input::Sleep { from: inbound.from_replica, sleep }, now);
            return;
        }
        let Some(message) = inbound.message.clone() else { return };
        if !self.replicas.contains_key(&range_id) {
            // A leader that added this replica makes it exist; so does a candidate, for a snapshot
            // may have brought this node beyond the split that would have made it.
            let from_leader = matches!(
                message.get_msg_type(),
                MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
            );
            if from_leader {
                self.remove_merged_away(range_id, &inbound.span, inbound.epoch);
            } else if !EarlyVotes::asks(&inbound) {
                return;
            }
            if !self.make_empty(range_id, inbound.to_replica, &inbound.span, now) {
                self.early_votes.keep(inbound);
                return;
            }
        }
        let Some(hosted) = self.replicas.get_mut(&range_id) else { return };
        if Self::speaks_for_the_past(hosted, &inbound) {
            let proof = Arc::clone(hosted.core.descriptor());
            self.tell_removed(&inbound, proof);
            return;
        }
        hosted.note_peer(inbound.from_replica, inbound.from_node);
        hosted.step(Input::Message(message), now);
        self.touched.insert(range_id);
    }

    fn tell_removed(&mut self, inbound: &Inbound, proof: Arc<RangeDescriptor>) {
        self.outbound.push(Outbound {
            to_node: inbound.from_node,
            range_id: inbound.range_id,
            from_replica: inbound.to_replica,
            to_replica: inbound.from_replica,
            epoch: proof.epoch,
            span: Arc::new(inbound.span.clone()),
            message: None,
            removed_by: Some(proof),
            sleep: None,
        });
        // Sent with the next pass, whatever becomes of the range.
        self.touched.insert(inbound.range_id);
    }

    /// Tells a replica that was removed, or whose range was merged away, if that is known here.
    fn answer_whether_it_is_left(&mut self, inbound: &Inbound) {
        let proof = match self.replicas.get(&inbound.range_id) {
            Some(hosted) => Self::speaks_for_the_past(hosted, inbound)
                .then(|| Arc::clone(hosted.core.descriptor())),
            None => {
                let registry = self.shared.registry.read();
                let first_key = Span::of_key(&inbound.span.start);
                let mut ranges = registry.overlapping(&first_key).map(|it| it.descriptor());
                ranges.find(|range| range.epoch.version > inbound.epoch.version)
            }
        };
        if let Some(proof) = proof {
            self.tell_removed(inbound, proof);
        }
    }

    /// True for a sender that was removed and does not know it.
    fn speaks_for_the_past(hosted: &Hosted, inbound: &Inbound) -> bool {
        let range = hosted.core.descriptor();
        hosted.core.is_initialised()
            && range.replica(inbound.from_replica).is_none()
            && range.epoch.conf_version > inbound.epoch.conf_version
    }

    /// A message for another incarnation of a replica on this node. A range has at most one replica
    /// a node, so one with a later id and a later epoch proves that ours was removed.
    fn other_incarnation(&mut self, inbound: &Inbound) {
        let Some(hosted) = self.replicas.get(&inbound.range_id) else { return };
        let later = inbound.to_replica > hosted.core.replica_id
            && inbound.epoch.conf_version > hosted.core.descriptor().epoch.conf_version;
        if later {
            self.destroy(inbound.range_id);
        }
    }

    fn told_removed(&mut self, replica_id: ReplicaId, range: &RangeDescriptor) {
        let Some(hosted) = self.replicas.get(&range.range_id) else { return };
        let later = range.epoch.conf_version > hosted.core.descriptor().epoch.conf_version;
        if later && hosted.core.replica_id == replica_id && range.replica(replica_id).is_none() {
            self.destroy(range.range_id);
        }
    }

    pub(super) fn destroy(&mut self, range_id: RangeId) {
        let Some(hosted) = self.replicas.get_mut(&range_id) else { return };
        if hosted.is_installing() {
            // The snapshot that is being installed would bring back what is removed, without its log.
            // Whoever says that it is gone says it again.
            return;
        }
        hosted.end();
        if hosted.core.is_initialised() {
            let _ = self.appliers.send(ApplyTask::Destroy { range_id });
        } else {
            let replica_id = hosted.core.replica_id;
            self.sender.send(super::worker::Task::Destroyed { range_id, replica_id });
        }
    }

    /// The data is gone and the tombstone is durable: the log may go too.
    pub(super) fn destroyed(
        &mut self,
        range_id: RangeId,
        replica_id: ReplicaId,
    ) -> Result<(), String> {
        let same = |hosted: &Hosted| hosted.core.replica_id == replica_id;
        if self.replicas.get(&range_id).is_some_and(same)
            && let Some(mut hosted) = self.replicas.remove(&range_id)
        {
            hosted.stop();
        }
        self.shared.registry.write().remove(range_id);
        self.shared.news.gone(range_id);
        self.shared.changed.notify_waiters();
        tracing::info!(%range_id, %replica_id, "the replica was removed from this node");
        let changes = vec![LogChange::Remove { replica_id }];
        self.write_log(LogWrite { changes }, true)
    }

    /// Makes a replica that knows nothing yet. False if it must not exist here.
    fn make_empty(
        &mut self,
        range_id: RangeId,
        replica_id: ReplicaId,
        span: &Span,
        now: MonotonicTime,
    ) -> bool {
        if let Err(reason) = self.check_free(range_id, replica_id, span) {
            tracing::debug!(%range_id, %replica_id, reason, "a message made no replica");
            return false;
        }
        let descriptor = RangeDescriptor {
            range_id,
            span: span.clone(),
            epoch: Epoch::default(),
            replicas: Vec::new(),
        };
        let applier = range_state::empty(replica_id, descriptor);
        // It remembers its vote, and nothing else, from a life before a restart.
        let stored = self.shared.log.load(replica_id).map_err(|error| error.to_string());
        let adopted = stored.and_then(|state| {
            let unheard = state.is_none();
            self.adopt(applier, state.unwrap_or_default(), now).map(|()| unheard)
        });
        match adopted {
            Ok(unheard) => {
                if let Some(hosted) = self.replicas.get_mut(&range_id).filter(|_| unheard) {
                    hosted.core.begin_unheard();
                }
                true
            }
            Err(error) => {
                tracing::error!(%range_id, %replica_id, error, "cannot make a replica");
                false
            }
        }
    }

    /// A verified snapshot arrived.
    pub(super) fn staged(&mut self, staged: StagedSnapshot, done: InstallDone, now: MonotonicTime) {
        let range_id = staged.descriptor.range_id;
        self.remove_merged_away(range_id, &staged.descriptor.span, staged.descriptor.epoch);
        let claim = match self.make_room(&staged, now) {
            Ok(claim) => claim,
            Err(reason) => {
                self.shared.snapshots.discard(staged);
                done(Err(reason));
                return;
            }
        };
        if let Some(hosted) = self.replicas.get_mut(&range_id) {
            hosted.note_peer(staged.from_replica, staged.from_node);
            hosted.take_staged(staged, claim, done, &self.shared, now);
            self.touched.insert(range_id);
        }
    }

    /// Claims the keys of a snapshot, and makes its replica if there is none.
    fn make_room(&mut self, staged: &StagedSnapshot, now: MonotonicTime) -> Result<Claim, String> {
        let (range_id, replica_id) = (staged.descriptor.range_id, staged.to_replica);
        let span = &staged.descriptor.span;
        let known = self.replicas.get(&range_id);
        if known.is_some_and(|hosted| hosted.core.replica_id != replica_id) {
            return Err("the snapshot is for another replica".to_owned());
        }
        // Bounds are checked again with those of the snapshot, which are the newer ones.
        let is_free = || self.check_registered(range_id, replica_id, span);
        let claim = self.shared.claims.claim(range_id, span, is_free)?;
        if known.is_none() && !self.make_empty(range_id, replica_id, span, now) {
            return Err("the replica cannot be made".to_owned());
        }
        Ok(claim)
    }

    /// The snapshot is in the data store, durably: cut the log to it and go on from there.
    pub(super) fn installed(
        &mut self,
        range_id: RangeId,
        result: Result<(), String>,
    ) -> Result<(), String> {
        // Half a snapshot is in the data store: the next start finishes it.
        result.map_err(|error| format!("range {range_id}: cannot install a snapshot: {error}"))?;
        let Some(hosted) = self.replicas.get_mut(&range_id) else { return Ok(()) };
        let Some((claim, done)) = hosted.take_installing() else { return Ok(()) };
        let replica_id = hosted.core.replica_id;
        let loaded = range_state::load(self.shared.engine.snapshot().as_ref(), range_id)?;
        let applier = loaded.ok_or_else(|| format!("range {range_id} lost its state"))?;
        let changes = hosted.core.snapshot_installed(Arc::clone(&applier.descriptor));
        // It may have been frozen before, and thawed in what the snapshot spans.
        hosted.core.set_frozen(applier.frozen.is_some());
        hosted.handle.set_frozen(applier.frozen);
        hosted.handle.forget_size();
        let handle = Arc::clone(&hosted.handle);
        self.write_log(LogWrite { changes }, true)?;
        // From here on a log that ends before the applied index is damage again.
        self.shared.snapshots.finish(range_id);
        handle.note_applied(applier.applied.index, applier.largest_commit, &applier.descriptor);
        self.shared.registry.write().insert(Arc::clone(&handle));
        handle.list_anew();
        // From here on its keys are seen to be taken.
        drop(claim);
        tracing::info!(%range_id, %replica_id, index = applier.applied.index, "installed a snapshot");
        self.register_applier(applier, handle);
        self.shared.changed.notify_waiters();
        let now = self.shared.clock.now();
        self.persisted(range_id, now);
        done(Ok(()));
        Ok(())
    }
}
