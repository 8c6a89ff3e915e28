//! The `Consensus` service: messages of other members, checked before openraft sees them.

use super::core::Core;
use super::metrics::REFUSED;
use super::state_machine;
use super::types::{Entry, RaftError, SnapshotMeta, StorageError, TypeConfig};
use futures::future::ready;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use openraft::error::{Fatal, InstallSnapshotError};
use openraft::network::snapshot_transport::{Chunked, SnapshotTransport as _, Streaming};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    SnapshotResponse, VoteRequest,
};
use openraft::{AnyError, StorageIOError};
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::consensus_server::Consensus as ConsensusService;
use rangedb_types::PlacementId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming as Incoming};

/// Largest snapshot a member takes in.
const SNAPSHOT_BYTES_MAX: u64 = 1 << 30;

/// The service of one member.
pub struct Service {
    core: Arc<Core>,
    /// The snapshot that is being received.
    receiving: Mutex<Option<Streaming<TypeConfig>>>,
    cancel: CancellationToken,
}

impl Service {
    pub(super) fn new(core: Arc<Core>, cancel: CancellationToken) -> Self {
        Self { core, receiving: Mutex::default(), cancel }
    }

    /// Checks the envelope and unpacks the message.
    async fn open<T: DeserializeOwned>(
        &self,
        request: Request<wire::ConsensusRequest>,
    ) -> Result<T, Status> {
        let request = request.into_inner();
        self.admit(&request).await?;
        serde_json::from_slice(&request.payload)
            .map_err(|error| Status::invalid_argument(format!("malformed message: {error}")))
    }

    async fn admit(&self, request: &wire::ConsensusRequest) -> Result<(), Status> {
        let known = self.core.store_of(PlacementId(request.from_id));
        match self.core.own.admit(request, known) {
            Ok(None) => {}
            Ok(Some(cluster_id)) => {
                let joined = self.core.own.join_cluster(cluster_id).await;
                joined.map_err(|failure| Status::failed_precondition(failure.to_string()))?;
                tracing::info!(%cluster_id, "joined a cluster");
            }
            Err(refusal) => {
                REFUSED.with_label_values(&[refusal.reason()]).inc();
                return Err(Status::failed_precondition(refusal.to_string()));
            }
        }
        Ok(())
    }

    fn answer(&self, result: &impl Serialize) -> Result<Response<wire::ConsensusResponse>, Status> {
        let payload = serde_json::to_vec(result)
            .map_err(|error| Status::internal(format!("the answer cannot be written: {error}")))?
            .into();
        let store_id = self.core.own.store_id.to_string();
        Ok(Response::new(wire::ConsensusResponse { payload, store_id }))
    }

    async fn receive(
        &self,
        chunk: InstallSnapshotRequest<TypeConfig>,
    ) -> Result<InstallSnapshotResponse<PlacementId>, RaftError<InstallSnapshotError>> {
        let vote = chunk.vote;
        let raft = &self.core.raft;
        let own = raft.with_raft_state(|state| *state.vote_ref()).await?;
        if vote < own {
            return Ok(InstallSnapshotResponse { vote: own });
        }
        let received = {
            let mut receiving = self.receiving.lock().await;
            Chunked::receive_snapshot(&mut receiving, raft, chunk).await?
        };
        self.core.heard_from_leader();
        let Some(snapshot) = received else { return Ok(InstallSnapshotResponse { vote: own }) };
        // On disk first: openraft may cut the log off before the state machine has it.
        self.stage(snapshot.meta.clone(), snapshot.snapshot.get_ref().clone()).await?;
        let SnapshotResponse { vote } = raft.install_full_snapshot(vote, snapshot).await?;
        let store = self.core.store().map_err(storage_error)?;
        store.blocking(state_machine::unstage).await.map_err(storage_error)?;
        self.core.heard_from_leader();
        Ok(InstallSnapshotResponse { vote })
    }

    async fn stage(&self, meta: SnapshotMeta, data: Vec<u8>) -> Result<(), Fatal<PlacementId>> {
        let store = self.core.store().map_err(storage_error)?;
        let staged =
            store.blocking(move |store| Ok(state_machine::stage(store, &meta, &data))).await;
        match staged {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let error = StorageIOError::write_snapshot(None, AnyError::new(&error));
                Err(Fatal::StorageError(error.into()))
            }
            Err(error) => Err(storage_error(error)),
        }
    }
}

fn storage_error(error: super::store::StoreError) -> Fatal<PlacementId> {
    Fatal::StorageError(StorageError::from(error))
}

/// True if the entries follow each other and the entry before them, without a gap.
fn contiguous(previous: Option<u64>, entries: &[Entry]) -> bool {
    let mut next = previous.map_or(0, |previous| previous + 1);
    let mut leader = None;
    entries.iter().all(|entry| {
        let follows = entry.log_id.index == next && leader <= Some(entry.log_id.leader_id);
        next += 1;
        leader = Some(entry.log_id.leader_id);
        follows
    })
}

#[tonic::async_trait]
impl ConsensusService for Service {
    type WitnessStream = BoxStream<'static, Result<wire::WitnessResponse, Status>>;

    async fn witness(
        &self,
        request: Request<Incoming<wire::WitnessRequest>>,
    ) -> Result<Response<Self::WitnessStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("the stream is empty"))?;
        let envelope = first.envelope.as_ref();
        let envelope = envelope.ok_or_else(|| Status::invalid_argument("no envelope"))?;
        self.admit(envelope).await?;
        let promise = self.core.promise.clone();
        let rounds = requests.map_ok(|request| request.round);
        let rounds = stream::once(ready(Ok(first.round))).chain(rounds);
        let answers = rounds.map_ok(move |round| promise.answer(round));
        Ok(Response::new(answers.take_until(self.cancel.clone().cancelled_owned()).boxed()))
    }

    async fn probe(
        &self,
        request: Request<wire::ProbeRequest>,
    ) -> Result<Response<wire::ProbeResponse>, Status> {
        let from = PlacementId(request.into_inner().from_id);
        let metrics = self.core.raft.metrics().borrow().clone();
        let known = self.core.store_of(from);
        Ok(Response::new(wire::ProbeResponse {
            cluster_id: self.core.own.cluster_text(),
            id: self.core.own.id.get(),
            store_id: self.core.own.store_id.to_string(),
            leader_id: metrics.current_leader.map_or(0, PlacementId::get),
            leader_alive: self.core.leader_is_alive(),
            known_store_id: known.map(|known| known.to_string()).unwrap_or_default(),
            last_log_index: metrics.last_log_index.unwrap_or_default(),
            peer_ids: self.core.own.peers.keys().map(|id| id.get()).collect(),
        }))
    }

    async fn append_entries(
        &self,
        request: Request<wire::ConsensusRequest>,
    ) -> Result<Response<wire::ConsensusResponse>, Status> {
        let message: AppendEntriesRequest<TypeConfig> = self.open(request).await?;
        if !contiguous(message.prev_log_id.map(|log_id| log_id.index), &message.entries) {
            REFUSED.with_label_values(&["gap"]).inc();
            return Err(Status::invalid_argument("the entries do not follow each other"));
        }
        let result = self.core.raft.append_entries(message).await;
        if !matches!(result, Err(_) | Ok(AppendEntriesResponse::HigherVote(_))) {
            self.core.heard_from_leader();
        }
        self.answer(&result)
    }

    async fn vote(
        &self,
        request: Request<wire::ConsensusRequest>,
    ) -> Result<Response<wire::ConsensusResponse>, Status> {
        let message: VoteRequest<PlacementId> = self.open(request).await?;
        let result = self.core.raft.vote(message).await;
        if result.as_ref().is_ok_and(|vote| vote.vote_granted) {
            self.core.gave_vote();
        }
        self.answer(&result)
    }

    async fn install_snapshot(
        &self,
        request: Request<wire::ConsensusRequest>,
    ) -> Result<Response<wire::ConsensusResponse>, Status> {
        let chunk: InstallSnapshotRequest<TypeConfig> = self.open(request).await?;
        if chunk.offset.saturating_add(chunk.data.len() as u64) > SNAPSHOT_BYTES_MAX {
            return Err(Status::resource_exhausted("the snapshot is too large"));
        }
        self.answer(&self.receive(chunk).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::testing::blank_ent;

    #[test]
    fn appends_with_a_gap_are_refused_before_openraft_sees_them() {
        let entry = |term, index| blank_ent::<TypeConfig>(term, PlacementId(1), index);
        assert!(contiguous(None, &[]) && contiguous(Some(7), &[]));
        assert!(contiguous(None, &[entry(0, 0), entry(1, 1)]));
        assert!(contiguous(Some(7), &[entry(1, 8), entry(1, 9)]));
        assert!(!contiguous(None, &[entry(1, 1)]), "a hole at the beginning");
        assert!(!contiguous(Some(7), &[entry(1, 9)]), "a hole after the entry before");
        assert!(!contiguous(Some(7), &[entry(1, 8), entry(1, 10)]), "a hole between entries");
        assert!(!contiguous(Some(7), &[entry(1, 8), entry(1, 8)]), "the same entry twice");
        assert!(!contiguous(Some(7), &[entry(2, 8), entry(1, 9)]), "a term that goes back");
    }
}
