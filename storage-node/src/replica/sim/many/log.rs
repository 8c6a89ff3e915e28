//! The Raft logs of one simulated node: of what was not synced, a crash leaves a part.

use super::super::disk::Contents;
use super::power::Power;
use crate::raft_log::{LogChange, LogError, LogState, LogWrite, RaftLog};
use parking_lot::Mutex;
use raft::eraftpb::Entry;
use rangedb_types::{Random, ReplicaId};
use std::collections::BTreeMap;
use std::sync::Arc;

type Logs = BTreeMap<ReplicaId, Contents>;

/// Entries that were written, and the term of the one before them.
pub struct Appended {
    pub replica_id: ReplicaId,
    pub before: Option<u64>,
    pub entries: Vec<Entry>,
}

#[derive(Default)]
struct State {
    written: Logs,
    synced: Logs,
    /// Written and not synced, in order.
    pending: Vec<LogWrite>,
    appended: Vec<Appended>,
    /// What the next purge asks to be cut.
    pins: Vec<ReplicaId>,
}

/// The log store of one simulated node.
pub struct SimLog {
    state: Mutex<State>,
    power: Arc<Power>,
    /// A disk that says it has synced what it has not.
    lies: bool,
}

fn change(logs: &mut Logs, change: &LogChange) {
    match change {
        LogChange::Remove { replica_id } => {
            logs.remove(replica_id);
        }
        LogChange::Append { replica_id, .. }
        | LogChange::SetHardState { replica_id, .. }
        | LogChange::ResetTo { replica_id, .. }
        | LogChange::Truncate { replica_id, .. } => {
            logs.entry(*replica_id).or_default().change(change);
        }
    }
}

impl SimLog {
    pub fn new(power: Arc<Power>, lies: bool) -> Self {
        Self { state: Mutex::default(), power, lies }
    }

    /// Power failed: of what was not synced, some of the oldest writes are left.
    pub fn crash(&self, random: &mut impl Random) {
        let mut state = self.state.lock();
        let kept = random.below(state.pending.len() as u64 + 1) as usize;
        state.pending.truncate(kept);
        state.sync();
        state.written = state.synced.clone();
    }

    /// What was appended since the last call.
    pub fn take_appended(&self) -> Vec<Appended> {
        std::mem::take(&mut self.state.lock().appended)
    }

    /// The next purge asks for this log to be cut.
    pub fn pin(&self, replica_id: ReplicaId) {
        self.state.lock().pins.push(replica_id);
    }
}

impl State {
    fn sync(&mut self) {
        for write in self.pending.drain(..) {
            for one in &write.changes {
                change(&mut self.synced, one);
            }
        }
    }

    fn note(&mut self, one: &LogChange) {
        if let LogChange::Append { replica_id, entries } = one
            && let Some(first) = entries.first()
        {
            let log = self.written.get(replica_id);
            let before = log.and_then(|log| log.term(first.index - 1));
            let entries = entries.clone();
            self.appended.push(Appended { replica_id: *replica_id, before, entries });
        }
    }
}

impl RaftLog for SimLog {
    fn write(&self, batch: LogWrite, sync: bool) -> Result<(), LogError> {
        let strike = self.power.strike();
        let dead = || Err(LogError::Io("the power failed".to_owned()));
        if strike.before() {
            return dead();
        }
        let mut state = self.state.lock();
        for one in &batch.changes {
            state.note(one);
            change(&mut state.written, one);
        }
        state.pending.push(batch);
        if strike.after() {
            return dead();
        }
        if sync && !self.lies {
            state.sync();
        }
        Ok(())
    }

    fn load(&self, replica_id: ReplicaId) -> Result<Option<LogState>, LogError> {
        Ok(self.state.lock().written.get(&replica_id).map(Contents::state))
    }

    fn entries(
        &self,
        replica_id: ReplicaId,
        low: u64,
        high: u64,
        _: u64,
    ) -> Result<Vec<Entry>, LogError> {
        let state = self.state.lock();
        let log = state.written.get(&replica_id);
        Ok(log.map(|log| log.entries(low, high)).unwrap_or_default())
    }

    fn replicas(&self) -> Vec<ReplicaId> {
        self.state.lock().written.keys().copied().collect()
    }

    fn purge(&self) -> Result<Vec<ReplicaId>, LogError> {
        Ok(std::mem::take(&mut self.state.lock().pins))
    }

    fn size_bytes(&self) -> u64 {
        0
    }
}
