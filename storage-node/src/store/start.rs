//! Starting the store: load, spawn, watch over the threads.

use super::applier::{ApplyTask, ApplyThread};
use super::load::{self, Loaded};
use super::maintenance::Maintenance;
use super::peers::Peers;
use super::settings::StoreSettings;
use super::shared::{Metrics, Shared};
use super::sleepers::Sleepers;
use super::splits::EarlyVotes;
use super::worker::{Task, Worker, WorkerSender};
use super::{IdMap, IdSet, Store, StoreError, raft_logger, worker_index};
use crate::raft_log::{LogPosition, RaftLog};
use crate::snapshot::Snapshots;
use crate::transport::RaftSender;
use crossbeam_channel::{Receiver, unbounded};
use parking_lot::{Mutex, RwLock};
use rangedb_engine::Engine;
use rangedb_types::{MonotonicClock, NodeId, RangeId};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use tokio::sync::{Notify, watch};

/// What a store is made of.
pub struct StoreOptions {
    pub node_id: NodeId,
    pub engine: Arc<dyn Engine>,
    pub log: Arc<dyn RaftLog>,
    pub sender: Arc<dyn RaftSender>,
    pub snapshots: Arc<dyn Snapshots>,
    pub clock: Arc<dyn MonotonicClock>,
    pub settings: StoreSettings,
    /// Ranges whose interrupted snapshot was installed again before the start.
    pub installed: HashMap<RangeId, LogPosition>,
}

/// The threads of a store.
pub struct Threads {
    handles: Mutex<Vec<JoinHandle<()>>>,
    maintenance: Mutex<Option<Maintenance>>,
}

impl Threads {
    /// Waits for every thread; they were told to stop.
    pub fn join(&self) {
        if let Some(maintenance) = self.maintenance.lock().take() {
            maintenance.stop();
        }
        let handles = std::mem::take(&mut *self.handles.lock());
        for handle in handles {
            if handle.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

/// What every thread of a store has in common, and a Raft thread with its apply thread for each part
/// of the ranges, none of them running yet.
pub(super) struct Parts {
    pub shared: Arc<Shared>,
    pub pairs: Vec<(Worker, ApplyThread)>,
}

/// Loads every replica.
pub(super) fn assemble(options: StoreOptions) -> Result<Parts, StoreError> {
    let shared = Arc::new(Shared {
        node_id: options.node_id,
        engine: options.engine,
        log: options.log,
        sender: options.sender,
        snapshots: options.snapshots,
        clock: options.clock,
        settings: options.settings,
        changed: Arc::new(Notify::new()),
        news: Arc::default(),
        applied_batches: AtomicU64::new(0),
        registry: RwLock::default(),
        claims: Arc::default(),
        peers: Peers::default(),
        metrics: Metrics::get(),
        logger: raft_logger::logger(),
        workers: OnceLock::new(),
        appliers: OnceLock::new(),
        freed_bytes: AtomicU64::new(0),
        failed: watch::Sender::new(None),
    });
    let loaded = load::load_all(&shared, &options.installed).map_err(StoreError::Load)?;
    let count = shared.settings.raft_threads.max(1);
    let mut parts: Vec<Vec<Loaded>> = (0..count).map(|_| Vec::new()).collect();
    for replica in loaded {
        let index = worker_index(replica.applier.descriptor.range_id, count);
        parts[index].push(replica);
    }
    // Unbounded channels, bounded by their senders: see `WorkerSender` and the replica's apply lag.
    let (workers, inboxes): (Vec<_>, Vec<_>) = (0..count)
        .map(|_| {
            let (sender, inbox) = unbounded();
            (WorkerSender::new(sender), inbox)
        })
        .unzip();
    shared.workers.get_or_init(|| Arc::new(workers));
    let (appliers, apply_tasks): (Vec<_>, Vec<_>) = (0..count).map(|_| unbounded()).unzip();
    shared.appliers.get_or_init(|| appliers);
    let tasks = inboxes.into_iter().zip(apply_tasks);
    let pairs = parts.into_iter().zip(tasks).enumerate();
    let pairs = pairs.map(|(index, (part, tasks))| pair(&shared, index, tasks, part));
    let pairs = pairs.collect::<Result<_, _>>()?;
    Ok(Parts { shared, pairs })
}

pub fn start(options: StoreOptions) -> Result<Store, StoreError> {
    let Parts { shared, pairs } = assemble(options)?;
    let workers = Arc::clone(shared.workers.get().expect("they were made with the threads"));
    let mut handles = Vec::with_capacity(2 * pairs.len());
    for (index, (worker, apply)) in pairs.into_iter().enumerate() {
        handles.push(spawn(&shared, format!("apply-{index}"), move || apply.run())?);
        handles.push(spawn(&shared, format!("raft-{index}"), move || worker.run())?);
    }
    let maintenance = Maintenance::start(Arc::clone(&shared), Arc::clone(&workers))?;
    let threads =
        Threads { handles: Mutex::new(handles), maintenance: Mutex::new(Some(maintenance)) };
    Ok(Store { shared, workers, threads: Arc::new(threads) })
}

/// A Raft thread and its apply thread.
fn pair(
    shared: &Arc<Shared>,
    index: usize,
    (inbox, apply_tasks): (Receiver<Task>, Receiver<ApplyTask>),
    loaded: Vec<Loaded>,
) -> Result<(Worker, ApplyThread), StoreError> {
    let appliers = shared.appliers.get().expect("the senders are made before the threads");
    let appliers = appliers[index].clone();
    let workers = shared.workers.get().expect("the senders are made before the threads");
    let sender = workers[index].clone();
    let mut worker = Worker {
        shared: Arc::clone(shared),
        inbox,
        sender: sender.clone(),
        appliers,
        replicas: IdMap::default(),
        touched: IdSet::default(),
        early_votes: EarlyVotes::default(),
        sleepers: Sleepers::default(),
        outbound: Vec::new(),
    };
    let now = shared.clock.now();
    for Loaded { applier, state } in loaded {
        let range_id = applier.descriptor.range_id;
        worker.adopt(applier, state, now).map_err(StoreError::Load)?;
        worker.begin_asleep(range_id, now);
    }
    Ok((worker, ApplyThread::new(Arc::clone(shared), apply_tasks, sender)))
}

/// Runs a thread whose failure or panic ends the process.
fn spawn(
    shared: &Arc<Shared>,
    name: String,
    run: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<JoinHandle<()>, StoreError> {
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new().name(name.clone());
    let body = move || match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => shared.fail(reason),
        Err(_) => shared.fail(format!("thread {name} panicked")),
    };
    Ok(thread.spawn(body)?)
}
