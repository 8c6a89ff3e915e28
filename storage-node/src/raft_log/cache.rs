//! Recent entries of every replica in memory, so that followers are fed and entries applied without
//! reading the disk.
//!
//! Invariants: what is cached of a replica is a gapless end of its log, as it was last written; the
//! bytes of all entries stay within the budget; the log below is always right, the cache only fast.

use super::metrics::Metrics;
use super::{LogChange, LogError, LogState, LogWrite, RaftLog};
use parking_lot::Mutex;
use protobuf::Message as _;
use raft::eraftpb::Entry;
use rangedb_types::ReplicaId;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// What an entry takes beside its payload.
const ENTRY_OVERHEAD_BYTES: u64 = size_of::<Entry>() as u64;
/// Appends remembered for eviction; older ones are evicted whatever the budget.
const APPENDS_MAX: usize = 64 << 10;

/// A [`RaftLog`] with a cache over it.
pub struct CachedLog {
    log: Arc<dyn RaftLog>,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    budget_bytes: u64,
    bytes: u64,
    tails: HashMap<ReplicaId, VecDeque<Entry>>,
    /// In the order they came: up to which index of which replica. The oldest goes first.
    appends: VecDeque<(ReplicaId, u64)>,
}

impl CachedLog {
    #[must_use]
    pub fn new(log: Arc<dyn RaftLog>, budget_bytes: u64) -> Self {
        Self { log, cache: Mutex::new(Cache { budget_bytes, ..Cache::default() }) }
    }

    /// Bytes of the entries in memory.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.cache.lock().bytes
    }
}

/// What becomes of the cache once a change is on its way to the disk.
enum Step {
    Append(ReplicaId, Vec<Entry>),
    Truncate(ReplicaId, u64),
    Forget(ReplicaId),
}

impl Step {
    /// Payloads are shared, not copied.
    fn of(change: &LogChange) -> Option<Self> {
        match change {
            LogChange::Append { replica_id, entries } => {
                Some(Self::Append(*replica_id, entries.clone()))
            }
            LogChange::Truncate { replica_id, position } => {
                Some(Self::Truncate(*replica_id, position.index))
            }
            LogChange::ResetTo { replica_id, .. } | LogChange::Remove { replica_id } => {
                Some(Self::Forget(*replica_id))
            }
            LogChange::SetHardState { .. } => None,
        }
    }
}

impl RaftLog for CachedLog {
    fn write(&self, batch: LogWrite, sync: bool) -> Result<(), LogError> {
        let steps: Vec<_> = batch.changes.iter().filter_map(Step::of).collect();
        self.log.write(batch, sync)?;
        let mut cache = self.cache.lock();
        for step in steps {
            match step {
                Step::Append(replica_id, entries) => cache.append(replica_id, entries),
                Step::Truncate(replica_id, index) => cache.truncate(replica_id, index),
                Step::Forget(replica_id) => cache.forget(replica_id),
            }
        }
        cache.evict();
        Metrics::get().cache_bytes.set(i64::try_from(cache.bytes).unwrap_or(i64::MAX));
        Ok(())
    }

    fn load(&self, replica_id: ReplicaId) -> Result<Option<LogState>, LogError> {
        self.log.load(replica_id)
    }

    fn entries(
        &self,
        replica_id: ReplicaId,
        low: u64,
        high: u64,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, LogError> {
        let (cached_from, cached) = self.cache.lock().read(replica_id, low, high, bytes_max);
        if low >= high || cached_from == low {
            Metrics::get().cache_hits.inc();
            return Ok(cached);
        }
        Metrics::get().cache_misses.inc();
        // Only the part that is not cached, if the rest is.
        let mut entries = self.log.entries(replica_id, low, cached_from, bytes_max)?;
        let complete = entries.last().is_some_and(|entry| entry.index + 1 == cached_from);
        if complete && !cached.is_empty() {
            let mut left = bytes_max.saturating_sub(entries.iter().map(entry_bytes).sum());
            for entry in cached {
                let Some(rest) = left.checked_sub(entry_bytes(&entry)) else { break };
                left = rest;
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    fn replicas(&self) -> Vec<ReplicaId> {
        self.log.replicas()
    }

    fn purge(&self) -> Result<Vec<ReplicaId>, LogError> {
        self.log.purge()
    }

    fn size_bytes(&self) -> u64 {
        self.log.size_bytes()
    }

    fn take_sync_time(&self) -> Option<Duration> {
        self.log.take_sync_time()
    }
}

impl Cache {
    fn append(&mut self, replica_id: ReplicaId, entries: Vec<Entry>) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        let (first, last) = (first.index, last.index);
        let tail = self.tails.entry(replica_id).or_default();
        while tail.back().is_some_and(|entry| entry.index >= first) {
            let overwritten = tail.pop_back();
            self.bytes -= overwritten.as_ref().map_or(0, held_bytes);
        }
        if tail.back().is_some_and(|entry| entry.index + 1 != first) {
            // What was between is not cached: begin anew.
            self.bytes -= tail.drain(..).map(|entry| held_bytes(&entry)).sum::<u64>();
        }
        self.bytes += entries.iter().map(held_bytes).sum::<u64>();
        tail.extend(entries);
        self.appends.push_back((replica_id, last));
    }

    fn truncate(&mut self, replica_id: ReplicaId, index: u64) {
        let Some(tail) = self.tails.get_mut(&replica_id) else { return };
        while tail.front().is_some_and(|entry| entry.index <= index) {
            let dropped = tail.pop_front();
            self.bytes -= dropped.as_ref().map_or(0, held_bytes);
        }
        if tail.is_empty() {
            self.tails.remove(&replica_id);
        }
    }

    fn forget(&mut self, replica_id: ReplicaId) {
        if let Some(tail) = self.tails.remove(&replica_id) {
            self.bytes -= tail.iter().map(held_bytes).sum::<u64>();
        }
    }

    fn evict(&mut self) {
        while self.bytes > self.budget_bytes || self.appends.len() > APPENDS_MAX {
            let Some((replica_id, index)) = self.appends.pop_front() else { return };
            self.truncate(replica_id, index);
        }
    }

    /// The cached part of `[low, high)`, and where it begins; `high` if nothing of it is cached.
    /// From the first entry that is asked for, at least one is given.
    fn read(
        &self,
        replica_id: ReplicaId,
        low: u64,
        high: u64,
        bytes_max: u64,
    ) -> (u64, Vec<Entry>) {
        let Some(tail) = self.tails.get(&replica_id) else { return (high, Vec::new()) };
        let (Some(front), Some(back)) = (tail.front(), tail.back()) else {
            return (high, Vec::new());
        };
        let from = low.max(front.index);
        // An end beyond what is cached is for the log itself to judge.
        if from >= high || high > back.index + 1 {
            return (high, Vec::new());
        }
        let position = |index: u64| {
            usize::try_from(index - front.index).expect("indexes of cached entries are close")
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        for entry in tail.range(position(from)..position(high)) {
            bytes += entry_bytes(entry);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        (from, entries)
    }
}

/// Bytes of an entry as a reader counts them.
fn entry_bytes(entry: &Entry) -> u64 {
    u64::from(entry.compute_size())
}

/// Bytes of an entry as the budget counts them.
fn held_bytes(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64 + ENTRY_OVERHEAD_BYTES
}
