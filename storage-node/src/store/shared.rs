//! What the threads of the store have in common.

use super::applier::ApplyTask;
use super::claims::Claims;
use super::merges::Call;
use super::news::News;
use super::peers::Peers;
use super::registry::Registry;
use super::settings::StoreSettings;
use super::worker::{Task, WorkerSender};
use super::worker_index;
use crate::raft_log::RaftLog;
use crate::replica::apply::Applier;
use crate::replica::command::MergePlan;
use crate::snapshot::Snapshots;
use crate::transport::RaftSender;
use crossbeam_channel::Sender;
use parking_lot::RwLock;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge};
use rangedb_engine::Engine;
use rangedb_types::{MonotonicClock, NodeId, RangeId};
use std::sync::atomic::AtomicU64;
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
    /// Which replicas that may be about.
    pub news: Arc<News>,
    /// Write batches of applied entries since the start.
    pub applied_batches: AtomicU64,
    pub registry: RwLock<Registry>,
    pub claims: Arc<Claims>,
    /// When the other nodes were last heard from.
    pub peers: Peers,
    pub metrics: &'static Metrics,
    pub logger: slog::Logger,
    /// The Raft threads, once they run.
    pub workers: OnceLock<Arc<Vec<WorkerSender>>>,
    /// The apply threads, once they run.
    pub appliers: OnceLock<Vec<Sender<ApplyTask>>>,
    /// Bytes that removals have freed on this node: an estimate.
    pub freed_bytes: AtomicU64,
    /// Why the process must end, once it must.
    pub failed: watch::Sender<Option<String>>,
}

impl Shared {
    /// Asks for a right range, come to its freeze, on behalf of the left one that takes it in.
    pub fn call_in(&self, plan: &MergePlan, left: RangeId) {
        let (right, position) = (plan.right.range_id, plan.freeze);
        let replica_id = plan.right.replica_on(self.node_id).map(|member| member.replica_id);
        self.send(right, Task::ForceCommit { range_id: right, position });
        let call = Call { freeze: position.index, left, replica_id };
        self.apply(right, ApplyTask::Yield { range_id: right, call });
    }

    /// Sends a task to the apply thread of a range.
    pub fn apply(&self, range_id: RangeId, task: ApplyTask) {
        let appliers = self.appliers.get().expect("threads run only once all are known");
        // An apply thread only ends when the process is stopping or failing.
        let _ = appliers[worker_index(range_id, appliers.len())].send(task);
    }

    /// Sends a task to the Raft thread of a range.
    pub fn send(&self, range_id: RangeId, task: Task) {
        let workers = self.workers.get().expect("threads run only once all are known");
        workers[worker_index(range_id, workers.len())].send(task);
    }

    /// Gives a replica that a split made to its Raft thread.
    pub fn adopt(&self, applier: Applier, campaign: bool, bytes: u64) {
        let range_id = applier.descriptor.range_id;
        self.send(range_id, Task::Adopt { applier: Box::new(applier), campaign, bytes });
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
    pub awake: IntGauge,
    pub inbox_drained: Histogram,
    pub log_write_seconds: Histogram,
    pub proposals: IntCounter,
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
            awake: prometheus::register_int_gauge!(
                "rangedb_store_awake_replicas_count",
                "Replicas on this node that do not sleep: ranges in use, or just used"
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
            proposals: prometheus::register_int_counter!(
                "rangedb_node_proposals_total",
                "Writes handed to consensus by the ranges this node leads"
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
