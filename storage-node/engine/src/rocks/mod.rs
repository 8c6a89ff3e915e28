//! The engine on RocksDB.
//!
//! Invariants: every write goes through one batch and, unless the log is off, through the log, which
//! is never recycled and is recovered strictly: a torn tail is cut, damage before it is an error.

mod bulk;
mod error;
mod open;
mod options;
mod snapshot;

use crate::{
    BatchOp, BulkLoader, DiskUsage, Durability, Engine, EngineError, EngineSettings, Family,
    Result, Snapshot, VerifyReport, WriteBatch,
};
use bulk::RocksBulkLoader;
use bytes::Bytes;
use error::convert;
use options::Tuning;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{ColumnFamily, CompactOptions, DB, FlushOptions, Range, ReadOptions, WriteOptions};
use self_cell::self_cell;
use snapshot::RocksSnapshot;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The handles of the families, by [`Family::index`].
type Handles<'a> = [&'a ColumnFamily; Family::ALL.len()];

self_cell!(
    /// A database with the handles of its families, which borrow from it.
    pub(crate) struct Database {
        owner: DB,
        #[covariant]
        dependent: Handles,
    }
);

impl Database {
    fn db(&self) -> &DB {
        self.borrow_owner()
    }

    fn handle(&self, family: Family) -> &ColumnFamily {
        self.borrow_dependent()[family.index()]
    }
}

/// See the module.
pub(crate) struct RocksEngine {
    path: PathBuf,
    database: Arc<Database>,
    tuning: Tuning,
    buffered: WriteOptions,
    synced: WriteOptions,
    closed: AtomicBool,
    /// Cloned into every snapshot, so that its count tells how many there are.
    snapshots: Arc<()>,
}

impl RocksEngine {
    pub(crate) fn open(path: &Path, settings: &EngineSettings) -> Result<Self> {
        let tuning = Tuning::new(settings);
        let database = open::open(path, &tuning)?;
        let mut buffered = WriteOptions::default();
        buffered.disable_wal(!settings.wal);
        let mut synced = WriteOptions::default();
        if settings.wal {
            synced.set_sync(true);
        } else {
            synced.disable_wal(true);
        }
        Ok(Self {
            path: path.to_owned(),
            database: Arc::new(database),
            tuning,
            buffered,
            synced,
            closed: AtomicBool::new(false),
            snapshots: Arc::new(()),
        })
    }

    fn has_log(&self) -> bool {
        self.tuning.settings().wal
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(EngineError::Closed) } else { Ok(()) }
    }

    fn property(&self, family: Family, name: &str) -> u64 {
        let handle = self.database.handle(family);
        self.database.db().property_int_value_cf(handle, name).ok().flatten().unwrap_or(0)
    }

    fn native_batch(&self, batch: &WriteBatch) -> rocksdb::WriteBatch {
        // Every change takes a few bytes beside its key and value.
        const CHANGE_BYTES: usize = 16;
        let mut native = rocksdb::WriteBatch::with_capacity_bytes(
            batch.byte_size() + batch.len() * CHANGE_BYTES + CHANGE_BYTES,
        );
        for op in batch.iter() {
            match op {
                BatchOp::Put { family, key, value } => {
                    native.put_cf(self.database.handle(family), key, value);
                }
                BatchOp::Delete { family, key } => {
                    native.delete_cf(self.database.handle(family), key);
                }
                BatchOp::DeleteSpan { family, start, end } => {
                    native.delete_range_cf(self.database.handle(family), start, end);
                }
            }
        }
        native
    }

    fn is_empty(&self, family: Family, start: &[u8], end: &[u8]) -> Result<bool> {
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        options.set_iterate_upper_bound(end);
        let handle = self.database.handle(family);
        let mut iter = self.database.db().raw_iterator_cf_opt(handle, options);
        iter.seek(start);
        iter.status().map_err(convert)?;
        Ok(!iter.valid())
    }

    fn size_on_disk(&self, family: Family, start: &[u8], end: &[u8]) -> u64 {
        let (db, handle) = (self.database.db(), self.database.handle(family));
        db.get_approximate_sizes_cf(handle, &[Range::new(start, end)]).into_iter().sum()
    }

    /// A snapshot does not hold files, only an iterator does: while one lives, whose span this may
    /// be, nothing may be dropped from under it.
    fn has_snapshots(&self) -> bool {
        Arc::strong_count(&self.snapshots) > 1
    }
}

impl Engine for RocksEngine {
    fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<()> {
        self.check_open()?;
        let options = match durability {
            Durability::Buffered => &self.buffered,
            Durability::Synced => &self.synced,
        };
        if !batch.is_empty() {
            self.database.db().write_opt(self.native_batch(batch), options).map_err(convert)?;
        }
        // Without a log, or without a change to carry the sync, there is this way only.
        if durability == Durability::Synced && (batch.is_empty() || !self.has_log()) {
            self.sync_wal()?;
        }
        Ok(())
    }

    fn snapshot(&self) -> Arc<dyn Snapshot> {
        Arc::new(RocksSnapshot::new(Arc::clone(&self.database), Arc::clone(&self.snapshots)))
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.database.db().get_cf(self.database.handle(family), key);
        Ok(value.map_err(convert)?.map(Bytes::from))
    }

    fn sync_wal(&self) -> Result<()> {
        self.check_open()?;
        if self.has_log() {
            self.database.db().flush_wal(true).map_err(convert)
        } else {
            self.flush()
        }
    }

    fn flush(&self) -> Result<()> {
        self.check_open()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let handles: Vec<_> = Family::ALL.map(|family| self.database.handle(family)).to_vec();
        self.database.db().flush_cfs_opt(&handles, &options).map_err(convert)
    }

    fn approximate_size(&self, start: &[u8], end: &[u8]) -> u64 {
        Family::ALL
            .into_iter()
            .filter(|&family| family != Family::Meta)
            .map(|family| self.size_on_disk(family, start, end))
            .sum()
    }

    fn delete_span(&self, family: Family, start: &[u8], end: &[u8]) -> Result<()> {
        self.check_open()?;
        if start >= end {
            return Ok(());
        }
        // Keys that are hidden already may still take space.
        if self.size_on_disk(family, start, end) == 0 && self.is_empty(family, start, end)? {
            return Ok(());
        }
        let (db, handle) = (self.database.db(), self.database.handle(family));
        let may_drop = !self.has_snapshots();
        if may_drop {
            db.delete_file_in_range_cf(handle, start, end).map_err(convert)?;
        }
        let mut batch = WriteBatch::new();
        batch.delete_span(family, start, end);
        self.write(&batch, Durability::Buffered)?;
        if may_drop {
            // What lies in new files or only partly in the span goes now, and with it the mark that
            // hides it, which would slow down later reads there.
            let mut options = CompactOptions::default();
            options.set_exclusive_manual_compaction(false);
            db.compact_range_cf_opt(handle, Some(start), Some(end), &options);
        }
        Ok(())
    }

    fn bulk_loader(&self, dir: &Path) -> Result<Box<dyn BulkLoader>> {
        self.check_open()?;
        Ok(Box::new(RocksBulkLoader::new(Arc::clone(&self.database), self.tuning.clone(), dir)))
    }

    fn checkpoint(&self, path: &Path) -> Result<()> {
        self.check_open()?;
        Checkpoint::new(self.database.db())
            .and_then(|checkpoint| checkpoint.create_checkpoint(path))
            .map_err(convert)
    }

    fn disk_usage(&self) -> DiskUsage {
        let sum = |name: &str| Family::ALL.into_iter().map(|f| self.property(f, name)).sum();
        DiskUsage {
            file_bytes: sum("rocksdb.total-sst-files-size"),
            log_bytes: log_bytes(&self.path),
            memory_bytes: sum("rocksdb.size-all-mem-tables"),
        }
    }

    fn health(&self) -> Result<()> {
        let errors: u64 =
            Family::ALL.into_iter().map(|f| self.property(f, "rocksdb.background-errors")).sum();
        if errors == 0 {
            return Ok(());
        }
        Err(EngineError::Io {
            detail: format!(
                "{errors} flushes or compactions failed; the file LOG in {} says why",
                self.path.display()
            ),
        })
    }

    fn verify(&self) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        for family in Family::ALL {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            options.set_verify_checksums(true);
            options.set_total_order_seek(true);
            let handle = self.database.handle(family);
            let mut iter = self.database.db().raw_iterator_cf_opt(handle, options);
            iter.seek_to_first();
            while let Some((key, value)) = iter.item() {
                report.entries += 1;
                report.bytes += (key.len() + value.len()) as u64;
                iter.next();
            }
            iter.status().map_err(convert)?;
        }
        Ok(report)
    }

    fn close(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let synced = self.sync_wal();
        self.closed.store(true, Ordering::Release);
        self.database.db().cancel_all_background_work(true);
        synced
    }
}

/// Bytes of the log's files. A file that vanishes meanwhile counts nothing.
fn log_bytes(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log"))
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}
