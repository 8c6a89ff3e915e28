//! What this node tells the detector.
//!
//! Owns: this node's edges, and the stream to the detector while there are any. Must not know: keys.

use super::first_range;
use crate::access::{RangeStates, Ranges};
use crate::transport::AddressBook;
use crate::txn::Edges;
use parking_lot::Mutex;
use rangedb_placement_client::{PlacementClient, PlacementRpc};
use rangedb_proto::internal::v1::node_client::NodeClient;
use rangedb_proto::internal::v1::{DeadlockFound, LookupRangesRequest, WaitsEdge, WaitsReport};
use rangedb_service::grpc;
use rangedb_types::{NodeId, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

/// How long finding the detector, and reaching it, may take …
const FIND_TIMEOUT: Duration = Duration::from_secs(1);
/// … if this node's own replica names it: that may be out of date, and placement is asked next.
const HINT_TIMEOUT: Duration = Duration::from_millis(200);
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
    pub ranges: Arc<dyn Ranges>,
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
            let mut ask = Ask::OwnReplica;
            while !self.state.lock().edges.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    told = self.tell(&way, &mut ask) => if let Err(why) = told {
                        tracing::debug!(why, "the detector of deadlocks was lost");
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                }
            }
            self.state.lock().news.clear();
        }
    }

    /// One stream, which begins with all edges. `ask` is whom to ask now, and becomes whom to ask next.
    async fn tell(&self, way: &Way, ask: &mut Ask) -> Result<(), String> {
        let (reports, outgoing) = mpsc::channel(REPORTS_MAX);
        let now = std::mem::replace(ask, ask.other());
        let mut found = way.open(now, outgoing).await?;
        *ask = Ask::OwnReplica;
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

/// Who is asked who leads the first range. The own replica, where there is one, knows of an election
/// sooner than placement; placement learns of every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    OwnReplica,
    Placement,
}

impl Ask {
    const fn other(self) -> Self {
        match self {
            Self::OwnReplica => Self::Placement,
            Self::Placement => Self::OwnReplica,
        }
    }
}

impl Way {
    /// A stream to the detector.
    async fn open(
        &self,
        ask: Ask,
        reports: mpsc::Receiver<WaitsReport>,
    ) -> Result<Streaming<DeadlockFound>, String> {
        let hint = self.named_by_own_replica().filter(|_| ask == Ask::OwnReplica);
        let limit = if hint.is_some() { HINT_TIMEOUT } else { FIND_TIMEOUT };
        let opened = tokio::time::timeout(limit, async {
            let node = match hint {
                Some(node) => node,
                None => self.named_by_placement().await?,
            };
            let address = self.addresses.get(node).ok_or("its address is not known")?;
            let endpoint = grpc::endpoint(&address).map_err(|error| error.to_string())?;
            let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
            let opened = NodeClient::new(channel).waits(ReceiverStream::new(reports)).await;
            Ok(opened.map_err(|status| status.message().to_owned())?.into_inner())
        });
        opened.await.map_err(|_| "it was not reached in time".to_owned())?
    }

    /// The node that leads the first range, as far as a replica of it on this node knows.
    fn named_by_own_replica(&self) -> Option<NodeId> {
        first_range(&*self.ranges)?.leader().map(|leader| leader.node_id)
    }

    /// The node that leads the first range, as far as placement knows.
    async fn named_by_placement(&self) -> Result<NodeId, String> {
        let lookup = |mut rpc: PlacementRpc| async move {
            rpc.lookup_ranges(LookupRangesRequest { limit: 1, ..Default::default() }).await
        };
        let found = self.placement.call(lookup, Instant::now() + FIND_TIMEOUT).await;
        let routes = found.map_err(|error| error.to_string())?.routes;
        let route = routes.into_iter().next().ok_or("there is no first range")?;
        let leader = route.leader_replica_id;
        let replicas = route.range.map(|range| range.replicas).unwrap_or_default();
        let replica = replicas.iter().find(|replica| replica.replica_id == leader);
        Ok(NodeId(replica.ok_or("nobody leads the first range")?.node_id))
    }

    /// The first of the cycle gives way, wherever it waits here.
    fn break_up(&self, cycle: &[u64]) {
        let cycle: Vec<_> = cycle.iter().copied().map(Timestamp).collect();
        if let Some(victim) = cycle.first() {
            self.states.for_each(|state| state.waits.give_up(*victim, &cycle));
        }
    }
}
