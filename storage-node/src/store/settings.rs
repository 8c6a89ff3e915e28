//! The settings of the store.

use crate::replica::ReplicaOptions;
use crate::replica::compaction::LogBudget;
use std::time::Duration;

/// How the store runs its replicas.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    pub replica: ReplicaOptions,
    /// Threads that drive Raft. Each has its own fsync; one is enough for a small machine.
    pub raft_threads: usize,
    /// Time between two rounds of log cutting.
    pub maintenance_interval: Duration,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            replica: ReplicaOptions {
                tick: Duration::from_millis(100),
                election_ticks: 10,
                election_ticks_drawn: (10, 20),
                round_ticks: 2,
                sleep_ticks: 30,
                log_budget: LogBudget { retain_bytes: 16 << 20, retain_entries: 50_000 },
                peer_down_after: Duration::from_secs(10),
            },
            raft_threads: 1,
            maintenance_interval: Duration::from_secs(1),
        }
    }
}
