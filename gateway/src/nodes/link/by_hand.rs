//! A link without a network, for tests that stand in for a node: they take the requests, and say how each ended.
//!
//! Owns: nothing of its own; it is the link's other end. Must not know: what requests mean.

use super::super::{LinkLimits, Node, Nodes, Outcome};
use super::{Link, drain};
use crate::metrics::Metrics;
use rangedb_proto::internal::v1::DataRequest;
use rangedb_types::NodeId;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

const LIMITS: LinkLimits =
    LinkLimits { requests_max: 1_000, bytes_max: 1 << 20, stall_timeout: Duration::from_secs(60) };

impl Link {
    pub fn by_hand() -> Arc<Self> {
        Self::new(LIMITS, Metrics::shared())
    }

    /// What was submitted since the last time. From here on it counts as sent.
    pub fn take_sent(&self) -> Vec<DataRequest> {
        drain(&mut self.state.lock()).0
    }

    /// Ends a request; nothing if its caller was told before.
    pub fn end(&self, tag: u64, outcome: Outcome) {
        let pending = self.state.lock().table.remove(tag);
        self.tell(pending.map(|pending| (pending, outcome)));
    }
}

impl Nodes {
    /// Nodes of which one is listed, with this link. `channel` is never used.
    pub fn by_hand(node: NodeId, link: &Arc<Link>, channel: Channel) -> Arc<Self> {
        let cancel = CancellationToken::new();
        let nodes =
            Self::new(LIMITS, 1, Metrics::shared(), tokio_util::task::TaskTracker::new(), cancel);
        let listed = Node {
            address: String::new(),
            links: vec![Arc::clone(link)],
            next: AtomicUsize::new(0),
            channel,
            cancel: CancellationToken::new(),
        };
        nodes.book.write().insert(node, Arc::new(listed));
        nodes
    }
}
