//! The state machine on disk, as openraft wants it, and snapshots.
//!
//! Invariants: what `apply` returned is on disk, together with its log id; what readers see is
//! applied; a received snapshot is on disk before openraft hears of it, and an install that a crash
//! cut short is finished before openraft starts again (openraft may cut the log off first).

use super::store::{self, APPLIED, PURGED, STAGED_DATA, STAGED_META, Store, StoreError, Table};
use super::types::{
    Entry, LogId, Snapshot, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
};
use crate::state::{MetaEntry, MetaEvent, Response, SnapshotError, State};
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

#[derive(Clone, Default)]
struct Applied {
    state: State,
    last_applied: Option<LogId>,
    membership: StoredMembership,
}

/// The row that changes with every batch of metadata.
#[derive(Serialize, Deserialize)]
struct AppliedRow {
    last_applied: Option<LogId>,
    membership: StoredMembership,
    revision: u64,
}

/// The applied state, for readers.
#[derive(Clone)]
pub(super) struct SharedState {
    applied: Arc<RwLock<Applied>>,
    revision: Arc<watch::Sender<u64>>,
}

impl SharedState {
    pub(super) fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read(&self.applied.read().state)
    }

    /// The revision of the applied state, as it grows.
    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}

#[derive(Clone)]
struct Current {
    meta: SnapshotMeta,
    data: Arc<Vec<u8>>,
}

impl Current {
    fn snapshot(&self) -> Snapshot {
        let snapshot = Box::new(Cursor::new(self.data.as_ref().clone()));
        Snapshot { meta: self.meta.clone(), snapshot }
    }
}

pub(super) struct StateMachine {
    store: Store,
    shared: SharedState,
    /// The last snapshot built or received. In memory only: the state machine itself is durable.
    current: Arc<Mutex<Option<Current>>>,
    snapshots: Arc<AtomicU64>,
}

impl StateMachine {
    /// Finishes an install that was cut short, then reads the state. Blocks on the disk.
    pub(super) fn open(store: Store) -> Result<Self, OpenError> {
        finish_staged(&store)?;
        reconcile_log(&store)?;
        let applied = load(&store)?;
        let (revision, _) = watch::channel(applied.state.revision());
        let shared =
            SharedState { applied: Arc::new(RwLock::new(applied)), revision: Arc::new(revision) };
        Ok(Self { store, shared, current: Arc::default(), snapshots: Arc::default() })
    }

    pub(super) fn shared(&self) -> SharedState {
        self.shared.clone()
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

fn load(store: &Store) -> Result<Applied, OpenError> {
    let Some(row) = store.get::<AppliedRow>(APPLIED)? else { return Ok(Applied::default()) };
    let mut entries = Vec::new();
    store.scan(Table::Metadata, b"", |key, value| {
        entries.push(metadata_row(key, value)?);
        Ok(true)
    })?;
    let state = State::restore(row.revision, entries).map_err(SnapshotError::from)?;
    Ok(Applied { state, last_applied: row.last_applied, membership: row.membership })
}

fn metadata_row(key: &[u8], value: &[u8]) -> Result<MetaEntry, StoreError> {
    let corrupt = |why: &str| StoreError::Corrupt {
        row: String::from_utf8_lossy(key).into_owned(),
        why: why.to_owned(),
    };
    let (revision, value) = value.split_first_chunk::<8>().ok_or_else(|| corrupt("too short"))?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| corrupt("not UTF-8"));
    Ok(MetaEntry { key: text(key)?, value: text(value)?, revision: u64::from_be_bytes(*revision) })
}

/// Puts a received snapshot on disk, so that it survives whatever happens until it is installed.
///
/// Refuses one that is damaged: openraft's chunks may leave a gap.
pub(super) fn stage(store: &Store, meta: &SnapshotMeta, data: &[u8]) -> Result<(), OpenError> {
    State::from_snapshot(data)?;
    let mut batch = store.batch();
    batch.put(STAGED_META, meta);
    batch.put_raw(STAGED_DATA, data);
    Ok(store.write(batch)?)
}

/// Forgets a staged snapshot that openraft did not want.
pub(super) fn unstage(store: &Store) -> Result<(), StoreError> {
    if store.get_raw(STAGED_META)?.is_none() {
        return Ok(());
    }
    let mut batch = store.batch();
    batch.delete(STAGED_META);
    batch.delete(STAGED_DATA);
    store.write(batch)
}

/// Installs a snapshot that was staged and not installed. What it holds is committed, so it is right
/// to install it whatever became of the leader that sent it.
fn finish_staged(store: &Store) -> Result<(), OpenError> {
    let Some(meta) = store.get::<SnapshotMeta>(STAGED_META)? else { return Ok(()) };
    let applied = store.get::<AppliedRow>(APPLIED)?.and_then(|row| row.last_applied);
    let Some(last) = meta.last_log_id.filter(|last| Some(*last) > applied) else {
        return Ok(unstage(store)?);
    };
    let data = store.get_raw(STAGED_DATA)?.unwrap_or_default();
    let state = State::from_snapshot(&data)?;
    tracing::info!(%last, "finishing to install a snapshot that a restart interrupted");
    Ok(store.write(install_batch(store, &meta, &state))?)
}

/// Drops a log that does not hold the last applied entry although it should: it ends before an
/// installed snapshot, or differs from what was committed, and openraft had no time to cut it.
fn reconcile_log(store: &Store) -> Result<(), StoreError> {
    let Some(applied) = store.get::<AppliedRow>(APPLIED)?.and_then(|row| row.last_applied) else {
        return Ok(());
    };
    let purged: Option<LogId> = store.get(PURGED)?;
    if let Some(purged) = purged.filter(|purged| purged.index >= applied.index) {
        return if purged.index == applied.index {
            Ok(())
        } else {
            Err(StoreError::Hole { last: applied.index, next: purged.index + 1 })
        };
    }
    if store::has_entry(store, &applied)? {
        return Ok(());
    }
    let mut batch = store.batch();
    batch.delete_entries(0, u64::MAX);
    batch.put(PURGED, &applied);
    store.write(batch)
}

fn install_batch<'a>(store: &'a Store, meta: &SnapshotMeta, state: &State) -> store::Batch<'a> {
    let mut batch = store.batch();
    batch.clear_metadata();
    for entry in state.meta_list("", "") {
        batch.put_metadata(&entry.key, &entry.value, entry.revision);
    }
    batch.put(
        APPLIED,
        &AppliedRow {
            last_applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
            revision: state.revision(),
        },
    );
    batch.delete(STAGED_META);
    batch.delete(STAGED_DATA);
    batch
}

impl Applied {
    fn execute(&mut self, entry: Entry, events: &mut Vec<MetaEvent>) -> Response {
        self.last_applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Response::Nothing,
            EntryPayload::Normal(command) => {
                let (response, changed) = self.state.apply(&command);
                events.extend(changed);
                response
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Response::Nothing
            }
        }
    }
}

fn apply(
    store: &Store,
    shared: &SharedState,
    entries: Vec<Entry>,
) -> Result<Vec<Response>, StoreError> {
    let mut events = Vec::new();
    let (responses, row) = {
        let mut applied = shared.applied.write();
        let responses: Vec<Response> =
            entries.into_iter().map(|entry| applied.execute(entry, &mut events)).collect();
        let row = AppliedRow {
            last_applied: applied.last_applied,
            membership: applied.membership.clone(),
            revision: applied.state.revision(),
        };
        (responses, row)
    };
    let mut batch = store.batch();
    for event in &events {
        match &event.value {
            Some(value) => batch.put_metadata(&event.key, value, event.revision),
            None => batch.delete_metadata(&event.key),
        }
    }
    batch.put(APPLIED, &row);
    // Entries are committed, so readers may see them before this; an error stops the member.
    store.write(batch)?;
    if !events.is_empty() {
        shared.revision.send_replace(row.revision);
    }
    Ok(responses)
}

pub(super) struct SnapshotBuilder {
    applied: Applied,
    current: Arc<Mutex<Option<Current>>>,
    snapshots: Arc<AtomicU64>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let applied = self.applied.clone();
        let data = tokio::task::spawn_blocking(move || applied.state.to_snapshot())
            .await
            .map_err(|error| StorageIOError::read_state_machine(AnyError::new(&error)))?;
        let number = self.snapshots.fetch_add(1, Ordering::Relaxed);
        let last = self.applied.last_applied.map(|last| last.to_string()).unwrap_or_default();
        let meta = SnapshotMeta {
            last_log_id: self.applied.last_applied,
            last_membership: self.applied.membership.clone(),
            snapshot_id: format!("{last}/{number}"),
        };
        let current = Current { meta, data: Arc::new(data) };
        super::metrics::SNAPSHOTS.with_label_values(&["built"]).inc();
        let mut newest = self.current.lock();
        let older = newest
            .as_ref()
            .is_none_or(|newest| newest.meta.last_log_id <= current.meta.last_log_id);
        if older {
            *newest = Some(current.clone());
        }
        Ok(current.snapshot())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let applied = self.shared.applied.read();
        Ok((applied.last_applied, applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Response>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let shared = self.shared.clone();
        Ok(self.store.blocking(move |store| apply(store, &shared, entries)).await?)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            applied: self.shared.applied.read().clone(),
            current: Arc::clone(&self.current),
            snapshots: Arc::clone(&self.snapshots),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let data = Arc::new(snapshot.into_inner());
        let current = Current { meta: meta.clone(), data: Arc::clone(&data) };
        let meta = meta.clone();
        let state = State::from_snapshot(&data).map_err(|error| {
            StorageIOError::read_snapshot(Some(meta.signature()), AnyError::new(&error))
        })?;
        let shared = self.shared.clone();
        let installed = self.store.blocking(move |store| {
            store.write(install_batch(store, &meta, &state))?;
            let revision = state.revision();
            *shared.applied.write() =
                Applied { state, last_applied: meta.last_log_id, membership: meta.last_membership };
            shared.revision.send_replace(revision);
            Ok(())
        });
        installed.await?;
        super::metrics::SNAPSHOTS.with_label_values(&["installed"]).inc();
        *self.current.lock() = Some(current);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self.current.lock().as_ref().map(Current::snapshot))
    }
}
