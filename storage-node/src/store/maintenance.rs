//! Keeps the logs within their budget.
//!
//! A log is only cut up to an index that is applied and durable in the data store: the applied
//! indexes are read first, then the data store's write-ahead log is synced, then the logs are cut.

use super::shared::Shared;
use super::worker::{Task, WorkerSender};
use super::{IdMap, IdSet, worker_index};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use rangedb_types::{RangeId, ReplicaId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

/// The maintenance thread.
pub struct Maintenance {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Maintenance {
    pub fn start(
        shared: Arc<Shared>,
        workers: Arc<Vec<WorkerSender>>,
    ) -> Result<Self, std::io::Error> {
        let (stop, stopped) = bounded::<()>(1);
        let thread =
            std::thread::Builder::new().name("log-upkeep".to_owned()).spawn(move || {
                let mut seen = None;
                while stopped.recv_timeout(shared.settings.maintenance_interval)
                    == Err(RecvTimeoutError::Timeout)
                {
                    if let Err(reason) = round(&shared, &workers, &mut seen) {
                        shared.fail(reason);
                        return;
                    }
                }
            })?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread and waits for it.
    pub fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the log upkeep thread panicked");
        }
    }
}

pub(super) fn round(
    shared: &Shared,
    workers: &[WorkerSender],
    seen: &mut Option<u64>,
) -> Result<(), String> {
    let force: Arc<IdSet<ReplicaId>> =
        Arc::new(shared.log.purge().map_err(|error| error.to_string())?.into_iter().collect());
    // What is applied while the indexes are read is seen again in the next round.
    let batches = Some(shared.applied_batches.load(Ordering::Acquire));
    if batches == *seen && force.is_empty() {
        return Ok(());
    }
    let applied: IdMap<RangeId, u64> = shared
        .registry
        .read()
        .handles()
        .map(|handle| (handle.range_id(), handle.applied_index()))
        .collect();
    shared.engine.sync_wal().map_err(|error| format!("cannot sync the data store: {error}"))?;
    let mut parts: Vec<IdMap<RangeId, u64>> = workers.iter().map(|_| IdMap::default()).collect();
    for (range_id, index) in &applied {
        parts[worker_index(*range_id, workers.len())].insert(*range_id, *index);
    }
    for (worker, part) in workers.iter().zip(parts) {
        worker.send(Task::Compact { durable: Arc::new(part), force: Arc::clone(&force) });
    }
    *seen = batches;
    Ok(())
}
