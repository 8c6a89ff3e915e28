//! A data engine in memory: ordered maps, and a log of writes of which a crash leaves a part.

use super::power::Power;
use bytes::Bytes;
use parking_lot::Mutex;
use rangedb_engine::{
    BatchOp, BulkLoader, DiskUsage, Durability, Engine, EngineError, Family, Iter, Result,
    Snapshot, VERSION_BYTES, VerifyReport, VersionEntry, WriteBatch,
};
use rangedb_types::Random;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

type Map = BTreeMap<Vec<u8>, Bytes>;

/// What a broken engine does to a batch before it is written.
pub type Tamper = fn(&WriteBatch) -> WriteBatch;

/// What the engine shows at one moment.
#[derive(Clone, Default)]
struct Maps([Arc<Map>; Family::ALL.len()]);

#[derive(Default)]
struct State {
    shown: Maps,
    durable: Maps,
    /// Shown and not durable, in order.
    pending: Vec<WriteBatch>,
}

/// The engine of one simulated node.
pub struct SimEngine {
    state: Arc<Mutex<State>>,
    power: Arc<Power>,
    tamper: Option<Tamper>,
}

impl Maps {
    fn family(&self, family: Family) -> &Arc<Map> {
        &self.0[family as usize - 1]
    }

    fn apply(&mut self, batch: &WriteBatch) {
        for op in batch.iter() {
            match op {
                BatchOp::Put { family, key, value } => {
                    self.change(family).insert(key.to_vec(), Bytes::copy_from_slice(value));
                }
                BatchOp::Delete { family, key } => {
                    self.change(family).remove(key);
                }
                BatchOp::DeleteSpan { family, start, end } => {
                    let inside = (Bound::Included(start), Bound::Excluded(end));
                    let map = self.change(family);
                    let keys: Vec<_> =
                        map.range::<[u8], _>(inside).map(|(key, _)| key.clone()).collect();
                    for key in keys {
                        map.remove(&key);
                    }
                }
            }
        }
    }

    fn change(&mut self, family: Family) -> &mut Map {
        Arc::make_mut(&mut self.0[family as usize - 1])
    }
}

impl State {
    fn sync(&mut self) {
        for batch in self.pending.drain(..) {
            self.durable.apply(&batch);
        }
    }

    fn write(&mut self, batch: WriteBatch) {
        self.shown.apply(&batch);
        self.pending.push(batch);
    }
}

impl SimEngine {
    pub fn new(power: Arc<Power>, tamper: Option<Tamper>) -> Self {
        Self { state: Arc::default(), power, tamper }
    }

    /// Power failed: of what was not durable, some of the oldest writes are left.
    pub fn crash(&self, random: &mut impl Random) {
        let mut state = self.state.lock();
        let kept = random.below(state.pending.len() as u64 + 1) as usize;
        state.pending.truncate(kept);
        state.sync();
        state.shown = state.durable.clone();
    }
}

fn dead() -> EngineError {
    EngineError::Io { detail: "the power failed".to_owned() }
}

impl Engine for SimEngine {
    fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<()> {
        let batch = self.tamper.map_or_else(|| batch.clone(), |tamper| tamper(batch));
        let strike = self.power.strike();
        let mut state = self.state.lock();
        if strike.before() {
            return Err(dead());
        }
        state.write(batch);
        if strike.after() {
            return Err(dead());
        }
        if durability == Durability::Synced {
            state.sync();
        }
        Ok(())
    }

    fn snapshot(&self) -> Arc<dyn Snapshot> {
        Arc::new(self.state.lock().shown.clone())
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.state.lock().shown.family(family).get(key).cloned())
    }

    fn sync_wal(&self) -> Result<()> {
        if self.power.is_off() {
            return Err(dead());
        }
        self.state.lock().sync();
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.sync_wal()
    }

    fn approximate_size(&self, _: &[u8], _: &[u8]) -> u64 {
        0
    }

    fn delete_span(&self, family: Family, start: &[u8], end: &[u8]) -> Result<()> {
        let mut batch = WriteBatch::new();
        batch.delete_span(family, start, end);
        self.write(&batch, Durability::Buffered)
    }

    fn bulk_loader(&self, _: &Path) -> Result<Box<dyn BulkLoader>> {
        let (state, power) = (Arc::clone(&self.state), Arc::clone(&self.power));
        Ok(Box::new(Loader { state, power, batches: BTreeMap::new() }))
    }

    fn checkpoint(&self, _: &Path) -> Result<()> {
        Err(EngineError::Invalid { detail: "nobody asks for one here".to_owned() })
    }

    fn disk_usage(&self) -> DiskUsage {
        DiskUsage::default()
    }

    fn health(&self) -> Result<()> {
        Ok(())
    }

    fn verify(&self) -> Result<VerifyReport> {
        Ok(VerifyReport::default())
    }

    fn close(&self) -> Result<()> {
        Ok(())
    }
}

impl Snapshot for Maps {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.family(family).get(key).cloned())
    }

    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        keys.iter().map(|key| Snapshot::get(self, family, key)).collect()
    }

    fn iterator(&self, family: Family, lower: &[u8], upper: &[u8]) -> Result<Box<dyn Iter + '_>> {
        let end = if upper.is_empty() { Bound::Unbounded } else { Bound::Excluded(upper) };
        let empty = !upper.is_empty() && lower >= upper;
        let entries = if empty {
            Vec::new()
        } else {
            self.family(family).range::<[u8], _>((Bound::Included(lower), end)).collect()
        };
        Ok(Box::new(Cursor { at: entries.len(), entries }))
    }

    fn first_version(&self, family: Family, seek: &[u8]) -> Result<Option<VersionEntry>> {
        let prefix = &seek[..seek.len() - VERSION_BYTES];
        let found = self.family(family).range::<[u8], _>((Bound::Included(seek), Bound::Unbounded));
        let same = |(key, _): &(&Vec<u8>, &Bytes)| {
            key.len() == seek.len() && &key[..prefix.len()] == prefix
        };
        Ok(found.take(1).find(same).map(|(key, value)| VersionEntry {
            version: key[prefix.len()..].try_into().expect("its length was compared"),
            value: value.clone(),
        }))
    }

    fn first_versions(&self, family: Family, seeks: &[&[u8]]) -> Result<Vec<Option<VersionEntry>>> {
        seeks.iter().map(|seek| self.first_version(family, seek)).collect()
    }
}

/// A place among the entries of a span; on none at their end.
struct Cursor<'a> {
    entries: Vec<(&'a Vec<u8>, &'a Bytes)>,
    at: usize,
}

impl Cursor<'_> {
    fn go(&mut self, at: Option<usize>) -> Result<bool> {
        self.at = at.unwrap_or(self.entries.len());
        Ok(self.valid())
    }
}

impl Iter for Cursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<bool> {
        let at = self.entries.partition_point(|(other, _)| other.as_slice() < key);
        self.go(Some(at))
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool> {
        let behind = self.entries.partition_point(|(other, _)| other.as_slice() <= key);
        self.go(behind.checked_sub(1))
    }

    fn seek_to_first(&mut self) -> Result<bool> {
        self.go(Some(0))
    }

    fn seek_to_last(&mut self) -> Result<bool> {
        self.go(self.entries.len().checked_sub(1))
    }

    fn next(&mut self) -> Result<bool> {
        self.go(Some(self.at + 1))
    }

    fn prev(&mut self) -> Result<bool> {
        self.go(self.at.checked_sub(1))
    }

    fn valid(&self) -> bool {
        self.at < self.entries.len()
    }

    fn key(&self) -> &[u8] {
        self.entries.get(self.at).map_or(&[], |(key, _)| key)
    }

    fn value(&self) -> &[u8] {
        self.entries.get(self.at).map_or(&[], |(_, value)| value)
    }
}

/// Families become visible one after the other, durably.
struct Loader {
    state: Arc<Mutex<State>>,
    power: Arc<Power>,
    batches: BTreeMap<Family, WriteBatch>,
}

impl BulkLoader for Loader {
    fn add(&mut self, family: Family, key: &[u8], value: &[u8]) -> Result<()> {
        self.batches.entry(family).or_default().put(family, key, value);
        Ok(())
    }

    fn byte_size(&self) -> u64 {
        self.batches.values().map(|batch| batch.byte_size() as u64).sum()
    }

    fn ingest(self: Box<Self>) -> Result<()> {
        for batch in self.batches.into_values() {
            let strike = self.power.strike();
            if strike.before() {
                return Err(dead());
            }
            let mut state = self.state.lock();
            state.write(batch);
            state.sync();
            if strike.after() {
                return Err(dead());
            }
        }
        Ok(())
    }
}
