//! Log and vote, as openraft wants them.
//!
//! Invariants: votes, entries, truncations and purges are synced before they are reported; the log
//! has no holes; the member's own vote comes back as not committed after a restart, so that it leads
//! again only after an election (a leader resumed without one could miss acknowledged writes).

use super::store::{self, PURGED, Store, StoreError, Table, VOTE};
use super::types::{Entry, LogId, StorageError, TypeConfig, Vote};
use super::witness::Promise;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogId as _, RaftLogReader};
use rangedb_types::PlacementId;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};

/// Most bytes of entries read for one message to a follower; at least one entry is read.
const READ_BYTES_MAX: usize = 4 << 20;

#[derive(Clone)]
pub(super) struct LogStore {
    store: Store,
    id: PlacementId,
    promise: Promise,
}

impl LogStore {
    pub(super) const fn new(store: Store, id: PlacementId, promise: Promise) -> Self {
        Self { store, id, promise }
    }

    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, StoreError> {
        self.store
            .blocking(move |store| {
                let mut entries = Vec::new();
                let mut bytes = 0;
                store.scan(Table::Log, &start.to_be_bytes(), |key, value| {
                    if store::index_of(key)? >= end
                        || (bytes > 0 && bytes + value.len() > bytes_max)
                    {
                        return Ok(false);
                    }
                    bytes += value.len();
                    entries.push(store::parse("log", value)?);
                    Ok(true)
                })?;
                Ok(entries)
            })
            .await
    }
}

/// The last entry, or the last one purged if there is none.
fn last_log_id(store: &Store) -> Result<Option<LogId>, StoreError> {
    let last = store.last(Table::Log, |_, value| {
        store::parse::<Entry>("log", value).map(|entry| entry.log_id)
    })?;
    match last {
        Some(log_id) => Ok(Some(log_id)),
        None => store.get(PURGED),
    }
}

fn append(store: &Store, entries: &[Entry]) -> Result<(), StoreError> {
    let mut last = last_log_id(store)?.map(|log_id| log_id.index);
    let mut batch = store.batch();
    for (at, entry) in entries.iter().enumerate() {
        let next = entry.log_id.index;
        // The first may overwrite what openraft has cut off, the others must follow it.
        match last {
            Some(last) if next > last + 1 || (at > 0 && next != last + 1) => {
                return Err(StoreError::Hole { last, next });
            }
            _ => last = Some(next),
        }
        batch.put_entry(next, entry);
    }
    store.write(batch)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        Ok(self.read(start, end, usize::MAX).await?)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(self.read(start, end, READ_BYTES_MAX).await?)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let state = self.store.blocking(|store| {
            Ok(LogState {
                last_purged_log_id: store.get(PURGED)?,
                last_log_id: last_log_id(store)?,
            })
        });
        Ok(state.await?)
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        // Before anybody can be told of it, whatever becomes of the write.
        self.promise.give(vote);
        let saved = self.store.blocking(move |store| {
            let mut batch = store.batch();
            batch.put(VOTE, &vote);
            store.write(batch)
        });
        Ok(saved.await?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let vote: Option<Vote> = self.store.blocking(|store| store.get(VOTE)).await?;
        vote.into_iter().for_each(|vote| self.promise.give(vote));
        Ok(vote.map(|mut vote| {
            if vote.leader_id.voted_for() == Some(self.id) {
                vote.committed = false;
            }
            vote
        }))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.store.blocking(move |store| append(store, &entries)).await?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let cut = self.store.blocking(move |store| {
            let mut batch = store.batch();
            batch.delete_entries(log_id.index, u64::MAX);
            store.write(batch)
        });
        Ok(cut.await?)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let purged = self.store.blocking(move |store| {
            let mut batch = store.batch();
            batch.put(PURGED, log_id.get_log_id());
            batch.delete_entries(0, log_id.index + 1);
            store.write(batch)
        });
        Ok(purged.await?)
    }
}
