//! Cutting a replica's log.

use super::core::Replica;
use crate::raft_log::{LogChange, LogPosition};
use raft::Storage as _;
use rangedb_types::ReplicaId;

impl Replica {
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
