//! What this node tells the detector.
//!
//! Owns: this node's edges, and the stream to the detector while there are any. Must not know: keys.

use crate::access::RangeStates;
use crate::transport::AddressBook;
use crate::txn::Edges;
use parking_lot::Mutex;
use rangedb_placement_client::{PlacementClient, PlacementRpc};
use rangedb_proto::internal::v1::node_client::NodeClient;
use rangedb_proto::internal::v1::{LookupRangesRequest, WaitsEdge, WaitsReport};
use rangedb_service::grpc;
use rangedb_types::{NodeId, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// How long finding the detector, and reaching it, may take.
const FIND_TIMEOUT: Duration = Duration::from_secs(1);
/// Before it is looked for again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// A stream that had nothing to tell for so long ends.
const IDLE: Duration = Duration::from_secs(30);
/// Reports on their way.
const REPORTS_MAX: usize = 64;

type Pair = (Timestamp, Timestamp);

/// This node's edges.
#[derive(Default)]
pub struct Reporter {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// How many calls wait along each edge.
    edges: HashMap<Pair, usize>,
    /// What the present stream was not told yet.
    news: HashMap<Pair, bool>,
}

impl Edges for Reporter {
    fn add(&self, waiter: Timestamp, holder: Timestamp) {
        let mut state = self.state.lock();
        let count = state.edges.entry((waiter, holder)).or_default();
        *count += 1;
        if *count == 1 {
            state.news.insert((waiter, holder), true);
            self.changed.notify_one();
        }
    }

    fn remove(&self, waiter: Timestamp, holder: Timestamp) {
        let mut state = self.state.lock();
        let Some(count) = state.edges.get_mut(&(waiter, holder)) else { return };
        *count -= 1;
        if *count == 0 {
            state.edges.remove(&(waiter, holder));
            state.news.insert((waiter, holder), false);
            self.changed.notify_one();
        }
    }
}

/// What the reporter needs to do its work.
pub struct Way {
    pub own: NodeId,
    pub placement: Arc<PlacementClient>,
    pub addresses: Arc<AddressBook>,
    pub states: Arc<RangeStates>,
}

impl Reporter {
    /// Tells the detector, whoever it is, until cancelled.
    pub async fn run(&self, way: Way, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
            }
            while !self.state.lock().edges.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    told = self.tell(&way) => if let Err(why) = told {
                        tracing::debug!(why, "the detector of deadlocks was lost");
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                }
            }
            self.state.lock().news.clear();
        }
    }

    /// One stream, which begins with all edges.
    async fn tell(&self, way: &Way) -> Result<(), String> {
        let mut rpc = tokio::time::timeout(FIND_TIMEOUT, way.find())
            .await
            .map_err(|_| "it was not found in time".to_owned())??;
        let (reports, outgoing) = mpsc::channel(REPORTS_MAX);
        let opened = rpc.waits(ReceiverStream::new(outgoing)).await;
        let mut found = opened.map_err(|status| status.message().to_owned())?.into_inner();
        let mut first = true;
        loop {
            if let Some(report) = self.report(way.own, std::mem::take(&mut first)) {
                reports.send(report).await.map_err(|_| "the stream ended".to_owned())?;
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(IDLE) => {
                    if self.state.lock().edges.is_empty() {
                        return Ok(());
                    }
                }
                deadlock = found.message() => match deadlock {
                    Ok(Some(deadlock)) => way.break_up(&deadlock.cycle),
                    Ok(None) => return Err("the stream ended".to_owned()),
                    Err(status) => return Err(status.message().to_owned()),
                },
            }
        }
    }

    /// What is new; all there is, in the first report of a stream.
    fn report(&self, own: NodeId, first: bool) -> Option<WaitsReport> {
        let mut state = self.state.lock();
        let news = std::mem::take(&mut state.news);
        let mut report = WaitsReport { node_id: own.get(), ..WaitsReport::default() };
        let wire = |(waiter, holder): &Pair| WaitsEdge { waiter: waiter.0, holder: holder.0 };
        if first {
            report.added = state.edges.keys().map(wire).collect();
            return Some(report);
        }
        for (pair, added) in &news {
            if *added { report.added.push(wire(pair)) } else { report.removed.push(wire(pair)) }
        }
        (!news.is_empty()).then_some(report)
    }
}

impl Way {
    /// The node that leads the first range.
    async fn find(&self) -> Result<NodeClient<tonic::transport::Channel>, String> {
        let lookup = |mut rpc: PlacementRpc| async move {
            rpc.lookup_ranges(LookupRangesRequest { limit: 1, ..Default::default() }).await
        };
        let found = self.placement.call(lookup, Instant::now() + FIND_TIMEOUT).await;
        let routes = found.map_err(|error| error.to_string())?.routes;
        let route = routes.into_iter().next().ok_or("there is no first range")?;
        let leader = route.leader_replica_id;
        let replicas = route.range.map(|range| range.replicas).unwrap_or_default();
        let replica = replicas.iter().find(|replica| replica.replica_id == leader);
        let node = NodeId(replica.ok_or("nobody leads the first range")?.node_id);
        let address = self.addresses.get(node).ok_or("its address is not known")?;
        let endpoint = grpc::endpoint(&address).map_err(|error| error.to_string())?;
        let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
        Ok(NodeClient::new(channel))
    }

    /// The first of the cycle gives way, wherever it waits here.
    fn break_up(&self, cycle: &[u64]) {
        let cycle: Vec<_> = cycle.iter().copied().map(Timestamp).collect();
        if let Some(victim) = cycle.first() {
            self.states.for_each(|state| state.waits.give_up(*victim, &cycle));
        }
    }
}
