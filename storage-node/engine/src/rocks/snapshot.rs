//! Snapshots and iterators.

use super::Database;
use super::error::convert;
use crate::{EngineError, Family, Iter, Result, Snapshot, VERSION_BYTES, VersionEntry};
use bytes::Bytes;
use rocksdb::{DB, DBRawIteratorWithThreadMode, ReadOptions, SnapshotWithThreadMode};
use self_cell::self_cell;
use std::sync::Arc;

type Raw<'a> = SnapshotWithThreadMode<'a, DB>;

self_cell!(
    struct Held {
        owner: Arc<Database>,
        #[covariant]
        dependent: Raw,
    }
);

pub(super) struct RocksSnapshot {
    held: Held,
    /// Counted by the engine.
    _alive: Arc<()>,
}

impl RocksSnapshot {
    pub(super) fn new(database: Arc<Database>, alive: Arc<()>) -> Self {
        Self { held: Held::new(database, |database| database.db().snapshot()), _alive: alive }
    }

    fn raw(&self) -> &Raw<'_> {
        self.held.borrow_dependent()
    }

    fn handle(&self, family: Family) -> &rocksdb::ColumnFamily {
        self.held.borrow_owner().handle(family)
    }

    /// An iterator that sees only keys that equal what it seeks up to the version.
    fn prefix_iterator(&self, family: Family) -> Result<DBRawIteratorWithThreadMode<'_, DB>> {
        if !family.is_versioned() {
            return Err(EngineError::Invalid {
                detail: format!("the keys of {family} have no versions"),
            });
        }
        let mut options = ReadOptions::default();
        options.set_prefix_same_as_start(true);
        Ok(self.raw().raw_iterator_cf_opt(self.handle(family), options))
    }
}

impl Snapshot for RocksSnapshot {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.raw().get_cf(self.handle(family), key).map_err(convert)?;
        Ok(value.map(Bytes::from))
    }

    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        let mut options = ReadOptions::default();
        options.set_snapshot(self.raw());
        let sorted = keys.is_sorted();
        let database = self.held.borrow_owner();
        database
            .db()
            .batched_multi_get_cf_opt(self.handle(family), keys.iter(), sorted, &options)
            .into_iter()
            .map(|value| Ok(value.map_err(convert)?.map(|value| Bytes::copy_from_slice(&value))))
            .collect()
    }

    fn iterator(&self, family: Family, lower: &[u8], upper: &[u8]) -> Result<Box<dyn Iter + '_>> {
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        if !lower.is_empty() {
            options.set_iterate_lower_bound(lower);
        }
        if !upper.is_empty() {
            options.set_iterate_upper_bound(upper);
        }
        let iter = self.raw().raw_iterator_cf_opt(self.handle(family), options);
        Ok(Box::new(RocksIter { iter, valid: false }))
    }

    fn first_version(&self, family: Family, seek: &[u8]) -> Result<Option<VersionEntry>> {
        first_version(&mut self.prefix_iterator(family)?, seek)
    }

    fn first_versions(&self, family: Family, seeks: &[&[u8]]) -> Result<Vec<Option<VersionEntry>>> {
        let mut iter = self.prefix_iterator(family)?;
        seeks.iter().map(|seek| first_version(&mut iter, seek)).collect()
    }
}

fn first_version(
    iter: &mut DBRawIteratorWithThreadMode<'_, DB>,
    seek: &[u8],
) -> Result<Option<VersionEntry>> {
    iter.seek(seek);
    let Some((key, value)) = iter.item() else {
        iter.status().map_err(convert)?;
        return Ok(None);
    };
    let (Some((prefix, version)), Some((sought, _))) =
        (key.split_last_chunk::<VERSION_BYTES>(), seek.split_last_chunk::<VERSION_BYTES>())
    else {
        return Err(EngineError::Invalid { detail: "a key is too short for a version".into() });
    };
    // The iterator should have stopped by itself; a wrong answer here would be silent.
    if prefix != sought {
        return Ok(None);
    }
    Ok(Some(VersionEntry { version: *version, value: Bytes::copy_from_slice(value) }))
}

struct RocksIter<'a> {
    iter: DBRawIteratorWithThreadMode<'a, DB>,
    /// What `iter` says, kept because asking it costs a call into RocksDB.
    valid: bool,
}

impl RocksIter<'_> {
    /// Whether the last move found a key; if not, whether that is the end or an error.
    fn moved(&mut self) -> Result<bool> {
        self.valid = self.iter.valid();
        if !self.valid {
            self.iter.status().map_err(convert)?;
        }
        Ok(self.valid)
    }

    fn check_valid(&self) -> Result<()> {
        if self.valid {
            return Ok(());
        }
        self.iter.status().map_err(convert)?;
        Err(EngineError::Invalid { detail: "an iterator was moved that is on no key".into() })
    }
}

impl Iter for RocksIter<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<bool> {
        self.iter.seek(key);
        self.moved()
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool> {
        self.iter.seek_for_prev(key);
        self.moved()
    }

    fn seek_to_first(&mut self) -> Result<bool> {
        self.iter.seek_to_first();
        self.moved()
    }

    fn seek_to_last(&mut self) -> Result<bool> {
        self.iter.seek_to_last();
        self.moved()
    }

    fn next(&mut self) -> Result<bool> {
        self.check_valid()?;
        self.iter.next();
        self.moved()
    }

    fn prev(&mut self) -> Result<bool> {
        self.check_valid()?;
        self.iter.prev();
        self.moved()
    }

    fn valid(&self) -> bool {
        self.valid
    }

    fn key(&self) -> &[u8] {
        self.iter.key().unwrap_or_default()
    }

    fn value(&self) -> &[u8] {
        self.iter.value().unwrap_or_default()
    }
}
