//! Where the Raft threads put messages for other nodes.

use super::link::{Link, Peer};
use super::metrics::{Metrics, dropped};
use super::queue::Queue;
use super::wire::may_travel;
use super::{AddressBook, Identity, Outbound, RaftSender, TransportSettings};
use parking_lot::RwLock;
use rangedb_types::NodeId;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time between two signs of life. Several fit into an election time-out.
const BEAT_INTERVAL: Duration = Duration::from_millis(200);

/// One queue and one task a peer node, made when there is something to send.
pub struct Outbox {
    identity: Identity,
    queue_bytes_max: usize,
    addresses: Arc<AddressBook>,
    links: RwLock<HashMap<NodeId, (Arc<Peer>, CancellationToken)>>,
    runtime: Handle,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Outbox {
    /// Its tasks run on `runtime` until [`Outbox::stop`].
    #[must_use]
    pub fn new(
        identity: Identity,
        settings: &TransportSettings,
        addresses: Arc<AddressBook>,
        runtime: Handle,
    ) -> Arc<Self> {
        Arc::new(Self {
            identity,
            queue_bytes_max: settings.queue_bytes.as_usize(),
            addresses,
            links: RwLock::default(),
            runtime,
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        })
    }

    /// Lets every peer that was ever spoken to hear from this node several times a second, until
    /// [`Outbox::stop`].
    pub fn beat(self: &Arc<Self>) {
        let outbox = Arc::clone(self);
        let beating = async move {
            let mut ticks = tokio::time::interval(BEAT_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = outbox.cancel.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                outbox.links.read().values().for_each(|(peer, _)| peer.queue.beat());
            }
        };
        self.tasks.spawn_on(beating, &self.runtime);
    }

    /// Where the other nodes are, all of them. Streams to nodes that moved are made anew.
    pub fn set_addresses(&self, addresses: HashMap<NodeId, String>) {
        // Until the end, so that no link is made to an address that is about to go.
        let mut links = self.links.write();
        links.retain(|node_id, (_, cancel)| {
            let known = addresses.contains_key(node_id);
            if !known {
                cancel.cancel();
            }
            known
        });
        self.addresses.set(addresses);
    }

    /// Ends all streams and waits for their tasks. What is queued is dropped.
    pub async fn stop(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn peer(&self, node_id: NodeId) -> Option<Arc<Peer>> {
        if let Some((peer, _)) = self.links.read().get(&node_id) {
            return Some(Arc::clone(peer));
        }
        let mut links = self.links.write();
        if let Some((peer, _)) = links.get(&node_id) {
            return Some(Arc::clone(peer));
        }
        // Under the lock, so that a link and its address come and go together.
        self.addresses.get(node_id)?;
        if self.cancel.is_cancelled() {
            return None;
        }
        let peer = Arc::new(Peer {
            queue: Queue::new(self.queue_bytes_max),
            unreachable: AtomicBool::new(false),
        });
        let cancel = self.cancel.child_token();
        let link = Link {
            identity: self.identity,
            to: node_id,
            peer: Arc::clone(&peer),
            addresses: self.addresses.subscribe(),
            cancel: cancel.clone(),
        };
        self.tasks.spawn_on(link.run(), &self.runtime);
        links.insert(node_id, (Arc::clone(&peer), cancel));
        Some(peer)
    }
}

impl RaftSender for Outbox {
    fn send(&self, mut messages: Vec<Outbound>) {
        let dropped_for = |reason: &str, count: usize| {
            if count > 0 {
                Metrics::get().dropped.with_label_values(&[reason]).inc_by(count as u64);
            }
        };
        let all = messages.len();
        messages.retain(|outbound| outbound.message.as_ref().is_none_or(may_travel));
        dropped_for(dropped::FORBIDDEN, all - messages.len());
        // The sort is stable: messages of one replica to another keep their order.
        messages.sort_by_key(|outbound| outbound.to_node);
        let mut messages = messages.into_iter().peekable();
        while let Some(to) = messages.peek().map(|outbound| outbound.to_node) {
            let ours = std::iter::from_fn(|| messages.next_if(|outbound| outbound.to_node == to));
            match self.peer(to) {
                Some(peer) => dropped_for(dropped::QUEUE_FULL, peer.queue.push(ours)),
                None => dropped_for(dropped::NO_ADDRESS, ours.count()),
            }
        }
    }

    fn is_unreachable(&self, node_id: NodeId) -> bool {
        match self.links.read().get(&node_id) {
            Some((peer, _)) => peer.unreachable.load(Ordering::Acquire),
            None => self.addresses.get(node_id).is_none(),
        }
    }
}
