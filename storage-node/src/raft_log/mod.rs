//! The Raft log of every replica of a node, in one store, so that one fsync covers the ready work of
//! all of them.
//!
//! Owns: entries, hard states and truncation points, keyed by replica id. Must not know: ranges,
//! the data engine, the network. Invariants: what `write(.., sync: true)` returned from is on disk;
//! the entries of a replica have no holes; a failed sync ends the process and is never retried.

mod ahead;
mod cache;
mod engine;
#[cfg(any(test, feature = "fault-injection"))]
pub mod fault;
mod metrics;
mod records;
mod recover;
mod settings;
#[cfg(test)]
mod tests;

pub use cache::CachedLog;
pub use engine::{EngineLog, FatalHook};
pub use settings::{LogSettings, LogSettingsError};

use raft::eraftpb::{Entry, HardState};
use rangedb_types::ReplicaId;
use std::time::Duration;

/// A point of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    pub index: u64,
    pub term: u64,
}

/// What the log store holds of one replica, apart from the entries themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogState {
    pub hard_state: HardState,
    /// The last entry that is no longer in the log (its term is kept).
    pub truncated: LogPosition,
    /// Equals `truncated.index` when the log holds no entry.
    pub last_index: u64,
}

/// Why the log store refused.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(
        "the raft log of replica {replica_id} is damaged: {detail}; if its ranges have other copies, remove the node and add it again with an empty data folder, else restore a backup"
    )]
    Damaged { replica_id: ReplicaId, detail: String },
    #[error(
        "the raft log in {path} cannot be opened: {detail}; if it is damaged and other nodes hold copies, remove the node and add it again with an empty data folder, else see that the disk works or restore a backup"
    )]
    Open { path: String, detail: String },
    #[error("the raft log cannot be read or written: {0}")]
    Io(String),
    #[error("the raft log of replica {replica_id} no longer holds index {index}")]
    Truncated { replica_id: ReplicaId, index: u64 },
}

/// Changes for many replicas, written together.
#[derive(Debug, Default)]
pub struct LogWrite {
    pub changes: Vec<LogChange>,
}

/// One change of one replica's log.
#[derive(Debug)]
pub enum LogChange {
    /// Entries are contiguous; those stored at or after the first one's index are replaced.
    Append {
        replica_id: ReplicaId,
        entries: Vec<Entry>,
    },
    SetHardState {
        replica_id: ReplicaId,
        hard_state: HardState,
    },
    /// The whole log is replaced by a snapshot that ends here.
    ResetTo {
        replica_id: ReplicaId,
        position: LogPosition,
        hard_state: HardState,
    },
    /// Entries up to and including this one are no longer needed.
    Truncate {
        replica_id: ReplicaId,
        position: LogPosition,
    },
    /// Nothing of this replica is needed any more.
    Remove {
        replica_id: ReplicaId,
    },
}

impl LogWrite {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// A store of Raft logs. Implementations are safe to call from several threads; the changes of one
/// replica come from one thread at a time.
pub trait RaftLog: Send + Sync {
    /// Writes atomically; with `sync`, returns only when it is on disk.
    ///
    /// # Errors
    /// `LogError::Io`: the caller must end the process.
    fn write(&self, batch: LogWrite, sync: bool) -> Result<(), LogError>;

    /// What is stored of a replica; `None` if nothing is.
    ///
    /// # Errors
    /// `Damaged` if it cannot be read back.
    fn load(&self, replica_id: ReplicaId) -> Result<Option<LogState>, LogError>;

    /// Entries of `[low, high)`, at least one, then as many as fit in `bytes_max`.
    ///
    /// # Errors
    /// `Truncated` below the first index, `Damaged` if an entry that should be there is not.
    fn entries(
        &self,
        replica_id: ReplicaId,
        low: u64,
        high: u64,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, LogError>;

    /// Every replica that has anything stored.
    fn replicas(&self) -> Vec<ReplicaId>;

    /// Gives space back. Returns the replicas whose old entries pin the most: flush and truncate
    /// them.
    ///
    /// # Errors
    /// `LogError::Io`.
    fn purge(&self) -> Result<Vec<ReplicaId>, LogError>;

    /// Bytes on disk.
    fn size_bytes(&self) -> u64;

    /// The mean time of the synced writes since the last call; `None` if there were none.
    fn take_sync_time(&self) -> Option<Duration> {
        None
    }
}
