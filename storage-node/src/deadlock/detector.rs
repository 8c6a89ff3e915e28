//! The detector: on the node that leads the first range.
//!
//! Owns: the graph, and the streams of those who report to it. Must not know: who waits, on which key. When this
//! node leads the first range no more, all streams end, and the graph is gone.

use super::first_range;
use super::graph::Graph;
use crate::access::Ranges;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use rangedb_proto::internal::v1::{DeadlockFound, WaitsEdge, WaitsReport};
use rangedb_types::{NodeId, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};

/// Deadlocks on their way to one node.
const FOUND_MAX: usize = 1_024;
/// How often a stream looks whether this node still leads the first range. While some nodes tell an
/// old leader and some the new one, deadlocks between them are not found.
const LEADS_INTERVAL: Duration = Duration::from_millis(20);

type Found = mpsc::Sender<Result<DeadlockFound, Status>>;

/// Finds deadlocks.
pub struct Detector {
    ranges: Arc<dyn Ranges>,
    state: Mutex<State>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    graph: Graph,
    /// Of each node the newest stream.
    streams: HashMap<NodeId, (u64, Found)>,
    next: u64,
}

impl Detector {
    #[must_use]
    pub fn new(ranges: Arc<dyn Ranges>, tasks: TaskTracker, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { ranges, state: Mutex::default(), tasks, stop })
    }

    /// Whether this node leads the first range.
    fn leads(&self) -> bool {
        first_range(&*self.ranges).is_some_and(|range| range.leadership().is_some())
    }

    /// Serves one node's reports, the first of which it is given.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` if this node does not lead the first range.
    pub fn serve(
        self: &Arc<Self>,
        reports: Streaming<WaitsReport>,
    ) -> Result<BoxStream<'static, Result<DeadlockFound, Status>>, Status> {
        if !self.leads() {
            return Err(not_leader());
        }
        let (sender, found) = mpsc::channel(FOUND_MAX);
        let detector = Arc::clone(self);
        self.tasks.spawn(async move { detector.follow(reports, sender).await });
        Ok(ReceiverStream::new(found).boxed())
    }

    async fn follow(&self, mut reports: Streaming<WaitsReport>, found: Found) {
        let mut known: Option<(NodeId, u64)> = None;
        let mut looks = tokio::time::interval(LEADS_INTERVAL);
        loop {
            let report = tokio::select! {
                () = self.stop.cancelled() => break,
                () = found.closed() => break,
                _ = looks.tick() => {
                    if self.leads() {
                        continue;
                    }
                    let _gone = found.try_send(Err(not_leader()));
                    break;
                }
                report = reports.message() => match report {
                    Ok(Some(report)) => report,
                    Ok(None) | Err(_) => break,
                },
            };
            let node = NodeId(report.node_id);
            if known.is_none() {
                known = Some((node, self.begin(node, found.clone())));
            }
            self.take_in(node, &report);
        }
        if let Some((node, number)) = known {
            self.end(node, number);
        }
    }

    /// A stream begins with all there is: what an older one of the same node said is over.
    fn begin(&self, node: NodeId, found: Found) -> u64 {
        let mut state = self.state.lock();
        state.graph.forget(node);
        state.next += 1;
        let number = state.next;
        state.streams.insert(node, (number, found));
        number
    }

    fn end(&self, node: NodeId, number: u64) {
        let mut state = self.state.lock();
        if state.streams.get(&node).is_some_and(|(of, _)| *of == number) {
            state.streams.remove(&node);
            state.graph.forget(node);
        }
    }

    fn take_in(&self, node: NodeId, report: &WaitsReport) {
        let of = |edge: &WaitsEdge| (Timestamp(edge.waiter), Timestamp(edge.holder));
        let mut state = self.state.lock();
        for (waiter, holder) in report.removed.iter().map(of) {
            state.graph.remove(node, waiter, holder);
        }
        for (waiter, holder) in report.added.iter().map(of) {
            for deadlock in state.graph.add(node, waiter, holder) {
                tracing::debug!(victim = %deadlock.victim, "a deadlock was found");
                let cycle = deadlock.cycle.iter().map(|id| id.0).collect();
                for node in &deadlock.nodes {
                    if let Some((_, found)) = state.streams.get(node) {
                        // One that does not read decides by its time-outs.
                        let _full = found.try_send(Ok(DeadlockFound { cycle: Vec::clone(&cycle) }));
                    }
                }
            }
        }
    }
}

fn not_leader() -> Status {
    Status::failed_precondition("this node does not lead the first range")
}
