//! The address book of storage nodes, and the links to them.
//!
//! Owns: which node lives where, and a bounded number of streams to each. Must not know: routes,
//! retries. Invariant: a node has links exactly while the address book lists it.

mod link;
mod pending;
pub mod waiter;

pub use link::{Link, Submission};

use crate::metrics::Metrics;
use crate::watch::{self, Watch};
use parking_lot::RwLock;
use rangedb_placement_client::{PlacementClient, PlacementRpc};
use rangedb_proto::internal::v1::data_response;
use rangedb_proto::internal::v1::{NodeAddresses, WatchNodesRequest};
use rangedb_types::NodeId;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

/// How one request to a node ended.
#[expect(clippy::large_enum_variant, reason = "nearly all are answers; a box each would cost more")]
#[derive(Debug)]
pub enum Outcome {
    /// The node's answer; `None` if it was empty.
    Answered(Option<data_response::Result>),
    /// It was never handed to the stream.
    NotSent,
    /// The link's queue is full; nothing was sent.
    Overloaded,
    /// It was sent and the stream broke before an answer.
    Lost,
    /// It was sent and no answer came in the attempt's time.
    TimedOut,
}

/// Bounds of one link.
#[derive(Clone, Copy, Debug)]
pub struct LinkLimits {
    pub requests_max: usize,
    pub bytes_max: usize,
    /// Silence, while answers are due, after which the stream is given up.
    pub stall_timeout: Duration,
}

/// The address book, following placement.
struct AddressWatch(Arc<Nodes>);

impl Watch for AddressWatch {
    type Message = NodeAddresses;

    const NAME: &'static str = "addresses of nodes";

    async fn open(
        &self,
        mut rpc: PlacementRpc,
    ) -> Result<Response<Streaming<NodeAddresses>>, Status> {
        rpc.watch_nodes(WatchNodesRequest {}).await
    }

    fn take_in(&mut self, list: NodeAddresses) {
        self.0.apply(&list);
    }
}

/// One storage node.
pub struct Node {
    address: String,
    links: Vec<Arc<Link>>,
    next: AtomicUsize,
    /// For the rare unary calls; connects when first used.
    channel: Channel,
    cancel: CancellationToken,
}

impl Node {
    /// A link, in turn.
    #[must_use]
    pub fn link(&self) -> &Arc<Link> {
        match self.links.as_slice() {
            [only] => only,
            many => &many[self.next.fetch_add(1, Ordering::Relaxed) % many.len()],
        }
    }

    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

/// All storage nodes that placement lists.
pub struct Nodes {
    book: RwLock<HashMap<NodeId, Arc<Node>>>,
    limits: LinkLimits,
    links_per_node: usize,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Nodes {
    #[must_use]
    pub fn new(
        limits: LinkLimits,
        links_per_node: usize,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Arc<Self> {
        let book = RwLock::new(HashMap::new());
        Arc::new(Self { book, limits, links_per_node, metrics, tasks, cancel })
    }

    /// The node, if the address book lists it.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<Arc<Node>> {
        self.book.read().get(&node).cloned()
    }

    /// All of them, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Node>> {
        self.book.read().values().cloned().collect()
    }

    /// True if a stream to any node stands.
    #[must_use]
    pub fn any_up(&self) -> bool {
        self.book.read().values().any(|node| node.links.iter().any(|link| link.is_up()))
    }

    /// Follows placement's list of nodes until cancelled. While placement is away the last list stays.
    pub async fn watch(self: Arc<Self>, placement: Arc<PlacementClient>) {
        let cancel = self.cancel.clone();
        watch::watch(AddressWatch(self), &placement, &cancel).await;
    }

    /// Makes the address book equal to the list.
    fn apply(&self, list: &NodeAddresses) {
        let listed: HashMap<NodeId, &str> =
            list.nodes.iter().map(|node| (NodeId(node.node_id), node.address.as_str())).collect();
        let mut book = self.book.write();
        book.retain(|id, node| {
            let stays = listed.get(id).is_some_and(|address| *address == node.address);
            if !stays {
                node.cancel.cancel();
            }
            stays
        });
        for (id, address) in listed {
            if book.contains_key(&id) {
                continue;
            }
            match self.start_node(address) {
                Ok(node) => {
                    tracing::info!(node_id = %id, address, "storage node listed");
                    book.insert(id, Arc::new(node));
                }
                Err(error) => tracing::warn!(node_id = %id, address, %error, "bad node address"),
            }
        }
    }

    fn start_node(&self, address: &str) -> Result<Node, rangedb_service::grpc::InvalidAddress> {
        let endpoint = rangedb_service::grpc::endpoint(address)?;
        let cancel = self.cancel.child_token();
        let links = (0..self.links_per_node)
            .map(|_| {
                let link = Link::new(self.limits, Arc::clone(&self.metrics));
                let run =
                    Arc::clone(&link).run(address.to_owned(), endpoint.clone(), cancel.clone());
                self.tasks.spawn(run);
                link
            })
            .collect();
        Ok(Node {
            address: address.to_owned(),
            links,
            next: AtomicUsize::new(0),
            channel: endpoint.connect_lazy(),
            cancel,
        })
    }
}
