//! When this node last heard from each of the others, whatever it was about.
//!
//! Owns: one time and one count a node. Must not know: ranges, what was said.

use parking_lot::RwLock;
use rangedb_types::{MonotonicTime, NodeId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[derive(Default)]
struct Peer {
    heard_micros: AtomicU64,
    streams: AtomicU64,
}

/// A node as it was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    pub node_id: NodeId,
    pub at: MonotonicTime,
    /// How many streams it has opened: one more means that it has started anew, or that some of what
    /// it said may be lost.
    pub streams: u64,
}

/// All nodes that were ever heard from. There are as many as nodes that presented themselves with
/// this cluster's id.
#[derive(Default)]
pub struct Peers {
    peers: RwLock<BTreeMap<NodeId, Peer>>,
}

impl Peers {
    /// A node opened a stream.
    pub fn opened(&self, node_id: NodeId, now: MonotonicTime) {
        let mut peers = self.peers.write();
        let peer = peers.entry(node_id).or_default();
        peer.streams.fetch_add(1, Ordering::Relaxed);
        peer.heard_micros.fetch_max(micros(now), Ordering::Relaxed);
    }

    /// A node said something.
    pub fn heard(&self, node_id: NodeId, now: MonotonicTime) {
        if let Some(peer) = self.peers.read().get(&node_id) {
            peer.heard_micros.fetch_max(micros(now), Ordering::Relaxed);
            return;
        }
        self.opened(node_id, now);
    }

    #[must_use]
    pub fn all(&self) -> Vec<Heard> {
        let heard = |(node_id, peer): (&NodeId, &Peer)| Heard {
            node_id: *node_id,
            at: MonotonicTime(Duration::from_micros(peer.heard_micros.load(Ordering::Relaxed))),
            streams: peer.streams.load(Ordering::Relaxed),
        };
        self.peers.read().iter().map(heard).collect()
    }
}

fn micros(time: MonotonicTime) -> u64 {
    u64::try_from(time.0.as_micros()).unwrap_or(u64::MAX)
}
