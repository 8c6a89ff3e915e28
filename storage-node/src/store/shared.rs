//! What the threads of the store have in common.

use super::handle::ReplicaHandle;
use super::settings::StoreSettings;
use super::worker::{Task, WorkerSender};
use super::worker_index;
use crate::raft_log::RaftLog;
use crate::replica::apply::Applier;
use crate::snapshot::Snapshots;
use crate::transport::RaftSender;
use parking_lot::RwLock;
use prometheus::{Histogram, HistogramOpts, IntGauge};
use rangedb_engine::Engine;
use rangedb_types::{MonotonicClock, NodeId, RangeId};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, OnceLock};
use tokio::sync::{Notify, watch};

/// Shared by all threads of one store.
pub struct Shared {
    pub node_id: NodeId,
    pub engine: Arc<dyn Engine>,
    pub log: Arc<dyn RaftLog>,
    pub sender: Arc<dyn RaftSender>,
    pub snapshots: Arc<dyn Snapshots>,
    pub clock: Arc<dyn MonotonicClock>,
    pub settings: StoreSettings,
    /// Something worth reporting to placement changed.
    pub changed: Arc<Notify>,
    pub registry: RwLock<BTreeMap<RangeId, Arc<ReplicaHandle>>>,
    pub metrics: &'static Metrics,
    pub logger: slog::Logger,
    /// The Raft threads, once they run.
    pub workers: OnceLock<Arc<Vec<WorkerSender>>>,
    /// Why the process must end, once it must.
    pub failed: watch::Sender<Option<String>>,
}

impl Shared {
    /// Gives a replica that a split made to its Raft thread.
    pub fn adopt(&self, applier: Applier, campaign: bool, bytes: u64) {
        let workers = self.workers.get().expect("threads run only once all are known");
        let index = worker_index(applier.descriptor.range_id, workers.len());
        workers[index].send(Task::Adopt { applier: Box::new(applier), campaign, bytes });
    }

    /// The first reason stays.
    pub fn fail(&self, reason: String) {
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                tracing::error!(reason, "the store cannot go on");
                *failed = Some(reason);
            }
            first
        });
    }
}

/// What the Raft threads measure.
pub struct Metrics {
    pub replicas: IntGauge,
    pub inbox_drained: Histogram,
    pub log_write_seconds: Histogram,
}

impl Metrics {
    /// The process's metrics, registered on first use.
    #[must_use]
    pub fn get() -> &'static Self {
        static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::register);
        &METRICS
    }

    fn register() -> Self {
        let registered = "the name is used once";
        Self {
            replicas: prometheus::register_int_gauge!(
                "rangedb_store_replicas_count",
                "Replicas on this node"
            )
            .expect(registered),
            inbox_drained: prometheus::register_histogram!(
                HistogramOpts::new(
                    "rangedb_store_inbox_drained_tasks",
                    "Tasks a Raft thread took in one pass"
                )
                .buckets(vec![1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0])
            )
            .expect(registered),
            log_write_seconds: prometheus::register_histogram!(
                HistogramOpts::new(
                    "rangedb_store_log_write_seconds",
                    "Time to write (and sync) the ready work of all ranges to the Raft log"
                )
                .buckets(
                    prometheus::exponential_buckets(0.000_05, 2.0, 16).expect("valid buckets")
                )
            )
            .expect(registered),
        }
    }
}
