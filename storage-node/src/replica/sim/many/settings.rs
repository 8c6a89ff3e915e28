//! What a run is made of, and which of its safeguards are taken out.

use super::engine::Tamper;

/// Safeguards that are taken out, to see that it is noticed.
#[derive(Clone, Copy, Default)]
pub struct Sabotage {
    /// Changes what is written to the data engines.
    pub engine: Option<Tamper>,
    /// The log disks say that they have synced, and have not.
    pub log_never_syncs: bool,
    /// Merges do not wait until every replica holds the freeze.
    pub no_freeze_wait: bool,
    /// Writes are proposed under the version of now, not under that for which they were made.
    pub no_epoch_check: bool,
    /// Time passes on the first node at a third of its pace, so that its leases are too long.
    pub slow_clock: bool,
}

/// What may happen in a run.
#[derive(Clone, Copy)]
pub struct Plan {
    pub nodes: u64,
    pub steps: u64,
    pub raft_threads: usize,
    pub merges: bool,
    pub moves: bool,
    pub sabotage: Sabotage,
}

impl Plan {
    /// Everything, with one or two pairs of threads a node by turns.
    pub fn of_seed(seed: u64) -> Self {
        Self {
            nodes: 3 + seed % 3,
            steps: STEPS,
            raft_threads: 1 + (seed / 3 % 2) as usize,
            merges: true,
            moves: true,
            sabotage: Sabotage::default(),
        }
    }
}

/// Steps of one run.
const STEPS: u64 = 100_000;
