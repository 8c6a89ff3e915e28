//! The core of a replica: inputs in, effects out.
//!
//! The host drains inputs into `step`, then calls `ready` until there is nothing more: it sends
//! `send_now` at once, hands `apply` to the apply threads, writes the log changes of all replicas
//! together, and then calls `persisted`, whose messages may leave.

use super::apply::CommittedEntry;
use super::command::{encode_change_context, encode_check, encode_writes};
use super::compaction::{LogBudget, LogSizer};
use super::lease::Lease;
use super::log_storage::LogStorage;
use super::membership::{self, MembershipError, ReplicaChangeKind};
use super::proposals::{self, Proposals, ProposeReply, Write};
use super::reads::{ReadReply, Reads};
use crate::raft_log::{LogChange, LogPosition};
use crate::store::handle::{ProposeError, ReadError};
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, Entry, HardState, Message, MessageType};
use raft::{RawNode, Ready, SnapshotStatus, StateRole, Storage as _};
use rangedb_types::{Epoch, MonotonicTime, RangeDescriptor, Replica as Member, ReplicaId, ReplicaRole};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Most bytes of writes in one entry, unless a single write is larger.
const ENTRY_BYTES_TARGET: usize = 1 << 20;
/// Most writes in one entry.
const ENTRY_WRITES_MAX: usize = 1024;
/// Committed entries that may wait to be applied before proposals are refused.
const APPLY_LAG_MAX: u64 = 20_000;
/// Entries a follower may lack and still count as caught up.
const CAUGHT_UP_LAG_MAX: u64 = 1000;

/// Time and sizes of one replica.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaOptions {
    pub tick: Duration,
    pub election_ticks: usize,
    /// Ticks between the rounds that renew the lease.
    pub round_ticks: u32,
    pub log_budget: LogBudget,
    /// A peer that was silent for this long is reported as down.
    pub peer_down_after: Duration,
}

impl ReplicaOptions {
    /// The shortest time in which no follower that answered a round will vote.
    #[must_use]
    pub fn election_timeout(&self) -> Duration {
        self.tick * u32::try_from(self.election_ticks).expect("a small number of ticks")
    }

    /// Two ticks shorter than the election time-out: a follower's first tick may come at once, and
    /// its clock may run a little faster.
    #[must_use]
    pub fn lease_length(&self) -> Duration {
        self.election_timeout() - 2 * self.tick
    }

    #[must_use]
    pub fn raft_config(&self, replica_id: ReplicaId, applied: u64) -> raft::Config {
        raft::Config {
            id: replica_id.get(),
            election_tick: self.election_ticks,
            heartbeat_tick: (self.election_ticks / 3).max(1),
            applied,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            // The library's lease-based reads are unsafe; the lease here is our own.
            read_only_option: raft::ReadOnlyOption::Safe,
            max_uncommitted_size: 64 << 20,
            max_committed_size_per_ready: 16 << 20,
            ..raft::Config::default()
        }
    }
}

/// What can happen to a replica.
pub enum Input {
    Message(Message),
    Propose(Write),
    Read(ReadReply),
    Check { check_id: u64, reply: ProposeReply },
    ChangeReplicas { epoch: Epoch, changes: Vec<(ReplicaChangeKind, Member)>, leave_joint: bool },
    TransferLeader { to: ReplicaId },
    /// Entries up to here are applied and visible.
    Applied { position: LogPosition, descriptor: Arc<RangeDescriptor>, changes: Vec<ConfChangeV2> },
    Unreachable(ReplicaId),
    SnapshotSent { to: ReplicaId, installed: bool },
}

/// What a replica wants done before `persisted` may be called.
#[derive(Default)]
pub struct Effects {
    pub log: Vec<LogChange>,
    pub must_sync: bool,
    /// May leave before the log is written.
    pub send_now: Vec<Message>,
    pub apply: Vec<CommittedEntry>,
    /// Install this snapshot first, then call `snapshot_installed`.
    pub install: Option<LogPosition>,
}

/// What may be done once the log is written.
#[derive(Default)]
pub struct Persisted {
    pub send: Vec<Message>,
    pub apply: Vec<CommittedEntry>,
}

/// A Ready whose log changes are being written.
struct InFlight {
    ready: Ready,
    deferred: Vec<Message>,
    last: Option<LogPosition>,
    hard_state: Option<HardState>,
    snapshot: Option<LogPosition>,
    entries: Vec<Entry>,
}

/// One replica of one range.
pub struct Replica {
    pub replica_id: ReplicaId,
    node: RawNode<LogStorage>,
    options: ReplicaOptions,
    descriptor: Arc<RangeDescriptor>,
    started: MonotonicTime,
    lease: Lease,
    reads: Reads,
    proposals: Proposals,
    writes: Vec<Write>,
    applied: LogPosition,
    /// Last index given to the apply threads.
    handed: u64,
    /// The term in which this replica was last seen to lead.
    led_term: Option<u64>,
    ticks_to_round: u32,
    in_flight: Option<InFlight>,
    sizer: LogSizer,
    last_contact: HashMap<u64, MonotonicTime>,
    /// Peers that a snapshot is on its way to, with its index: the log after it must stay.
    snapshots_out: HashMap<u64, u64>,
}

impl Replica {
    /// # Errors
    /// The library refuses its configuration or its storage.
    pub fn new(
        replica_id: ReplicaId,
        descriptor: Arc<RangeDescriptor>,
        storage: LogStorage,
        applied: LogPosition,
        options: ReplicaOptions,
        logger: &slog::Logger,
        now: MonotonicTime,
    ) -> Result<Self, raft::Error> {
        let config = options.raft_config(replica_id, applied.index);
        let mut node = RawNode::new(&config, storage, logger)?;
        node.set_batch_append(true);
        Ok(Self {
            replica_id,
            node,
            options,
            descriptor,
            started: now,
            lease: Lease::default(),
            reads: Reads::default(),
            proposals: Proposals::default(),
            writes: Vec::new(),
            applied,
            handed: applied.index,
            led_term: None,
            ticks_to_round: 0,
            in_flight: None,
            sizer: LogSizer::default(),
            last_contact: HashMap::new(),
            snapshots_out: HashMap::new(),
        })
    }

    #[must_use]
    pub fn descriptor(&self) -> &Arc<RangeDescriptor> {
        &self.descriptor
    }

    /// False until its first snapshot: then it knows neither bounds nor members.
    #[must_use]
    pub fn is_initialised(&self) -> bool {
        !self.descriptor.replicas.is_empty()
    }

    #[must_use]
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    #[must_use]
    pub fn leader_id(&self) -> Option<ReplicaId> {
        let id = self.node.raft.leader_id;
        (id != raft::INVALID_ID).then_some(ReplicaId(id))
    }

    /// True once this leader has applied an entry of its own term: from then on it knows all that
    /// was committed before it.
    #[must_use]
    pub fn leadership_established(&self) -> bool {
        self.is_leader() && self.applied.term == self.term()
    }

    #[must_use]
    pub fn lease(&self) -> Lease {
        self.lease
    }

    #[must_use]
    pub fn applied(&self) -> LogPosition {
        self.applied
    }

    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    /// True while a snapshot is being installed; nothing may be stepped then.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.in_flight.is_some()
    }

    /// True if every entry handed to the apply threads came back.
    #[must_use]
    pub fn is_all_applied(&self) -> bool {
        self.handed == self.applied.index
    }

    /// Followers that hold (nearly) all of the log. Empty unless this replica leads.
    #[must_use]
    pub fn caught_up(&self) -> Vec<ReplicaId> {
        self.peers(|_, progress, last| {
            progress.state == raft::ProgressState::Replicate
                && progress.matched + CAUGHT_UP_LAG_MAX >= last
        })
    }

    /// Followers that were silent for long. Empty unless this replica leads.
    #[must_use]
    pub fn down(&self, now: MonotonicTime) -> Vec<ReplicaId> {
        self.peers(|id, _, _| {
            let contact = self.last_contact.get(&id).copied().unwrap_or(self.started);
            now.since(contact) > self.options.peer_down_after
        })
    }

    fn peers(&self, want: impl Fn(u64, &raft::Progress, u64) -> bool) -> Vec<ReplicaId> {
        if !self.is_leader() {
            return Vec::new();
        }
        let last = self.last_index();
        let progress = self.node.raft.prs().iter();
        let mut ids: Vec<_> = progress
            .filter(|(id, _)| **id != self.replica_id.get())
            .filter(|(id, progress)| want(**id, progress, last))
            .map(|(id, _)| ReplicaId(*id))
            .collect();
        ids.sort_unstable();
        ids
    }

    /// The data that a MsgSnapshot of this index speaks of.
    #[must_use]
    pub fn take_snapshot(&self, index: u64) -> Option<super::log_storage::SnapshotData> {
        self.node.store().take_handed(index)
    }

    /// Takes one input. Must not be called while `is_busy`.
    pub fn step(&mut self, input: Input, now: MonotonicTime) {
        debug_assert!(self.in_flight.is_none(), "nothing steps between ready and persisted");
        match input {
            Input::Message(message) => self.step_message(message, now),
            Input::Propose(write) => self.writes.push(write),
            Input::Read(reply) => self.take_read(reply),
            Input::Check { check_id, reply } => self.propose_check(check_id, reply),
            Input::ChangeReplicas { epoch, changes, leave_joint } => {
                self.propose_change(epoch, &changes, leave_joint);
            }
            Input::TransferLeader { to } => self.transfer_leader(to),
            Input::Applied { position, descriptor, changes } => {
                self.note_applied(position, descriptor, &changes);
            }
            Input::Unreachable(peer) => self.node.report_unreachable(peer.get()),
            Input::SnapshotSent { to, installed } => {
                self.snapshots_out.remove(&to.get());
                let status =
                    if installed { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.node.report_snapshot(to.get(), status);
            }
        }
    }

    /// One tick of the clock. Must not be called while `is_busy`.
    pub fn tick(&mut self, now: MonotonicTime) {
        if !self.is_initialised() {
            return;
        }
        self.reads.give_up_old_rounds(now);
        if self.is_sole_voter() && !self.is_leader() {
            // Nobody else could lead or vote: there is nothing to wait for.
            if let Err(error) = self.node.campaign() {
                tracing::warn!(replica_id = %self.replica_id, %error, "cannot campaign");
            }
            return;
        }
        if !self.is_leader() && self.in_start_up_silence(now) {
            return;
        }
        self.node.tick();
        if self.leadership_established() {
            self.ticks_to_round = self.ticks_to_round.saturating_sub(1);
        }
    }

    /// After a start, nobody is voted for and no election begun for one election time-out: before
    /// the restart this replica may have promised a leader its lease.
    fn in_start_up_silence(&self, now: MonotonicTime) -> bool {
        !self.is_sole_voter() && now.since(self.started) < self.options.election_timeout()
    }

    fn is_sole_voter(&self) -> bool {
        let mut voters = self.descriptor.replicas.iter().filter(|member| member.role != ReplicaRole::Learner);
        voters.next().is_some_and(|member| member.replica_id == self.replica_id)
            && voters.next().is_none()
    }

    fn step_message(&mut self, message: Message, now: MonotonicTime) {
        use MessageType as T;
        let kind = message.get_msg_type();
        let votes = matches!(kind, T::MsgRequestVote | T::MsgRequestPreVote | T::MsgTimeoutNow);
        if votes && (self.in_start_up_silence(now) || !self.is_initialised()) {
            return;
        }
        // Proposals and reads come to the leader by calls of our own; followers never forward them.
        if matches!(
            kind,
            T::MsgPropose | T::MsgReadIndex | T::MsgReadIndexResp | T::MsgTransferLeader
        ) {
            return;
        }
        self.last_contact.insert(message.from, now);
        match self.node.step(message) {
            Ok(()) | Err(raft::Error::StepPeerNotFound | raft::Error::ProposalDropped) => {}
            Err(error) => {
                tracing::warn!(replica_id = %self.replica_id, %error, "a raft message was refused");
            }
        }
    }

    fn take_read(&mut self, reply: ReadReply) {
        if !self.is_leader() {
            reply(Err(ReadError::NotLeader));
        } else if !self.leadership_established() {
            reply(Err(ReadError::NotReady));
        } else {
            self.reads.push(reply);
        }
    }

    fn propose_check(&mut self, check_id: u64, reply: ProposeReply) {
        if !self.leadership_established() {
            reply(Err(ProposeError::NotLeader));
            return;
        }
        let data = encode_check(self.descriptor.epoch.version, check_id);
        self.propose(data, vec![reply]);
    }

    fn propose(&mut self, data: Vec<u8>, replies: Vec<ProposeReply>) {
        match self.node.propose(Vec::new(), data) {
            Ok(()) => self.proposals.push(self.last_index(), self.term(), replies),
            // Too much is uncommitted, or a transfer is under way: it is in no log.
            Err(_) => proposals::fail(replies, &ProposeError::Overloaded),
        }
    }

    fn propose_change(
        &mut self,
        epoch: Epoch,
        changes: &[(ReplicaChangeKind, Member)],
        leave: bool,
    ) {
        if !self.leadership_established()
            || epoch != self.descriptor.epoch
            || self.node.raft.has_pending_conf()
        {
            return;
        }
        let range = &self.descriptor;
        let change = if leave {
            membership::leave_joint(range)
        } else {
            self.only_caught_up(changes)
                .and_then(|()| membership::change_replicas(range, changes))
        };
        let mut change = match change {
            Ok(change) => change,
            Err(error) => {
                tracing::info!(range_id = %range.range_id, %error, "a change of replicas was refused");
                return;
            }
        };
        change.conf_change.context = encode_change_context(epoch, &change.replicas).into();
        if let Err(error) = self.node.propose_conf_change(Vec::new(), change.conf_change) {
            tracing::info!(range_id = %range.range_id, %error, "a change of replicas was not proposed");
        }
    }

    /// A learner without state never becomes a voter.
    fn only_caught_up(&self, changes: &[(ReplicaChangeKind, Member)]) -> Result<(), MembershipError> {
        let caught_up = self.caught_up();
        for (kind, member) in changes {
            if *kind == ReplicaChangeKind::Promote && !caught_up.contains(&member.replica_id) {
                return Err(MembershipError::WrongRole(member.replica_id.get()));
            }
        }
        Ok(())
    }

    fn transfer_leader(&mut self, to: ReplicaId) {
        if !self.is_leader() || to == self.replica_id || !self.caught_up().contains(&to) {
            return;
        }
        // The chosen one may win an election that lease promises do not hold back.
        self.lease.suspend(self.term());
        self.node.transfer_leader(to.get());
    }

    fn note_applied(
        &mut self,
        position: LogPosition,
        descriptor: Arc<RangeDescriptor>,
        changes: &[ConfChangeV2],
    ) {
        for change in changes {
            match self.node.apply_conf_change(change) {
                Ok(state) => self.node.mut_store().note_conf_state(state),
                Err(error) => panic!(
                    "replica {}: raft refuses a committed change of members: {error}",
                    self.replica_id
                ),
            }
        }
        self.descriptor = descriptor;
        if !changes.is_empty() {
            self.step_down_unless_voter();
        }
        self.applied = position;
        self.node.advance_apply_to(position.index);
        self.reads.applied(position.index);
    }

    /// raft-rs leaves a removed or demoted leader in office.
    fn step_down_unless_voter(&mut self) {
        let voter = self
            .descriptor
            .replica(self.replica_id)
            .is_some_and(|member| member.role != ReplicaRole::Learner);
        if self.is_leader() && !voter {
            let term = self.term();
            self.node.raft.become_follower(term, raft::INVALID_ID);
        }
    }

    /// Collects what is to be done. `None` if nothing is, or while the last is being done.
    pub fn ready(&mut self, now: MonotonicTime) -> Option<Effects> {
        if self.in_flight.is_some() {
            return None;
        }
        self.flush_writes();
        self.start_round(now);
        self.note_leadership();
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        self.take_read_states(&mut ready);
        let stored = self.node.store().hard_state();
        let new_vote = ready
            .hs()
            .is_some_and(|state| state.term != stored.term || state.vote != stored.vote);
        let mut effects = Effects { must_sync: ready.must_sync(), ..Effects::default() };
        let messages = ready.take_messages();
        // A new term or vote is on disk before anything leaves, whatever the library says.
        let deferred = if new_vote { messages } else { effects.send_now = messages; Vec::new() };
        let committed = ready.take_committed_entries();
        effects.apply = self.with_replies(committed);
        let entries = ready.take_entries();
        let hard_state = ready.hs().cloned();
        let last = entries.last().map(|entry| LogPosition { index: entry.index, term: entry.term });
        let mut in_flight =
            InFlight { ready, deferred, last, hard_state, snapshot: None, entries: Vec::new() };
        let metadata = in_flight.ready.snapshot().get_metadata();
        if metadata.index > 0 {
            let position = LogPosition { index: metadata.index, term: metadata.term };
            in_flight.snapshot = Some(position);
            in_flight.entries = entries;
            effects.install = Some(position);
        } else {
            self.log_changes(entries, in_flight.hard_state.as_ref(), &mut effects.log);
        }
        self.in_flight = Some(in_flight);
        Some(effects)
    }

    fn log_changes(&mut self, entries: Vec<Entry>, state: Option<&HardState>, log: &mut Vec<LogChange>) {
        let replica_id = self.replica_id;
        if let Some(last) = entries.last() {
            let bytes = entries.iter().map(|entry| entry.data.len() as u64 + 32).sum();
            self.sizer.appended(last.index, bytes);
            log.push(LogChange::Append { replica_id, entries });
        }
        if let Some(hard_state) = state {
            log.push(LogChange::SetHardState { replica_id, hard_state: hard_state.clone() });
        }
    }

    /// The snapshot that `ready` asked for is in the data store, durably. Returns the log changes
    /// that must be synced before `persisted`.
    pub fn snapshot_installed(&mut self, descriptor: Arc<RangeDescriptor>) -> Vec<LogChange> {
        let mut in_flight = self.in_flight.take().expect("a snapshot is being installed");
        let position = in_flight.snapshot.expect("a snapshot is being installed");
        let mut state =
            in_flight.hard_state.clone().unwrap_or_else(|| self.node.store().hard_state().clone());
        state.commit = state.commit.max(position.index);
        in_flight.hard_state = Some(state.clone());
        let replica_id = self.replica_id;
        let mut log = vec![LogChange::ResetTo { replica_id, position, hard_state: state }];
        let entries = std::mem::take(&mut in_flight.entries);
        self.log_changes(entries, None, &mut log);
        self.descriptor = descriptor;
        self.applied = position;
        self.handed = position.index;
        self.in_flight = Some(in_flight);
        log
    }

    /// The log changes of `ready` are written (and synced, if it said so).
    pub fn persisted(&mut self) -> Persisted {
        let Some(mut in_flight) = self.in_flight.take() else {
            return Persisted::default();
        };
        let store = self.node.mut_store();
        if let Some(position) = in_flight.snapshot {
            store.note_reset(position);
            store.note_conf_state(membership::conf_state(&self.descriptor.replicas));
        }
        if let Some(last) = in_flight.last {
            store.note_appended(last);
        }
        if let Some(state) = in_flight.hard_state {
            store.note_hard_state(state);
        }
        let mut send = in_flight.deferred;
        send.extend(in_flight.ready.take_persisted_messages());
        let mut light = self.node.advance_append(in_flight.ready);
        if let Some(commit) = light.commit_index() {
            self.node.mut_store().note_commit(commit);
        }
        if in_flight.snapshot.is_some() {
            self.node.advance_apply_to(self.applied.index);
        }
        send.extend(light.take_messages());
        let committed = light.take_committed_entries();
        Persisted { send, apply: self.with_replies(committed) }
    }

    fn with_replies(&mut self, entries: Vec<Entry>) -> Vec<CommittedEntry> {
        if let Some(last) = entries.last() {
            self.handed = last.index;
        }
        let with_reply = |entry: Entry| {
            let replies = self.proposals.take(entry.index, entry.term);
            CommittedEntry { entry, replies }
        };
        entries.into_iter().map(with_reply).collect()
    }

    /// Writes that arrived together enter the log together.
    fn flush_writes(&mut self) {
        if self.writes.is_empty() {
            return;
        }
        let (term, version) = (self.term(), self.descriptor.epoch.version);
        let leads = self.leadership_established();
        let lag = self.node.raft.raft_log.committed.saturating_sub(self.applied.index);
        let mut batch = Vec::new();
        let (mut replies, mut bytes) = (Vec::new(), 0);
        for write in std::mem::take(&mut self.writes) {
            let refused = if !leads || write.term != term {
                Some(ProposeError::NotLeader)
            } else if write.epoch_version != version {
                Some(ProposeError::EpochMismatch)
            } else if lag > APPLY_LAG_MAX {
                Some(ProposeError::Overloaded)
            } else {
                None
            };
            if let Some(error) = refused {
                (write.reply)(Err(error));
                continue;
            }
            let full = bytes + write.size_bytes > ENTRY_BYTES_TARGET || batch.len() >= ENTRY_WRITES_MAX;
            if full && !batch.is_empty() {
                let data = encode_writes(version, std::mem::take(&mut batch));
                self.propose(data, std::mem::take(&mut replies));
                bytes = 0;
            }
            bytes += write.size_bytes;
            batch.push(write.command);
            replies.push(write.reply);
        }
        if !batch.is_empty() {
            self.propose(encode_writes(version, batch), replies);
        }
    }

    /// Starts a ReadIndex round if reads wait for one or the lease wants renewal.
    fn start_round(&mut self, now: MonotonicTime) {
        if !self.leadership_established() {
            return;
        }
        if self.ticks_to_round > 0 && !self.reads.wants_round() {
            return;
        }
        self.ticks_to_round = self.options.round_ticks;
        let context = self.reads.start_round(now);
        self.node.read_index(context.to_be_bytes().to_vec());
    }

    fn take_read_states(&mut self, ready: &mut Ready) {
        for state in ready.take_read_states() {
            let Ok(context) = <[u8; 8]>::try_from(state.request_ctx.as_slice()) else {
                continue;
            };
            let context = u64::from_be_bytes(context);
            if let Some(sent) = self.reads.confirm(context, state.index) {
                self.lease.confirm(self.term(), sent, self.options.lease_length());
            }
        }
        self.reads.applied(self.applied.index);
    }

    /// When leadership of a term ended, whoever waits for it must not wait on.
    fn note_leadership(&mut self) {
        let leads = self.is_leader().then_some(self.term());
        if leads == self.led_term {
            return;
        }
        if self.led_term.is_some() {
            self.lease.revoke();
            self.proposals.fail_all();
            self.reads.fail_all(&ReadError::NotLeader);
        }
        if leads.is_some() {
            self.last_contact.clear();
            self.started_leading();
        }
        self.led_term = leads;
    }

    fn started_leading(&mut self) {
        self.ticks_to_round = 0;
        self.snapshots_out.clear();
    }

    /// A snapshot of this index leaves for a peer.
    pub fn note_snapshot_out(&mut self, to: ReplicaId, index: u64) {
        self.snapshots_out.insert(to.get(), index);
    }

    /// The log may be cut: returns the change to write, if it is worth it. `durable` is an applied
    /// index known to be on disk in the data store.
    #[must_use]
    pub fn compaction(&self, durable: u64, force: bool) -> Option<LogChange> {
        if self.in_flight.is_some() || !self.is_initialised() {
            return None;
        }
        let truncated = self.node.store().truncated();
        let mut limit = durable.min(self.applied.index);
        if let Some(index) = self.snapshots_out.values().min() {
            limit = limit.min(*index);
        }
        let target = if force {
            (limit > truncated.index).then_some(limit)
        } else {
            self.sizer.target(truncated.index, self.needed_by_followers(), limit, self.options.log_budget)
        }?;
        let term = self.node.store().term(target).ok()?;
        let position = LogPosition { index: target, term };
        Some(LogChange::Truncate { replica_id: self.replica_id, position })
    }

    /// The change that `compaction` returned is written.
    pub fn note_compacted(&mut self, position: LogPosition) {
        self.sizer.truncated(position.index);
        self.node.mut_store().note_truncated(position);
    }

    fn needed_by_followers(&self) -> Option<u64> {
        if !self.is_leader() {
            return None;
        }
        self.node.raft.prs().iter().map(|(_, progress)| progress.matched).min()
    }

    /// Answers everybody who waits: the node is stopping or the replica goes away.
    pub fn stop(&mut self) {
        for write in std::mem::take(&mut self.writes) {
            (write.reply)(Err(ProposeError::Stopping));
        }
        self.proposals.fail_all();
        self.reads.fail_all(&ReadError::Stopping);
    }
}

/// Reads a message that arrived.
///
/// # Errors
/// The bytes are no message of raft-rs.
pub fn decode_message(bytes: &[u8]) -> Result<Message, protobuf::ProtobufError> {
    Message::parse_from_bytes(bytes)
}
