//! The sleep of an idle range: no ticks, no beats, no rounds, until somebody wants something.
//!
//! The leader falls asleep once nothing has happened for a while and every follower holds all of the
//! log, and tells them the term and index at which it did; a follower that agrees sleeps too. The
//! lease is not renewed in sleep, so nothing is served by virtue of it: the first read after a sleep
//! asks a majority. Any message, proposal or read wakes a replica. What beats do for a range that is
//! awake, beats of nodes do for those that sleep (`store::naps`): a follower whose leader's node has
//! fallen silent is woken, and only then does the time it slept count towards its election time-out:
//! while that node speaks, the follower stays bound by its promise not to vote.

use super::core::Replica;
use super::input::Input;
use raft::eraftpb::MessageType;
use rangedb_types::{MonotonicTime, NodeId, ReplicaId, ReplicaRole};

/// Where a leader fell asleep. A follower that is anywhere else stays awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sleep {
    pub term: u64,
    pub index: u64,
}

/// A sleep that leader and followers have agreed upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nap {
    pub sleep: Sleep,
    pub leads: bool,
    /// Of a leader: followers that were down and did not agree.
    pub without: Vec<ReplicaId>,
}

impl Replica {
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        self.asleep.is_some()
    }

    /// What it agreed to sleep upon; none also while it sleeps because it was just loaded.
    #[must_use]
    pub fn nap(&self) -> Option<&Nap> {
        self.nap.as_ref()
    }

    /// Puts a replica to sleep that was just loaded: it is woken with the others, a few at a time.
    pub fn begin_asleep(&mut self, now: MonotonicTime) {
        self.asleep = Some(now);
    }

    /// Something used the range without asking this replica: a read under the lease.
    pub fn note_use(&mut self) {
        self.idle_ticks = 0;
    }

    /// The leader falls asleep if nothing keeps it awake. `is_silent` tells of nodes that were not
    /// heard from for long: replicas there need not agree, if they were reported as down.
    pub fn fall_asleep(
        &mut self,
        now: MonotonicTime,
        is_silent: impl Fn(NodeId) -> bool,
    ) -> Option<Sleep> {
        if self.idle_ticks < self.options.sleep_ticks
            || !self.is_at_rest()
            || !self.two_are_a_majority()
        {
            return None;
        }
        let without = self.disagreeing(now, is_silent)?;
        self.asleep = Some(now);
        let sleep = Sleep { term: self.term(), index: self.last_index() };
        self.nap = Some(Nap { sleep, leads: true, without });
        Some(sleep)
    }

    /// True if the leader and any of its followers are a majority together: then the two know, asleep, that nobody
    /// else was elected, and the follower may answer reads (`docs/closed-timestamps.md`).
    fn two_are_a_majority(&self) -> bool {
        let is_learner = |member: &&rangedb_types::Replica| member.role == ReplicaRole::Learner;
        let members = &self.descriptor.replicas;
        let learners = members.iter().filter(is_learner).count();
        let voters = members.len() - learners;
        voters == 1 || (voters <= 3 && learners == 0)
    }

    /// True if this leader has nothing under way.
    fn is_at_rest(&self) -> bool {
        self.leadership_established()
            && self.in_flight.is_none()
            && self.is_settled()
            && self.writes.is_empty()
            && self.proposals.is_empty()
            && self.reads.is_empty()
            && self.boundary.is_none()
            && self.snapshots_out.is_empty()
            && !self.descriptor.is_joint()
            && !self.node.raft.has_pending_conf()
            && self.node.raft.lead_transferee.is_none()
    }

    /// True if everything in the log is applied, and the range is not frozen.
    fn is_settled(&self) -> bool {
        let last = self.last_index();
        !self.frozen
            && !self.wants_snapshot
            && self.is_all_applied()
            && self.applied.index == last
            && self.node.raft.raft_log.committed == last
    }

    /// Followers that need not agree, as they are down; none at all if another one does not.
    fn disagreeing(
        &self,
        now: MonotonicTime,
        is_silent: impl Fn(NodeId) -> bool,
    ) -> Option<Vec<ReplicaId>> {
        let last = self.last_index();
        let down = self.down(now);
        let mut without = Vec::new();
        let own = self.replica_id.get();
        for (id, progress) in self.node.raft.prs().iter().filter(|(id, _)| **id != own) {
            let id = ReplicaId(*id);
            let node = self.descriptor.replica(id).map(|member| member.node_id);
            if node.is_some_and(&is_silent) && down.contains(&id) {
                without.push(id);
                continue;
            }
            let contact = self.last_contact.get(&id.get()).copied();
            let heard = contact.is_some_and(|at| now.since(at) < self.options.election_timeout());
            if progress.matched != last || !heard {
                return None;
            }
        }
        Some(without)
    }

    /// The leader fell asleep.
    pub(super) fn follow_to_sleep(&mut self, from: ReplicaId, sleep: Sleep, now: MonotonicTime) {
        let agrees = !self.is_leader()
            && self.leader_id() == Some(from)
            && self.term() == sleep.term
            && self.last_index() == sleep.index
            && self.is_settled();
        if agrees {
            self.asleep = Some(now);
            self.nap = Some(Nap { sleep, leads: false, without: Vec::new() });
        }
    }

    /// True if the input is nothing to a sleeper.
    pub(super) fn sleeps_through(&self, input: &Input) -> bool {
        match input {
            // The last answers to the leader's beats.
            Input::Message(message) => {
                message.get_msg_type() == MessageType::MsgHeartbeatResponse
                    && message.term == self.term()
            }
            Input::Unreachable(_) | Input::Sleep { .. } => true,
            _ => false,
        }
    }

    /// Counts what shows that the range is in use.
    pub(super) fn note_input(&mut self, input: &Input) {
        let idle = match input {
            Input::Message(message) => matches!(
                message.get_msg_type(),
                MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse
            ),
            Input::Unreachable(_) | Input::Sleep { .. } | Input::Prove(_) => true,
            _ => false,
        };
        if !idle {
            self.idle_ticks = 0;
        }
    }

    /// Goes on. `leader_silent`: the node of the leader that this follower knows was not heard from
    /// for at least an election time-out, so whatever was promised to it has run out.
    pub fn wake(&mut self, now: MonotonicTime, leader_silent: bool) {
        let Some(since) = self.asleep.take() else { return };
        self.nap = None;
        self.idle_ticks = 0;
        // In its sleep nobody was to speak to it.
        self.last_led = now;
        if self.is_leader() {
            // It proves itself to its followers anew, and has a whole time-out for that.
            self.ticks_to_round = 0;
            self.node.raft.election_elapsed = 0;
        } else if leader_silent {
            let slept = now.since(since).as_nanos() / self.options.tick.as_nanos().max(1);
            // The tick that comes next may come at once.
            let slept = usize::try_from(slept).unwrap_or(usize::MAX).saturating_sub(1);
            let elapsed = self.node.raft.election_elapsed.saturating_add(slept);
            self.node.raft.election_elapsed = elapsed.min(self.options.election_ticks);
        }
    }
}
