//! Raft messages between nodes: one stream a pair of nodes, many messages a frame.
//!
//! Owns: connections, queues (bounded; what does not fit is dropped, which Raft repairs), the
//! handshake that refuses nodes of other clusters. Must not know: what a message means.

mod address_book;
pub(crate) mod known_addresses;
mod link;
mod metrics;
mod outbox;
mod queue;
mod service;
mod settings;
#[cfg(test)]
mod tests;
mod wire;

pub use address_book::AddressBook;
pub use outbox::Outbox;
pub(crate) use service::check_hello;
pub use service::{RaftTransportService, raft_transport_service};
pub use settings::TransportSettings;
pub(crate) use wire::{decode_inbound, encode_parts, hello};

use crate::replica::Sleep;
use raft::eraftpb::Message;
use rangedb_types::{ClusterId, Epoch, NodeId, RangeDescriptor, RangeId, ReplicaId, Span};
use std::sync::Arc;

/// Who this node is, to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: ClusterId,
    pub node_id: NodeId,
}

/// A Raft message on its way to another node.
#[derive(Clone, Debug)]
pub struct Outbound {
    pub to_node: NodeId,
    pub range_id: RangeId,
    pub from_replica: ReplicaId,
    pub to_replica: ReplicaId,
    pub epoch: Epoch,
    /// The sender's bounds; lets the receiver refuse to make a replica that would overlap another.
    pub span: Arc<Span>,
    /// `None` for a notice that `to_replica` was removed, or that the range sleeps.
    pub message: Option<Message>,
    pub removed_by: Option<Arc<RangeDescriptor>>,
    pub sleep: Option<Sleep>,
}

/// A Raft message that arrived.
#[derive(Clone, Debug)]
pub struct Inbound {
    pub from_node: NodeId,
    pub range_id: RangeId,
    pub from_replica: ReplicaId,
    pub to_replica: ReplicaId,
    pub epoch: Epoch,
    pub span: Span,
    pub message: Option<Message>,
    pub removed_by: Option<RangeDescriptor>,
    pub sleep: Option<Sleep>,
}

impl Inbound {
    /// True for a message by which a replica asks whether it is still one.
    #[must_use]
    pub const fn says_nothing(&self) -> bool {
        self.message.is_none() && self.removed_by.is_none() && self.sleep.is_none()
    }
}

/// Where the Raft threads put their messages. Never blocks.
pub trait RaftSender: Send + Sync {
    /// Queues messages; drops those that do not fit or have no known address.
    fn send(&self, messages: Vec<Outbound>);

    /// True if the stream to this node is broken, so that the sender's leader may tell Raft.
    fn is_unreachable(&self, node_id: NodeId) -> bool;
}

/// Where messages that arrive are put. Never blocks; drops what does not fit.
pub trait RaftReceiver: Send + Sync {
    fn deliver(&self, message: Inbound);

    /// Another node opened a stream: it has started, or lost its connection.
    fn opened(&self, from: NodeId);

    /// A frame of another node arrived; they come several times a second, with or without messages.
    fn heard(&self, from: NodeId);
}
