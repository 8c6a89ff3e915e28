//! Snapshots whose stream broke. They are kept a while, so that their sender goes on where it was.
//!
//! Each keeps its place among those that are received, so there are never more of them; one that is new
//! takes the place of the oldest.

use super::StagedSnapshot;
use super::stage::Staging;
use parking_lot::Mutex;
use rangedb_types::NodeId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};

/// What arrived so far, and what the header said.
pub(super) struct Parked {
    pub staging: Staging,
    pub announced: StagedSnapshot,
    pub place: OwnedSemaphorePermit,
}

impl Parked {
    /// True if a stream with this header, from this chunk on, is the rest of it.
    pub fn is_continued_by(&self, header: &StagedSnapshot, first_chunk: u64) -> bool {
        let known = &self.announced;
        self.staging.chunks_count() == first_chunk
            && known.to_replica == header.to_replica
            && known.from_replica == header.from_replica
            && known.position == header.position
            && known.descriptor == header.descriptor
    }
}

/// By sender and transfer.
type Key = (NodeId, u64);

/// See the module.
pub(super) struct Parking {
    limit: Duration,
    parked: Mutex<HashMap<Key, (Instant, Parked)>>,
    arriving: Mutex<HashMap<Key, usize>>,
}

/// A stream of a transfer that is being read.
pub(super) struct Arriving {
    parking: Arc<Parking>,
    key: Key,
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let mut arriving = self.parking.arriving.lock();
        if let Some(streams) = arriving.get_mut(&self.key) {
            *streams -= 1;
            if *streams == 0 {
                arriving.remove(&self.key);
            }
        }
    }
}

impl Parking {
    pub fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Self { limit, parked: Mutex::default(), arriving: Mutex::default() })
    }

    /// A stream begins. What is left of it must be parked before this is dropped.
    pub fn arrives(self: &Arc<Self>, from: NodeId, transfer_id: u64) -> Arriving {
        let key = (from, transfer_id);
        *self.arriving.lock().entry(key).or_default() += 1;
        Arriving { parking: Arc::clone(self), key }
    }

    /// How many chunks are kept of a transfer, and whether a stream of it is being read.
    pub fn look(&self, from: NodeId, transfer_id: u64) -> (u64, bool) {
        let key = (from, transfer_id);
        let is_arriving = self.arriving.lock().contains_key(&key);
        let parked = self.parked.lock();
        (parked.get(&key).map_or(0, |(_, it)| it.staging.chunks_count()), is_arriving)
    }

    pub fn take(&self, from: NodeId, transfer_id: u64) -> Option<Parked> {
        self.parked.lock().remove(&(from, transfer_id)).map(|(_, parked)| parked)
    }

    /// Keeps it until somebody takes it, or for the limit.
    pub fn park(self: &Arc<Self>, transfer_id: u64, parked: Parked) {
        let (key, since) = ((parked.announced.from_node, transfer_id), Instant::now());
        let replaced = self.parked.lock().insert(key, (since, parked));
        let this = Arc::clone(self);
        tokio::spawn(async move {
            drop_aside(replaced.map(|(_, parked)| parked));
            sleep(this.limit).await;
            let mut all = this.parked.lock();
            let is_same = all.get(&key).is_some_and(|(at, _)| *at == since);
            let old = if is_same { all.remove(&key) } else { None };
            drop(all);
            drop_aside(old.map(|(_, parked)| parked));
        });
    }

    /// Gives up the oldest one, so that its place is free.
    pub fn give_way(&self) {
        let mut all = self.parked.lock();
        let oldest = all.iter().min_by_key(|(_, (since, _))| *since).map(|(key, _)| *key);
        let old = oldest.and_then(|key| all.remove(&key));
        drop(all);
        if let Some((_, Parked { staging, place, .. })) = old {
            drop(place);
            tokio::task::spawn_blocking(move || drop(staging));
        }
    }
}

/// Its folder goes with it, which may take a moment.
fn drop_aside(parked: Option<Parked>) {
    if let Some(parked) = parked {
        tokio::task::spawn_blocking(move || drop(parked));
    }
}
