//! Messages to other members: openraft's over the `Consensus` service, and probes.
//!
//! Owns: connections and the envelope of each message. Must not know: what the messages decide.

use super::identity::Identity;
use super::types::{Member, RaftError, TypeConfig};
use crate::state::StoreId;
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::consensus_client::ConsensusClient;
use rangedb_service::grpc;
use rangedb_types::PlacementId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Addresses that connections are kept for. Members are few; this is against a peer list that
/// changes all the time.
const CONNECTIONS_MAX: usize = 32;
/// How long replication to a member that cannot be reached pauses.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(200);

/// The other members.
#[derive(Clone)]
pub(super) struct Network {
    own: Arc<Identity>,
    connections: Arc<Mutex<HashMap<String, Channel>>>,
}

impl Network {
    pub(super) fn new(own: Arc<Identity>) -> Self {
        Self { own, connections: Arc::default() }
    }

    pub(super) fn client(
        &self,
        address: &str,
    ) -> Result<ConsensusClient<Channel>, grpc::InvalidAddress> {
        let mut connections = self.connections.lock();
        if let Some(channel) = connections.get(address) {
            return Ok(client(channel.clone()));
        }
        let channel = grpc::endpoint(address)?.connect_lazy();
        if connections.len() >= CONNECTIONS_MAX {
            connections.clear();
        }
        connections.insert(address.to_owned(), channel.clone());
        Ok(client(channel))
    }

    /// The envelope of a message to a member.
    pub(super) fn envelope(
        &self,
        to: PlacementId,
        to_store: StoreId,
        payload: tonic::codegen::Bytes,
    ) -> wire::ConsensusRequest {
        wire::ConsensusRequest {
            cluster_id: self.own.cluster_text(),
            from_id: self.own.id.get(),
            from_store_id: self.own.store_id.to_string(),
            to_id: to.get(),
            to_store_id: to_store.to_string(),
            payload,
        }
    }

    /// Asks the process at an address who it is. `None` if there was no answer in time.
    pub(super) async fn probe(
        &self,
        address: &str,
        timeout: Duration,
    ) -> Option<wire::ProbeResponse> {
        let mut client = self.client(address).ok()?;
        let request = wire::ProbeRequest {
            cluster_id: self.own.cluster_text(),
            from_id: self.own.id.get(),
            from_store_id: self.own.store_id.to_string(),
        };
        let answer = tokio::time::timeout(timeout, client.probe(request)).await.ok()?.ok()?;
        Some(answer.into_inner())
    }

    /// Probes several members at once; those that did not answer are missing.
    pub(super) async fn probe_all(
        &self,
        members: impl IntoIterator<Item = (PlacementId, String)>,
        timeout: Duration,
    ) -> Vec<(PlacementId, Option<wire::ProbeResponse>)> {
        let probes = members
            .into_iter()
            .map(|(id, address)| async move { (id, self.probe(&address, timeout).await) });
        futures::future::join_all(probes).await
    }
}

fn client(channel: Channel) -> ConsensusClient<Channel> {
    ConsensusClient::new(channel)
        .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX)
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: PlacementId, member: &Member) -> Peer {
        // The operator's list wins over the address a member had when it was added: that is how a
        // member moves.
        let address = self.own.peers.get(&target).unwrap_or(&member.address).clone();
        Peer { network: self.clone(), target, address, member: member.clone() }
    }
}

/// One member that openraft sends to.
pub(super) struct Peer {
    network: Network,
    target: PlacementId,
    address: String,
    member: Member,
}

enum Call {
    Append,
    Vote,
    Snapshot,
}

type CallError<E> = RPCError<PlacementId, Member, RaftError<E>>;

impl Peer {
    async fn call<Request, Response, E>(
        &self,
        call: Call,
        request: &Request,
    ) -> Result<Response, CallError<E>>
    where
        Request: Serialize,
        Response: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
    {
        let payload =
            serde_json::to_vec(request).map_err(|error| NetworkError::new(&error))?.into();
        let request = self.network.envelope(self.target, self.member.store_id, payload);
        let mut client =
            self.network.client(&self.address).map_err(|error| Unreachable::new(&error))?;
        let answer = match call {
            Call::Append => client.append_entries(request).await,
            Call::Vote => client.vote(request).await,
            Call::Snapshot => client.install_snapshot(request).await,
        };
        let answer = answer.map_err(|status| self.failed(status))?.into_inner();
        let result: Result<Response, RaftError<E>> =
            serde_json::from_slice(&answer.payload).map_err(|error| NetworkError::new(&error))?;
        result.map_err(|error| {
            RPCError::RemoteError(RemoteError::new_with_node(
                self.target,
                self.member.clone(),
                error,
            ))
        })
    }

    /// Whoever refuses us, or is not there, is left alone for a while.
    fn failed<E: std::error::Error>(&self, status: Status) -> CallError<E> {
        if matches!(status.code(), Code::FailedPrecondition | Code::PermissionDenied) {
            tracing::warn!(member = %self.target, reason = status.message(), "a placement member refused a message");
        }
        match status.code() {
            Code::Unavailable | Code::FailedPrecondition | Code::PermissionDenied => {
                RPCError::Unreachable(Unreachable::new(&status))
            }
            _ => RPCError::Network(NetworkError::new(&status)),
        }
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<PlacementId>, CallError<openraft::error::Infallible>> {
        self.call(Call::Append, &rpc).await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<PlacementId>, CallError<InstallSnapshotError>> {
        self.call(Call::Snapshot, &rpc).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<PlacementId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<PlacementId>, CallError<openraft::error::Infallible>> {
        self.call(Call::Vote, &rpc).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHABLE_PAUSE))
    }
}
