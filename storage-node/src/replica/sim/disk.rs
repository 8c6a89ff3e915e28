//! A Raft log in memory that forgets what was not synced when it crashes.

use crate::raft_log::{LogChange, LogError, LogPosition, LogState, LogWrite, RaftLog};
use parking_lot::Mutex;
use raft::eraftpb::{Entry, HardState};
use rangedb_types::ReplicaId;

/// The log of one replica.
#[derive(Clone, Default)]
pub struct Contents {
    hard_state: HardState,
    truncated: LogPosition,
    entries: Vec<Entry>,
}

/// The disk of one simulated node; it holds one replica's log.
pub struct SimDisk {
    /// (what is written, what is synced)
    contents: Mutex<(Contents, Contents)>,
}

impl SimDisk {
    pub fn new(state: LogState) -> Self {
        let contents = Contents {
            hard_state: state.hard_state,
            truncated: state.truncated,
            entries: Vec::new(),
        };
        Self { contents: Mutex::new((contents.clone(), contents)) }
    }

    /// The last entry that a crash would leave.
    pub fn synced_last_index(&self) -> u64 {
        self.contents.lock().1.last_index()
    }

    /// Power fails: only what was synced is left.
    pub fn crash(&self) {
        let mut contents = self.contents.lock();
        contents.0 = contents.1.clone();
    }
}

impl Contents {
    fn last_index(&self) -> u64 {
        self.entries.last().map_or(self.truncated.index, |entry| entry.index)
    }

    pub fn state(&self) -> LogState {
        LogState {
            hard_state: self.hard_state.clone(),
            truncated: self.truncated,
            last_index: self.last_index(),
        }
    }

    pub fn entries(&self, low: u64, high: u64) -> Vec<Entry> {
        let wanted = |entry: &&Entry| (low..high).contains(&entry.index);
        self.entries.iter().filter(wanted).cloned().collect()
    }

    /// The term of an entry, if it is known.
    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.truncated.index {
            return Some(self.truncated.term);
        }
        self.entries.iter().find(|entry| entry.index == index).map(|entry| entry.term)
    }

    pub fn change(&mut self, change: &LogChange) {
        match change {
            LogChange::Append { entries, .. } => {
                let first = entries[0].index;
                assert!(first <= self.last_index() + 1, "a hole in the log");
                assert!(first > self.truncated.index, "truncated entries come back");
                self.entries.retain(|entry| entry.index < first);
                self.entries.extend(entries.iter().cloned());
            }
            LogChange::SetHardState { hard_state, .. } => self.hard_state = hard_state.clone(),
            LogChange::ResetTo { position, hard_state, .. } => {
                let hard_state = hard_state.clone();
                *self = Self { hard_state, truncated: *position, entries: Vec::new() };
            }
            LogChange::Truncate { position, .. } => {
                self.entries.retain(|entry| entry.index > position.index);
                self.truncated = *position;
            }
            LogChange::Remove { .. } => self.entries.clear(),
        }
    }
}

impl RaftLog for SimDisk {
    fn write(&self, batch: LogWrite, sync: bool) -> Result<(), LogError> {
        let mut contents = self.contents.lock();
        for change in batch.changes {
            contents.0.change(&change);
        }
        if sync {
            contents.1 = contents.0.clone();
        }
        Ok(())
    }

    fn load(&self, _: ReplicaId) -> Result<Option<LogState>, LogError> {
        Ok(Some(self.contents.lock().0.state()))
    }

    fn entries(&self, _: ReplicaId, low: u64, high: u64, _: u64) -> Result<Vec<Entry>, LogError> {
        Ok(self.contents.lock().0.entries(low, high))
    }

    fn replicas(&self) -> Vec<ReplicaId> {
        Vec::new()
    }

    fn purge(&self) -> Result<Vec<ReplicaId>, LogError> {
        Ok(Vec::new())
    }

    fn size_bytes(&self) -> u64 {
        0
    }
}
