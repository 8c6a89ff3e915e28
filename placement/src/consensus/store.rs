//! The member's database: log, vote, state machine and received snapshots in one RocksDB, so that
//! one synced batch can change several of them at once.
//!
//! Owns: files, tables, keys, and how rows are written. Must not know: the meaning of entries.
//! Invariants: every write is synced before it is reported done; the log has no holes; the
//! `applied` row and the metadata rows change in one batch.
//!
//! Tables: `log` (index, 8 bytes big-endian → entry as JSON) · `raft` (the rows named below, JSON)
//! · `metadata` (key → revision, 8 bytes big-endian, then the value).

use super::types::{LogId, StorageError};
use crate::state::StoreId;
use openraft::{AnyError, StorageIOError};
use rangedb_types::PlacementId;
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, Options, WriteBatch, WriteOptions,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

pub(super) const VOTE: &str = "vote";
pub(super) const PURGED: &str = "purged";
pub(super) const APPLIED: &str = "applied";
pub(super) const STAGED_META: &str = "staged_meta";
pub(super) const STAGED_DATA: &str = "staged_data";
const OWNER: &str = "owner";

const WRITE_BUFFER_BYTES: usize = 8 << 20;

/// The database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database of this member failed: {0}")]
    Database(#[from] rocksdb::Error),
    #[error(
        "the database in {path} cannot be opened: {source}; if another process has it, stop that one; if it is damaged, remove this member with `rangedb-cli admin placement remove` and add it again under a new id with an empty folder, or restore a backup if it is the only one"
    )]
    Open { path: String, source: rocksdb::Error },
    #[error(
        "the database in {path} is damaged: {source}; remove this member with `rangedb-cli admin placement remove` and add it again under a new id with an empty folder, or restore a backup if it is the only one"
    )]
    Damaged { path: String, source: Box<StoreError> },
    #[error("the row `{row}` of this member's database cannot be read: {why}")]
    Corrupt { row: String, why: String },
    #[error(
        "the database in {path} is gone, but the data folder has been part of a cluster: this member lost its data; remove it with `rangedb-cli admin placement remove` and add it again under a new id with an empty folder"
    )]
    Lost { path: String },
    #[error(
        "the database in {path} belongs to another data folder (store {found}); restore the right one"
    )]
    Foreign { path: String, found: StoreId },
    #[error("the log would have a hole: entry {next} after entry {last}")]
    Hole { last: u64, next: u64 },
    #[error("the database is closed")]
    Closed,
}

impl StoreError {
    /// What was found in the database while it was opened, with the place and what to do.
    pub(super) fn at(self, path: &Path) -> Self {
        match self {
            Self::Database(_) | Self::Corrupt { .. } | Self::Hole { .. } => {
                Self::Damaged { path: path.display().to_string(), source: Box::new(self) }
            }
            other => other,
        }
    }
}

impl From<StoreError> for StorageError {
    fn from(error: StoreError) -> Self {
        StorageIOError::write(AnyError::new(&error)).into()
    }
}

/// Which incarnation of which member the database belongs to.
#[derive(Serialize, Deserialize)]
struct Owner {
    format: u32,
    id: PlacementId,
    store_id: StoreId,
}

const FORMAT: u32 = 1;

#[derive(Clone, Copy)]
pub(super) enum Table {
    Log,
    Raft,
    Metadata,
}

impl Table {
    const ALL: [Self; 3] = [Self::Log, Self::Raft, Self::Metadata];

    const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Raft => "raft",
            Self::Metadata => "metadata",
        }
    }
}

/// An open database; clones share it.
#[derive(Clone)]
pub(super) struct Store {
    db: Arc<DB>,
}

impl Store {
    /// Opens or creates the database. Blocks on the disk.
    ///
    /// `had_cluster`: the data folder has been part of a cluster. It becomes part of one only after
    /// the database was made, so a missing database then means lost data.
    pub(super) fn open(
        path: &Path,
        id: PlacementId,
        store_id: StoreId,
        had_cluster: bool,
    ) -> Result<Self, StoreError> {
        if had_cluster && !path.join("CURRENT").exists() {
            return Err(StoreError::Lost { path: path.display().to_string() });
        }
        let tables =
            Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), table_options()));
        let db = DB::open_cf_descriptors(&database_options(), path, tables)
            .map_err(|source| StoreError::Open { path: path.display().to_string(), source })?;
        let store = Self { db: Arc::new(db) };
        match store.get::<Owner>(OWNER)? {
            Some(owner) if owner.store_id != store_id => {
                Err(StoreError::Foreign { path: path.display().to_string(), found: owner.store_id })
            }
            Some(_) => Ok(store),
            None if had_cluster => Err(StoreError::Lost { path: path.display().to_string() }),
            None => {
                let mut batch = store.batch();
                batch.put(OWNER, &Owner { format: FORMAT, id, store_id });
                store.write(batch)?;
                Ok(store)
            }
        }
    }

    fn table(&self, table: Table) -> &ColumnFamily {
        self.db.cf_handle(table.name()).expect("all tables are made when the database is opened")
    }

    /// A row of the `raft` table.
    pub(super) fn get<T: DeserializeOwned>(&self, row: &str) -> Result<Option<T>, StoreError> {
        match self.get_raw(row)? {
            Some(bytes) => parse(row, &bytes).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn get_raw(&self, row: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get_cf(self.table(Table::Raft), row)?)
    }

    pub(super) fn batch(&self) -> Batch<'_> {
        Batch { store: self, batch: WriteBatch::default() }
    }

    /// Writes a batch and syncs it. Blocks on the disk.
    pub(super) fn write(&self, batch: Batch<'_>) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(self.db.write_opt(batch.batch, &options)?)
    }

    /// Rows of a table from a key on, in key order, until `visit` returns false.
    pub(super) fn scan(
        &self,
        table: Table,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let mut rows = self.db.raw_iterator_cf(self.table(table));
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            if !visit(key, value)? {
                return Ok(());
            }
            rows.next();
        }
        Ok(rows.status()?)
    }

    /// The last row of a table.
    pub(super) fn last<T>(
        &self,
        table: Table,
        read: impl FnOnce(&[u8], &[u8]) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let mut rows = self.db.raw_iterator_cf(self.table(table));
        rows.seek_to_last();
        match rows.item() {
            Some((key, value)) => read(key, value).map(Some),
            None => Ok(rows.status().map(|()| None)?),
        }
    }

    /// Runs work that waits for the disk on a thread that may wait.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(StoreError::Closed),
            },
        }
    }

    /// True once nobody else holds the database.
    pub(super) fn is_last_handle(&self) -> bool {
        Arc::strong_count(&self.db) == 1
    }
}

/// Changes that become durable together.
pub(super) struct Batch<'a> {
    store: &'a Store,
    batch: WriteBatch,
}

impl Batch<'_> {
    pub(super) fn put(&mut self, row: &str, value: &impl Serialize) {
        self.put_raw(row, &to_json(value));
    }

    pub(super) fn put_raw(&mut self, row: &str, value: &[u8]) {
        self.batch.put_cf(self.store.table(Table::Raft), row, value);
    }

    pub(super) fn delete(&mut self, row: &str) {
        self.batch.delete_cf(self.store.table(Table::Raft), row);
    }

    pub(super) fn put_entry(&mut self, index: u64, entry: &impl Serialize) {
        self.batch.put_cf(self.store.table(Table::Log), index.to_be_bytes(), to_json(entry));
    }

    /// Removes the entries from `start` (inclusive) to `end` (exclusive).
    pub(super) fn delete_entries(&mut self, start: u64, end: u64) {
        let table = self.store.table(Table::Log);
        self.batch.delete_range_cf(table, start.to_be_bytes(), end.to_be_bytes());
    }

    pub(super) fn put_metadata(&mut self, key: &str, value: &str, revision: u64) {
        let mut row = Vec::with_capacity(8 + value.len());
        row.extend_from_slice(&revision.to_be_bytes());
        row.extend_from_slice(value.as_bytes());
        self.batch.put_cf(self.store.table(Table::Metadata), key, row);
    }

    pub(super) fn delete_metadata(&mut self, key: &str) {
        self.batch.delete_cf(self.store.table(Table::Metadata), key);
    }

    pub(super) fn clear_metadata(&mut self) {
        // All keys are text, and no text holds this byte.
        self.batch.delete_range_cf(self.store.table(Table::Metadata), b"".as_slice(), &[0xff]);
    }
}

pub(super) fn parse<T: DeserializeOwned>(row: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes)
        .map_err(|error| StoreError::Corrupt { row: row.to_owned(), why: error.to_string() })
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain records serialise")
}

/// The index in a key of the `log` table.
pub(super) fn index_of(key: &[u8]) -> Result<u64, StoreError> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| StoreError::Corrupt {
        row: "log".to_owned(),
        why: "a key has not 8 bytes".to_owned(),
    })
}

/// True if the log holds exactly this entry.
pub(super) fn has_entry(store: &Store, log_id: &LogId) -> Result<bool, StoreError> {
    let mut found = false;
    store.scan(Table::Log, &log_id.index.to_be_bytes(), |key, value| {
        if index_of(key)? == log_id.index {
            found = parse::<super::types::Entry>("log", value)?.log_id == *log_id;
        }
        Ok(false)
    })?;
    Ok(found)
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // A torn tail is what a crash leaves; anything else that is damaged must be noticed. Strict only
    // as long as WAL files are not recycled, which is the default.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_paranoid_checks(true);
    options.set_max_total_wal_size(4 * WRITE_BUFFER_BYTES as u64);
    options.set_keep_log_file_num(4);
    options.set_max_background_jobs(2);
    options
}

fn table_options() -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    options
}
