//! Time and sizes of one replica, and what they mean for raft-rs.

use super::compaction::LogBudget;
use rangedb_types::ReplicaId;
use std::time::Duration;

/// Time and sizes of one replica.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaOptions {
    pub tick: Duration,
    pub election_ticks: usize,
    /// Each election time-out is drawn from these, the second excluded.
    pub election_ticks_drawn: (usize, usize),
    /// Ticks between the rounds that renew the lease.
    pub round_ticks: u32,
    /// Ticks without use after which a range falls asleep.
    pub sleep_ticks: u32,
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
            min_election_tick: self.election_ticks_drawn.0,
            max_election_tick: self.election_ticks_drawn.1,
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
