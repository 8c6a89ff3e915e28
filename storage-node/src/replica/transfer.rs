//! Handing the lead to another replica. Writes wait meanwhile, so it is short, or it is given up.

use super::core::Replica;
use rangedb_types::ReplicaId;

/// A transfer that takes longer is given up, and writes go on here. It may still come about later: the
/// lease is gone for the rest of the term in any case. The next one may take twice as long.
const TICKS_FIRST: u32 = 3;

/// What became of transfers in a term.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Transfers {
    term: u64,
    given_up: u32,
    /// Since the present one began.
    ticks: u32,
}

impl Transfers {
    fn limit(self, election_ticks: usize) -> u32 {
        let longest = u32::try_from(election_ticks).unwrap_or(u32::MAX);
        TICKS_FIRST.saturating_mul(1 << self.given_up.min(8)).min(longest)
    }
}

impl Replica {
    pub(super) fn transfer_leader(&mut self, to: ReplicaId) {
        if !self.is_leader() || to == self.replica_id || !self.caught_up().contains(&to) {
            return;
        }
        // The chosen one may win an election that lease promises do not hold back.
        self.lease.suspend(self.term());
        if self.transfers.term != self.term() {
            self.transfers = Transfers { term: self.term(), ..Transfers::default() };
        }
        if self.node.raft.lead_transferee.is_none() {
            self.transfers.ticks = 0;
        }
        // It does not campaign while it knows of a change of members that it has not applied, and
        // would learn late that the last one is committed.
        self.announce_commit();
        self.node.transfer_leader(to.get());
    }

    /// Call at every tick.
    pub(super) fn bound_transfer(&mut self) {
        if self.node.raft.lead_transferee.is_none() {
            return;
        }
        self.transfers.ticks += 1;
        if self.transfers.ticks >= self.transfers.limit(self.options.election_ticks) {
            self.transfers.given_up += 1;
            tracing::info!(
                range_id = %self.descriptor.range_id,
                to = ?self.node.raft.lead_transferee,
                "gave up handing the lead over"
            );
            self.node.raft.abort_leader_transfer();
        }
    }

    /// This replica begins here and now, and no log of it was found.
    pub fn begin_unheard(&mut self) {
        self.unheard = true;
    }
}
