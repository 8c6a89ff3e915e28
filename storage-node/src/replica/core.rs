//! The core of a replica: inputs in, effects out.
//!
//! The host drains inputs into `step`, then calls `ready` until there is nothing more: it sends
//! `send_now` at once, hands `apply` to the apply threads, writes the log changes of all replicas
//! together, and then calls `persisted`, whose messages may leave.

use super::command::{
    BOUNDARY, BoundaryChange, encode_boundary, encode_change_context, encode_check,
};
use super::compaction::LogSizer;
use super::input::Input;
use super::lease::Lease;
use super::log_storage::LogStorage;
use super::membership::{self, MembershipError, ReplicaChangeKind};
use super::merge::merge;
use super::options::ReplicaOptions;
use super::proposals::{self, Proposals, ProposeReply, Write};
use super::reads::{ReadReply, Reads};
use super::ready::InFlight;
use super::split::split;
use super::transfer::Transfers;
use crate::raft_log::LogPosition;
use crate::store::handle::{ProposeError, ReadError};
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, HardState, Message, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};
use rangedb_types::{
    Epoch, MonotonicTime, RangeDescriptor, Replica as Member, ReplicaId, ReplicaRole,
};
use std::collections::HashMap;
use std::sync::Arc;

/// Entries a follower may lack and still count as caught up.
const CAUGHT_UP_LAG_MAX: u64 = 1000;

/// One replica of one range.
pub struct Replica {
    pub replica_id: ReplicaId,
    pub(super) node: RawNode<LogStorage>,
    pub(super) options: ReplicaOptions,
    pub(super) descriptor: Arc<RangeDescriptor>,
    pub(super) started: MonotonicTime,
    /// True for a replica that a split made in this process, or a snapshot filled that came to one that
    /// began in this process: it has not forgotten any promise.
    pub(super) newborn: bool,
    /// It began without any log: whoever answers anything has its term on disk first.
    pub(super) unheard: bool,
    pub(super) transfers: Transfers,
    pub(super) lease: Lease,
    pub(super) reads: Reads,
    pub(super) proposals: Proposals,
    pub(super) writes: Vec<Write>,
    pub(super) applied: LogPosition,
    /// Last index given to the apply threads.
    pub(super) handed: u64,
    /// The term in which this replica was last seen to lead.
    pub(super) led_term: Option<u64>,
    pub(super) ticks_to_round: u32,
    /// The entry of this leader's that changes the bounds and is not applied yet: until it is, the
    /// lease is not renewed.
    pub(super) boundary: Option<u64>,
    /// Frozen for a merge: nothing is served, and the lease is not renewed.
    pub(super) frozen: bool,
    /// When a leader was last heard of, or the others asked for one.
    pub(super) last_led: MonotonicTime,
    /// Nothing more can be applied here: only a snapshot helps.
    pub(super) wants_snapshot: bool,
    /// The hard state as the log store holds it; the commit index may be ahead of it.
    pub(super) written: HardState,
    pub(super) in_flight: Option<InFlight>,
    /// Since when it sleeps.
    pub(super) asleep: Option<MonotonicTime>,
    pub(super) nap: Option<super::sleep::Nap>,
    /// Ticks since the range was last used.
    pub(super) idle_ticks: u32,
    pub(super) sizer: LogSizer,
    pub(super) last_contact: HashMap<u64, MonotonicTime>,
    /// Peers that a snapshot is on its way to, with its index: the log after it must stay.
    pub(super) snapshots_out: HashMap<u64, u64>,
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
        let written = storage.hard_state().clone();
        // Batched appends stay off: raft-rs 0.7 adds entries to a queued append that has none without
        // looking at its previous index, so that followers acknowledge entries they do not hold.
        let mut node = RawNode::new(&config, storage, logger)?;
        // Followers learn of a commit with the next append, or with the next round (two ticks): a
        // message of its own would cost each of them a pass and a log write for nothing.
        node.skip_bcast_commit(true);
        Ok(Self {
            replica_id,
            node,
            options,
            descriptor,
            started: now,
            newborn: false,
            unheard: false,
            transfers: Transfers::default(),
            lease: Lease::default(),
            reads: Reads::default(),
            proposals: Proposals::default(),
            writes: Vec::new(),
            applied,
            handed: applied.index,
            led_term: None,
            ticks_to_round: 0,
            boundary: None,
            frozen: false,
            wants_snapshot: false,
            last_led: now,
            written,
            in_flight: None,
            asleep: None,
            nap: None,
            idle_ticks: 0,
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

    /// True if every entry handed to the apply threads came back, or none of the others ever will.
    #[must_use]
    pub fn is_all_applied(&self) -> bool {
        self.wants_snapshot || self.handed == self.applied.index
    }

    /// Followers that hold (nearly) all of the log. Empty unless this replica leads.
    ///
    /// A follower that a snapshot brought to the very end of the log stays in the probing state
    /// until the next entry, which in an idle range never comes: what it acknowledged counts.
    #[must_use]
    pub fn caught_up(&self) -> Vec<ReplicaId> {
        self.peers(|_, progress, last| {
            progress.state != raft::ProgressState::Snapshot
                && progress.matched > 0
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
        self.note_input(&input);
        if self.is_asleep() {
            if self.sleeps_through(&input) {
                return;
            }
            self.wake(now, false);
        }
        match input {
            Input::Message(message) => self.step_message(message, now),
            Input::Propose(write) => self.writes.push(write),
            Input::Read(reply) | Input::Prove(reply) => self.take_read(reply),
            Input::Check { check_id, reply } => self.propose_check(check_id, reply),
            Input::ChangeReplicas { epoch, changes, leave_joint } => {
                self.propose_change(epoch, &changes, leave_joint);
            }
            Input::TransferLeader { to } => self.transfer_leader(to),
            Input::Boundary { epoch, change, reply } => {
                self.propose_boundary(epoch, &change, reply);
            }
            Input::Applied { position, descriptor, changes, frozen } => {
                self.set_frozen(frozen);
                self.note_applied(position, descriptor, &changes);
            }
            Input::Sleep { from, sleep } => self.follow_to_sleep(from, sleep, now),
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
            // It never campaigns. But it counts how long it has heard of no leader, and votes then.
            self.node.tick();
            return;
        }
        if self.is_asleep() {
            return;
        }
        self.idle_ticks = self.idle_ticks.saturating_add(1);
        self.reads.give_up_old_rounds(now);
        if self.wants_snapshot {
            self.keep_asking_for_snapshot();
            return;
        }
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
        self.bound_transfer();
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
        let mut voters =
            self.descriptor.replicas.iter().filter(|member| member.role != ReplicaRole::Learner);
        voters.next().is_some_and(|member| member.replica_id == self.replica_id)
            && voters.next().is_none()
    }

    fn step_message(&mut self, message: Message, now: MonotonicTime) {
        use MessageType as T;
        let kind = message.get_msg_type();
        let votes = matches!(kind, T::MsgRequestVote | T::MsgRequestPreVote | T::MsgTimeoutNow);
        let silent = self.in_start_up_silence(now) && !self.newborn;
        let deaf = kind == T::MsgTimeoutNow && !self.is_initialised();
        if votes && (silent || deaf) {
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
        if matches!(kind, T::MsgAppend | T::MsgHeartbeat | T::MsgSnapshot) {
            self.last_led = now;
        }
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

    /// A split enters the log by itself, so that everything before it was evaluated for the whole
    /// range.
    fn propose_boundary(&mut self, epoch: Epoch, change: &BoundaryChange, reply: ProposeReply) {
        let busy = self.boundary.is_some() || self.node.raft.has_pending_conf();
        if !self.leadership_established() {
            reply(Err(ProposeError::NotLeader));
        } else if busy {
            reply(Err(ProposeError::Overloaded));
        } else if let Err(reason) = self.check_boundary(epoch, change) {
            tracing::info!(range_id = %self.descriptor.range_id, reason, "bounds were not changed");
            reply(Err(ProposeError::EpochMismatch));
        } else {
            let before = self.last_index();
            self.propose_with(BOUNDARY, encode_boundary(epoch, change), vec![reply]);
            if self.last_index() > before {
                self.boundary = Some(self.last_index());
            }
        }
    }

    /// What is surely refused at apply is not proposed.
    fn check_boundary(&self, epoch: Epoch, change: &BoundaryChange) -> Result<(), String> {
        let range = &self.descriptor;
        let words = |error: &dyn std::error::Error| error.to_string();
        match change {
            BoundaryChange::Thaw(_) if self.frozen => Ok(()),
            BoundaryChange::Thaw(_) => Err("the range is not frozen".to_owned()),
            _ if self.frozen => Err("the range is frozen for a merge".to_owned()),
            BoundaryChange::Split(plan) => {
                split(range, epoch, plan).map(|_| ()).map_err(|error| words(&error))
            }
            BoundaryChange::Merge(plan) => {
                merge(range, epoch, &plan.right).map(|_| ()).map_err(|error| words(&error))
            }
            BoundaryChange::Freeze(_) if range.epoch != epoch || range.is_joint() => {
                Err("the range has changed since".to_owned())
            }
            BoundaryChange::RaiseVersion(version) if range.epoch.version != *version => {
                Err("the version was raised already".to_owned())
            }
            BoundaryChange::Freeze(_) | BoundaryChange::RaiseVersion(_) => Ok(()),
        }
    }

    pub fn set_frozen(&mut self, frozen: bool) {
        self.frozen = frozen;
        if frozen {
            self.lease.revoke();
        }
    }

    /// Up to where every follower holds the log; 0 unless this replica leads a frozen range.
    #[must_use]
    pub fn slowest_match(&self) -> u64 {
        if !self.frozen || !self.is_leader() {
            return 0;
        }
        self.node.raft.prs().iter().map(|(_, progress)| progress.matched).min().unwrap_or_default()
    }

    /// Another range's log proves that everything up to here is committed. Does nothing unless the
    /// log holds exactly that entry.
    pub fn force_commit(&mut self, position: LogPosition) {
        let log = &mut self.node.raft.raft_log;
        if position.index <= log.persisted
            && log.term(position.index).is_ok_and(|term| term == position.term)
        {
            log.commit_to(position.index);
        }
    }

    /// Tells the followers at once what is committed: the next append may be long in coming.
    pub fn announce_commit(&mut self) {
        if self.is_leader() {
            self.node.ping();
        }
    }

    /// A replica that a split made; `newborn` if it has answered nobody before. The one on the left
    /// leader's node campaigns at once, so that nobody waits for a leader.
    pub fn begin_after_split(&mut self, newborn: bool, campaign: bool) {
        self.newborn = newborn;
        if newborn
            && campaign
            && let Err(error) = self.node.campaign()
        {
            tracing::warn!(replica_id = %self.replica_id, %error, "cannot campaign");
        }
    }

    pub(super) fn propose(&mut self, data: Vec<u8>, replies: Vec<ProposeReply>) {
        self.propose_with(&[], data, replies);
    }

    fn propose_with(&mut self, context: &[u8], data: Vec<u8>, replies: Vec<ProposeReply>) {
        match self.node.propose(context.to_vec(), data) {
            Ok(()) => self.proposals.push(self.last_index(), self.term(), replies),
            // It is in no log.
            Err(_) if self.node.raft.lead_transferee.is_some() => {
                proposals::fail(replies, &ProposeError::HandingOver);
            }
            // Too much is uncommitted.
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
            || self.frozen
            || self.boundary.is_some()
            || epoch != self.descriptor.epoch
            || self.node.raft.has_pending_conf()
        {
            return;
        }
        let range = &self.descriptor;
        let change = if leave {
            membership::leave_joint(range)
        } else {
            self.only_caught_up(changes).and_then(|()| membership::change_replicas(range, changes))
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
    fn only_caught_up(
        &self,
        changes: &[(ReplicaChangeKind, Member)],
    ) -> Result<(), MembershipError> {
        let caught_up = self.caught_up();
        for (kind, member) in changes {
            if *kind == ReplicaChangeKind::Promote && !caught_up.contains(&member.replica_id) {
                return Err(MembershipError::WrongRole(member.replica_id.get()));
            }
        }
        Ok(())
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
        if self.boundary.is_some_and(|index| index <= position.index) {
            self.boundary = None;
        }
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
