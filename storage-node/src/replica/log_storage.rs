//! What raft-rs reads back: the replica's log and hard state, and snapshots for its peers.

use crate::raft_log::{LogError, LogPosition, LogState, RaftLog};
use parking_lot::Mutex;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot as RaftSnapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use rangedb_engine::Snapshot;
use rangedb_types::{RangeDescriptor, ReplicaId};
use std::sync::Arc;

/// The data of a range at one point of its log, held for a peer that needs a snapshot.
pub struct SnapshotData {
    pub position: LogPosition,
    pub descriptor: Arc<RangeDescriptor>,
    pub data: Arc<dyn Snapshot>,
}

/// Takes a snapshot of the applied state. It must not wait.
pub trait SnapshotSource: Send {
    /// `None` if there is none to be had for a while.
    ///
    /// # Errors
    /// Text for the log: the data store cannot be read. Raft gives up then, and the process ends.
    fn take(&self) -> Result<Option<SnapshotData>, String>;
}

/// The storage of one replica as raft-rs sees it.
pub struct LogStorage {
    replica_id: ReplicaId,
    log: Arc<dyn RaftLog>,
    source: Box<dyn SnapshotSource>,
    hard_state: HardState,
    conf_state: ConfState,
    truncated: LogPosition,
    last: LogPosition,
    /// The newest snapshot handed to Raft; the host takes it when the MsgSnapshot leaves.
    handed: Mutex<Option<SnapshotData>>,
}

impl LogStorage {
    /// `conf_state` is the one as of the applied index.
    ///
    /// # Errors
    /// `Damaged` if the last entry cannot be read.
    pub fn new(
        replica_id: ReplicaId,
        log: Arc<dyn RaftLog>,
        source: Box<dyn SnapshotSource>,
        state: LogState,
        conf_state: ConfState,
    ) -> Result<Self, LogError> {
        let mut storage = Self {
            replica_id,
            log,
            source,
            hard_state: state.hard_state,
            conf_state,
            truncated: state.truncated,
            last: state.truncated,
            handed: Mutex::new(None),
        };
        if state.last_index > state.truncated.index {
            let term = storage.read_term(state.last_index)?;
            storage.last = LogPosition { index: state.last_index, term };
        }
        Ok(storage)
    }

    #[must_use]
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    #[must_use]
    pub fn truncated(&self) -> LogPosition {
        self.truncated
    }

    /// The log store holds these entries from now on.
    pub fn note_appended(&mut self, last: LogPosition) {
        self.last = last;
    }

    pub fn note_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub fn note_commit(&mut self, commit: u64) {
        self.hard_state.commit = commit;
    }

    pub fn note_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// The log store dropped everything up to here.
    pub fn note_truncated(&mut self, position: LogPosition) {
        self.truncated = position;
    }

    /// The log store was reset to the end of a snapshot.
    pub fn note_reset(&mut self, position: LogPosition) {
        self.truncated = position;
        self.last = position;
    }

    /// The snapshot that the MsgSnapshot with this index speaks of.
    pub fn take_handed(&self, index: u64) -> Option<SnapshotData> {
        let mut handed = self.handed.lock();
        if handed.as_ref().is_some_and(|snapshot| snapshot.position.index == index) {
            return handed.take();
        }
        None
    }

    fn read_term(&self, index: u64) -> Result<u64, LogError> {
        let entries = self.log.entries(self.replica_id, index, index + 1, u64::MAX)?;
        entries.first().map(|entry| entry.term).ok_or_else(|| LogError::Damaged {
            replica_id: self.replica_id,
            detail: format!("entry {index} is missing"),
        })
    }
}

impl Storage for LogStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.index {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last.index + 1 {
            return Err(StorageError::Unavailable.into());
        }
        if low >= high {
            return Ok(Vec::new());
        }
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        self.log.entries(self.replica_id, low, high, bytes_max).map_err(storage_error)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.truncated.index {
            return Ok(self.truncated.term);
        }
        if index == self.last.index {
            return Ok(self.last.term);
        }
        if index < self.truncated.index {
            return Err(StorageError::Compacted.into());
        }
        if index > self.last.index {
            return Err(StorageError::Unavailable.into());
        }
        self.read_term(index).map_err(storage_error)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.index)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<RaftSnapshot> {
        let data = self
            .source
            .take()
            .map_err(|text| raft::Error::Store(StorageError::Other(text.into())))?;
        let Some(data) = data else {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        };
        if data.position.index < request_index.max(self.truncated.index) {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let mut snapshot = RaftSnapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = data.position.index;
        metadata.term = data.position.term;
        metadata.set_conf_state(super::membership::conf_state(&data.descriptor.replicas));
        *self.handed.lock() = Some(data);
        Ok(snapshot)
    }
}

fn storage_error(error: LogError) -> raft::Error {
    match error {
        LogError::Truncated { .. } => StorageError::Compacted.into(),
        other => raft::Error::Store(StorageError::Other(Box::new(other))),
    }
}
