//! What an engine can do. Everything here blocks: never call it on an async runtime's threads.

use crate::{Family, Result, VERSION_BYTES, WriteBatch};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

/// How far a write must have come when `write` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Visible to reads; a crash of the machine may lose it, and everything after it.
    Buffered,
    /// On disk, with everything before it.
    Synced,
}

/// A store of ordered keys in families.
pub trait Engine: Send + Sync {
    /// Applies a batch, whole or not at all.
    ///
    /// # Errors
    /// Any; if it [`is fatal`](crate::EngineError::is_fatal), whether the batch was applied is not
    /// known and the process must end.
    fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<()>;

    /// A view of everything written so far. It owns what it needs and may outlive a `close`;
    /// while it lives, no version it shows is given back to the disk, so keep it short.
    fn snapshot(&self) -> Arc<dyn Snapshot>;

    /// The latest value of a key.
    ///
    /// # Errors
    /// `Corruption` or `Io`.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>>;

    /// Makes every write so far durable. Without a log this is `flush`.
    ///
    /// # Errors
    /// Fatal ones.
    fn sync_wal(&self) -> Result<()>;

    /// Moves every write so far into files, durably.
    ///
    /// # Errors
    /// Fatal ones.
    fn flush(&self) -> Result<()>;

    /// Bytes that `[start, end)` takes on disk in all the families that hold ranges' data (all but
    /// meta), compressed, by the files' indexes. Writes that are not flushed yet are not counted:
    /// add what was written since, where that matters.
    fn approximate_size(&self, start: &[u8], end: &[u8]) -> u64;

    /// Removes every key of `[start, end)` and gives its space back, which may take a second or
    /// more. For spans that nobody reads any more (removed replicas); to remove keys quickly or
    /// together with other changes, use [`WriteBatch::delete_span`]. Durable once `sync_wal` or
    /// `flush` returned.
    ///
    /// # Errors
    /// Fatal ones.
    fn delete_span(&self, family: Family, start: &[u8], end: &[u8]) -> Result<()>;

    /// Begins to load many sorted keys at once. Files are built in `dir`, which must exist, be
    /// empty, and lie on the engine's file system.
    ///
    /// # Errors
    /// `Io` or `Full`.
    fn bulk_loader(&self, dir: &Path) -> Result<Box<dyn BulkLoader>>;

    /// Writes a copy of the engine, as of now, into `path`, which must not exist. Files are linked,
    /// not copied, where the file system allows.
    ///
    /// # Errors
    /// `Io` or `Full`.
    fn checkpoint(&self, path: &Path) -> Result<()>;

    /// What it takes on disk and in memory.
    fn disk_usage(&self) -> DiskUsage;

    /// Whether a flush or compaction failed in the background. After that the engine refuses
    /// writes; the process must end.
    ///
    /// # Errors
    /// `Io`, saying that it happened.
    fn health(&self) -> Result<()>;

    /// Reads everything and checks every checksum. Slow.
    ///
    /// # Errors
    /// `Corruption` or `Io`.
    fn verify(&self) -> Result<VerifyReport>;

    /// Makes everything durable, stops the work in the background, and refuses writes from then
    /// on. The files are let go when the last snapshot and handle is dropped.
    ///
    /// # Errors
    /// Fatal ones.
    fn close(&self) -> Result<()>;
}

/// What the engine held at one moment.
pub trait Snapshot: Send + Sync {
    /// # Errors
    /// `Corruption` or `Io`.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>>;

    /// The values in the order of the keys.
    ///
    /// # Errors
    /// `Corruption` or `Io`.
    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>>;

    /// An iterator over `[lower, upper)`, not yet on any key. An empty `upper` is unbounded.
    ///
    /// # Errors
    /// `Corruption` or `Io`.
    fn iterator(&self, family: Family, lower: &[u8], upper: &[u8]) -> Result<Box<dyn Iter + '_>>;

    /// For versioned families: of the keys that equal `seek` up to the version, the first at or
    /// after `seek`. Much cheaper than an iterator, because filters answer for most files.
    ///
    /// # Errors
    /// `Corruption` or `Io`; `Invalid` if the family has no versions.
    fn first_version(&self, family: Family, seek: &[u8]) -> Result<Option<VersionEntry>>;

    /// [`Snapshot::first_version`] of many keys; cheapest if they are sorted.
    ///
    /// # Errors
    /// As `first_version`.
    fn first_versions(&self, family: Family, seeks: &[&[u8]]) -> Result<Vec<Option<VersionEntry>>>;
}

/// What `first_version` found: the end of its key (the rest equals what was asked) and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionEntry {
    pub version: [u8; VERSION_BYTES],
    pub value: Bytes,
}

/// A place in an ordered family. Every move says whether there is a key at the new place; a move
/// that fails leaves the iterator on no key.
pub trait Iter: Send {
    /// To the first key at or after `key`.
    ///
    /// # Errors
    /// `Corruption` or `Io`.
    fn seek(&mut self, key: &[u8]) -> Result<bool>;

    /// To the last key at or before `key`.
    ///
    /// # Errors
    /// `Corruption` or `Io`.
    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool>;

    /// # Errors
    /// `Corruption` or `Io`.
    fn seek_to_first(&mut self) -> Result<bool>;

    /// # Errors
    /// `Corruption` or `Io`.
    fn seek_to_last(&mut self) -> Result<bool>;

    /// # Errors
    /// `Corruption` or `Io`; `Invalid` if the iterator is on no key.
    fn next(&mut self) -> Result<bool>;

    /// # Errors
    /// `Corruption` or `Io`; `Invalid` if the iterator is on no key.
    fn prev(&mut self) -> Result<bool>;

    /// True if the iterator is on a key.
    fn valid(&self) -> bool;

    /// The key here; empty if the iterator is on none.
    fn key(&self) -> &[u8];

    /// The value here; empty if the iterator is on no key.
    fn value(&self) -> &[u8];
}

/// Loads sorted keys. Dropped before `ingest`, it changes nothing; files may be left in its folder.
pub trait BulkLoader: Send {
    /// Adds a key. Within one family keys must ascend; families may come in any order.
    ///
    /// # Errors
    /// `Invalid` if the key does not ascend; `Io` or `Full`.
    fn add(&mut self, family: Family, key: &[u8], value: &[u8]) -> Result<()>;

    /// Bytes of the keys and values added so far.
    fn byte_size(&self) -> u64;

    /// Makes everything visible, durably. Atomic within a family; a crash in the middle may leave
    /// some families loaded and others not, so the caller keeps a record of its intent and repeats
    /// the load (clearing the span first). Keys that are there already are replaced.
    ///
    /// # Errors
    /// Fatal ones.
    fn ingest(self: Box<Self>) -> Result<()>;
}

/// What an engine takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Files that hold data.
    pub file_bytes: u64,
    /// The log of writes not yet in files.
    pub log_bytes: u64,
    /// Writes held in memory.
    pub memory_bytes: u64,
}

/// What a verification read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    pub entries: u64,
    pub bytes: u64,
}
