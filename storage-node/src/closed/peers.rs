//! The way to the other nodes.

use crate::transport::{AddressBook, Identity};
use rangedb_proto::internal::v1::node_client::NodeClient;
use rangedb_proto::internal::v1::{ClosedTimestamps, RaftHello};
use rangedb_service::grpc;
use rangedb_types::NodeId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tonic::transport::Channel;

/// How long one message may take; the next one says more.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Connections to the nodes, made when they are first needed.
pub(super) struct Peers {
    pub(super) identity: Identity,
    addresses: Arc<AddressBook>,
    channels: HashMap<NodeId, (String, Channel)>,
}

impl Peers {
    pub(super) fn new(identity: Identity, addresses: Arc<AddressBook>) -> Self {
        Self { identity, addresses, channels: HashMap::new() }
    }

    /// Sends a message; what does not arrive is said again in the next round.
    pub(super) fn send(
        &mut self,
        node: NodeId,
        mut message: ClosedTimestamps,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let channel = self.channel(node)?;
        message.hello = Some(RaftHello {
            cluster_id: self.identity.cluster_id.to_string(),
            from_node_id: self.identity.node_id.get(),
            to_node_id: node.get(),
        });
        Some(async move {
            let mut rpc =
                NodeClient::new(channel).max_encoding_message_size(grpc::MESSAGE_BYTES_MAX);
            match timeout(TIMEOUT, rpc.close_timestamps(message)).await {
                Ok(Ok(_)) => {}
                Ok(Err(status)) => {
                    tracing::debug!(%node, %status, "closed timestamps were not taken")
                }
                Err(_) => tracing::debug!(%node, "closed timestamps were not taken in time"),
            }
        })
    }

    fn channel(&mut self, node: NodeId) -> Option<Channel> {
        let address = self.addresses.get(node)?;
        if let Some((known, channel)) = self.channels.get(&node)
            && *known == address
        {
            return Some(channel.clone());
        }
        let channel = grpc::endpoint(&address).ok()?.connect_lazy();
        self.channels.insert(node, (address, channel.clone()));
        Some(channel)
    }
}
