//! Cutting a replica's log, and what a replica does that cannot go on by it.

use super::core::Replica;
use crate::raft_log::{LogChange, LogPosition};
use raft::Storage as _;
use rangedb_types::{MonotonicTime, ReplicaId};

impl Replica {
    /// The next entry can never be applied here. From now on this replica asks for a snapshot, and
    /// neither leads nor campaigns until it has one.
    pub fn ask_for_snapshot(&mut self) {
        self.wants_snapshot = true;
    }

    pub(super) fn keep_asking_for_snapshot(&mut self) {
        if self.is_leader() {
            let term = self.term();
            self.node.raft.become_follower(term, raft::INVALID_ID);
        }
        // Refused while there is no leader, and while one is asked for; the next tick asks again.
        let _refused = self.node.request_snapshot();
    }

    /// True, once in a long while, for a replica that no leader speaks to: it may have been removed,
    /// or its range merged away, without being told. Those who campaign are told; a learner does not,
    /// and of a range that is gone nobody is left to answer.
    pub fn wonders_whether_it_is_left(&mut self, now: MonotonicTime) -> bool {
        let lonely = self.is_initialised()
            && !self.is_leader()
            && now.since(self.last_led) > self.options.peer_down_after;
        if lonely {
            self.last_led = now;
        }
        lonely
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
            self.sizer.target(
                truncated.index,
                self.needed_by_followers(),
                limit,
                self.options.log_budget,
            )
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
}
