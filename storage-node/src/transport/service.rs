//! The receiving end: Raft streams and snapshot streams of other nodes.

use super::metrics::{Metrics, dropped};
use super::wire::{decode_inbound, may_travel};
use super::{Identity, RaftReceiver};
use crate::snapshot::SnapshotInbox;
use futures::StreamExt as _;
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::raft_transport_server::{RaftTransport, RaftTransportServer};
use rangedb_types::NodeId;
use rangedb_types::limits::MESSAGE_BYTES_MAX;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// The gRPC service `RaftTransport`.
pub struct RaftTransportService {
    identity: Identity,
    receiver: Arc<dyn RaftReceiver>,
    snapshots: Arc<SnapshotInbox>,
    cancel: CancellationToken,
}

/// The service, to be mounted. Its streams end when `cancel` is cancelled.
#[must_use]
pub fn raft_transport_service(
    identity: Identity,
    receiver: Arc<dyn RaftReceiver>,
    snapshots: Arc<SnapshotInbox>,
    cancel: CancellationToken,
) -> RaftTransportServer<RaftTransportService> {
    let service = RaftTransportService { identity, receiver, snapshots, cancel };
    RaftTransportServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Refuses nodes of other clusters, and streams that were meant for another node.
pub(crate) fn check_hello(
    identity: Identity,
    hello: Option<&wire::RaftHello>,
) -> Result<NodeId, Status> {
    let hello = hello.ok_or_else(|| Status::invalid_argument("the stream has no hello"))?;
    let ours = identity.cluster_id.to_string();
    if hello.cluster_id != ours {
        return Err(Status::failed_precondition(format!(
            "this node belongs to cluster {ours}, the sender to cluster {}",
            hello.cluster_id
        )));
    }
    if hello.to_node_id != identity.node_id.get() {
        return Err(Status::failed_precondition(format!(
            "this is node {}, the stream is meant for node {}",
            identity.node_id, hello.to_node_id
        )));
    }
    Ok(NodeId(hello.from_node_id))
}

impl RaftTransportService {
    fn deliver(&self, from: NodeId, messages: &[wire::RaftMessage]) -> Result<(), Status> {
        let metrics = Metrics::get();
        metrics.received.inc_by(messages.len() as u64);
        for message in messages {
            let inbound = decode_inbound(from, message)?;
            if inbound.message.as_ref().is_none_or(may_travel) {
                self.receiver.deliver(inbound);
            } else {
                metrics.dropped.with_label_values(&[dropped::FORBIDDEN]).inc();
            }
        }
        Ok(())
    }

    async fn receive(&self, mut frames: Streaming<wire::RaftMessages>) -> Result<(), Status> {
        let first = frames.next().await.transpose()?.unwrap_or_default();
        let from = check_hello(self.identity, first.hello.as_ref())?;
        self.receiver.opened(from);
        self.deliver(from, &first.messages)?;
        while let Some(frame) = frames.next().await.transpose()? {
            self.receiver.heard(from);
            self.deliver(from, &frame.messages)?;
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl RaftTransport for RaftTransportService {
    async fn raft(
        &self,
        request: Request<Streaming<wire::RaftMessages>>,
    ) -> Result<Response<wire::RaftStreamEnd>, Status> {
        tokio::select! {
            received = self.receive(request.into_inner()) => received?,
            () = self.cancel.cancelled() => {}
        }
        Ok(Response::new(wire::RaftStreamEnd {}))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotPart>>,
    ) -> Result<Response<wire::SnapshotReceipt>, Status> {
        tokio::select! {
            receipt = self.snapshots.receive(request.into_inner()) => receipt.map(Response::new),
            () = self.cancel.cancelled() => Err(Status::unavailable("the node is stopping")),
        }
    }

    async fn snapshot_progress(
        &self,
        request: Request<wire::SnapshotProgressRequest>,
    ) -> Result<Response<wire::SnapshotProgressResponse>, Status> {
        self.snapshots.progress(request.get_ref()).map(Response::new)
    }
}
