//! Carries out placement's orders to split: chooses the key where it is left to the node, and
//! proposes.
//!
//! Owns: the choice of the key, and how many splits are worked on at once. Must not know: what a
//! split does (`replica`, `store`), who wants it (placement).

mod cut;

pub use cut::{Cut, at, middle};

use crate::access::RangeStates;
use crate::replica::command::SplitPlan;
use crate::store::Store;
use rangedb_engine::Engine;
use rangedb_types::{Epoch, RangeDescriptor, RangeId, ReplicaId};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// Splits that one node works on at once.
const SPLITS_MAX: usize = 2;
/// Splits that may wait for their turn; placement repeats what was dropped.
const WAITING_MAX: usize = 256;

/// Where to split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SplitAt {
    Key(Vec<u8>),
    /// Halves of equal size.
    Size,
    /// Halves of equal load.
    Load,
}

/// An order to split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitOrder {
    pub range_id: RangeId,
    pub epoch: Epoch,
    pub at: SplitAt,
    pub new_range_id: RangeId,
    pub new_replica_ids: Vec<ReplicaId>,
}

/// Splits the ranges of one node.
#[derive(Clone)]
pub struct Splitter {
    store: Store,
    engine: Arc<dyn Engine>,
    states: Arc<RangeStates>,
    tasks: TaskTracker,
    slots: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Splitter {
    #[must_use]
    pub fn new(
        store: Store,
        engine: Arc<dyn Engine>,
        states: Arc<RangeStates>,
        tasks: TaskTracker,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(SPLITS_MAX));
        let places = Arc::new(Semaphore::new(SPLITS_MAX + WAITING_MAX));
        Self { store, engine, states, tasks, slots, places }
    }

    /// Begins a split. Fire and forget: placement looks at the next report.
    pub fn begin(&self, order: SplitOrder) {
        let range_id = order.range_id;
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::debug!(%range_id, "a split was dropped: too many others wait");
            return;
        };
        let splitter = self.clone();
        self.tasks.spawn(async move {
            // The slots are never closed.
            let _slot = splitter.slots.acquire().await;
            if let Err(reason) = splitter.run(order).await {
                tracing::info!(%range_id, reason, "a split was not made");
            }
            drop(place);
        });
    }

    async fn run(&self, order: SplitOrder) -> Result<(), String> {
        let handle = self.store.replica(order.range_id).ok_or("the range is not here")?;
        let range = handle.descriptor();
        if range.epoch != order.epoch {
            return Err("the range has changed since".to_owned());
        }
        if handle.leadership().is_none() {
            return Err("this replica does not lead".to_owned());
        }
        let splitter = self.clone();
        let at = order.at;
        let choosing = tokio::task::spawn_blocking(move || splitter.choose(&range, at));
        let cut = choosing.await.map_err(|error| error.to_string())??;
        let plan = SplitPlan {
            key: cut.key,
            new_range_id: order.new_range_id,
            new_replica_ids: order.new_replica_ids,
            left_bytes: cut.left_bytes,
            right_bytes: cut.right_bytes,
        };
        let done = self.store.split(order.range_id, order.epoch, plan).await;
        done.map_err(|error| error.to_string())
    }

    /// Blocks on the engine.
    fn choose(&self, range: &RangeDescriptor, at: SplitAt) -> Result<Cut, String> {
        let snapshot = self.engine.snapshot();
        let key = match at {
            SplitAt::Key(key) => key,
            SplitAt::Size => {
                let middle = cut::middle(&*snapshot, &range.span);
                let middle = middle.map_err(|error| error.to_string())?;
                return middle.map_err(|bytes| {
                    // The estimate was wrong, or one key is all there is.
                    if let Some(handle) = self.store.replica(range.range_id) {
                        handle.set_size(bytes);
                    }
                    format!("no key halves its {bytes} bytes")
                });
            }
            SplitAt::Load => {
                let state = self.states.get(range.range_id);
                let key = state.and_then(|state| state.traffic.split_key(&range.span));
                key.ok_or("no key halves its load")?
            }
        };
        cut::at(&*snapshot, &range.span, key).map_err(|error| error.to_string())
    }
}
