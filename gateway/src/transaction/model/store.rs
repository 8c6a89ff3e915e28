//! The store behind the nodes: an engine in memory, whose snapshots are cheap.
//!
//! Owns: records in order, and what of them a judge wants to see. Must not know: who changes them, or why.

use bytes::Bytes;
use rangedb_engine::{EngineError, Family, Iter, Snapshot, VERSION_BYTES, VersionEntry};
use rangedb_mvcc::Mutation;
use rangedb_mvcc::key::{decode_key, split_version};
use rangedb_mvcc::record::{LockRecord, WriteKind, WriteRecord};
use rangedb_types::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

type Records = BTreeMap<(Family, Vec<u8>), Bytes>;
type Result<T> = std::result::Result<T, EngineError>;

/// All records of all ranges. A clone is a snapshot.
#[derive(Clone, Default, Hash)]
pub(super) struct Store(Arc<Records>);

/// A version or a mark, as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) key: Vec<u8>,
    pub(super) at: Timestamp,
    pub(super) id: Timestamp,
    pub(super) kind: WriteKind,
    pub(super) open: bool,
    pub(super) value: Vec<u8>,
}

impl Store {
    pub(super) fn apply(&mut self, mutations: &[Mutation]) {
        let records = Arc::make_mut(&mut self.0);
        for mutation in mutations {
            let place = (mutation.family, mutation.key.to_vec());
            match &mutation.value {
                Some(value) => drop(records.insert(place, value.clone())),
                None => drop(records.remove(&place)),
            }
        }
    }

    pub(super) fn locks(&self) -> Vec<(Vec<u8>, LockRecord)> {
        let locks = self.0.iter().filter(|((family, _), _)| *family == Family::Lock);
        let decoded = locks.map(|((family, key), record)| {
            (decode_key(*family, key).unwrap(), LockRecord::decode(record).unwrap())
        });
        decoded.collect()
    }

    pub(super) fn versions(&self) -> Vec<Version> {
        let writes = self.0.iter().filter(|((family, _), _)| *family == Family::Write);
        let decoded = writes.map(|((family, key), record)| {
            let (encoded, at) = split_version(*family, key).unwrap();
            let record = WriteRecord::decode(record).unwrap();
            Version {
                key: decode_key(*family, encoded).unwrap(),
                at,
                id: record.start_ts,
                kind: record.kind,
                open: record.open,
                value: record.short_value.unwrap_or_default().to_vec(),
            }
        });
        decoded.collect()
    }

    /// With every intent as `change` makes it, and without those of which it makes none.
    pub(super) fn with_locks(&self, change: impl Fn(LockRecord) -> Option<LockRecord>) -> Self {
        let kept = self.0.iter().filter_map(|(place, record)| {
            if place.0 != Family::Lock {
                return Some((place.clone(), record.clone()));
            }
            let changed = change(LockRecord::decode(record).unwrap())?;
            Some((place.clone(), Bytes::from(changed.encode())))
        });
        Self(Arc::new(kept.collect()))
    }

    /// Without the versions and marks that are `hidden`.
    pub(super) fn without(&self, hidden: impl Fn(&WriteRecord<'_>) -> bool) -> Self {
        let kept = self.0.iter().filter(|(place, record)| {
            place.0 != Family::Write || !hidden(&WriteRecord::decode(record).unwrap())
        });
        Self(Arc::new(kept.map(|(place, record)| (place.clone(), record.clone())).collect()))
    }
}

impl Snapshot for Store {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.get(&(family, key.to_vec())).cloned())
    }

    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        keys.iter().map(|key| self.get(family, key)).collect()
    }

    fn iterator(&self, family: Family, lower: &[u8], upper: &[u8]) -> Result<Box<dyn Iter + '_>> {
        let from = self.0.range((family, lower.to_vec())..);
        let inside = from
            .take_while(|((of, key), _)| *of == family && (upper.is_empty() || key[..] < *upper));
        let found = inside.map(|((_, key), value)| (key.clone(), value.clone())).collect();
        Ok(Box::new(Walk { found, at: None }))
    }

    fn first_version(&self, family: Family, seek: &[u8]) -> Result<Option<VersionEntry>> {
        let prefix = &seek[..seek.len() - VERSION_BYTES];
        let next = self.0.range((family, seek.to_vec())..).next();
        let found = next.filter(|((of, key), _)| {
            *of == family && key.len() == seek.len() && key.starts_with(prefix)
        });
        Ok(found.map(|((_, key), value)| VersionEntry {
            version: key[prefix.len()..].try_into().expect("as long as a version"),
            value: value.clone(),
        }))
    }

    fn first_versions(&self, family: Family, seeks: &[&[u8]]) -> Result<Vec<Option<VersionEntry>>> {
        seeks.iter().map(|seek| self.first_version(family, seek)).collect()
    }
}

struct Walk {
    found: Vec<(Vec<u8>, Bytes)>,
    at: Option<usize>,
}

impl Walk {
    fn to(&mut self, at: Option<usize>) -> Result<bool> {
        self.at = at.filter(|at| *at < self.found.len());
        Ok(self.at.is_some())
    }
}

impl Iter for Walk {
    fn seek(&mut self, key: &[u8]) -> Result<bool> {
        self.to(Some(self.found.partition_point(|(found, _)| found[..] < *key)))
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool> {
        self.to(self.found.partition_point(|(found, _)| found[..] <= *key).checked_sub(1))
    }

    fn seek_to_first(&mut self) -> Result<bool> {
        self.to(Some(0))
    }

    fn seek_to_last(&mut self) -> Result<bool> {
        self.to(self.found.len().checked_sub(1))
    }

    fn next(&mut self) -> Result<bool> {
        self.to(self.at.map(|at| at + 1))
    }

    fn prev(&mut self) -> Result<bool> {
        self.to(self.at.and_then(|at| at.checked_sub(1)))
    }

    fn valid(&self) -> bool {
        self.at.is_some()
    }

    fn key(&self) -> &[u8] {
        self.at.map_or(&[], |at| &self.found[at].0)
    }

    fn value(&self) -> &[u8] {
        self.at.map_or(&[], |at| &self.found[at].1)
    }
}
