//! The gRPC service `Node`: data requests of gateways, and consistency checks.
//!
//! Owns: the wire of data requests, the bounds on what one stream may have under way, what is
//! measured of every request. Must not know: how a request is done. Invariants: every request of a
//! stream is answered once; a stream that does not read its answers is not read from either; a
//! write goes on to its end though its stream has gone.

mod actions;
#[cfg(feature = "fault-injection")]
pub mod alone;
mod convert;
mod data;
mod decode;
mod flow;
mod held;
pub mod metrics;

pub use data::DataPlane;
pub use flow::ResponseStream;

use crate::access::Refusal;
use crate::deadlock::Detector;
use crate::gc::Abandoned;
use crate::store::checks::ChecksumResult;
use crate::store::{ProposeError, ReplicaHandle, Store};
use crate::transport::{Identity, check_hello};
use futures::stream::BoxStream;
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::node_server::Node;
use rangedb_types::RangeId;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::{Request, Response, Status, Streaming};

/// Longest wait for a replica's checksum.
const CHECKSUM_WAIT_MAX: Duration = Duration::from_secs(60);
/// How often who waits for a checksum looks whether the replica is still there.
const REMOVAL_LOOK: Duration = Duration::from_millis(200);
/// Longest wait until a check has been applied at the leader.
const CHECK_START_MAX: Duration = Duration::from_secs(10);

/// The service.
pub struct NodeService {
    data: Arc<DataPlane>,
    store: Store,
    detector: Arc<Detector>,
    abandoned: Arc<Abandoned>,
    identity: Identity,
}

impl NodeService {
    #[must_use]
    pub const fn new(
        data: Arc<DataPlane>,
        store: Store,
        detector: Arc<Detector>,
        abandoned: Arc<Abandoned>,
        identity: Identity,
    ) -> Self {
        Self { data, store, detector, abandoned, identity }
    }

    /// Waits until a replica reached a check, for as long as it is this node's.
    async fn checksum(
        &self,
        replica: &Arc<ReplicaHandle>,
        (check_id, index): (u64, u64),
        limit: Duration,
    ) -> Result<ChecksumResult, Status> {
        let (range_id, begun) = (replica.range_id(), Instant::now());
        while let Some(left) = limit.checked_sub(begun.elapsed()) {
            let look = left.min(REMOVAL_LOOK);
            if let Some(result) = replica.checksum(check_id, look).await {
                return Ok(result);
            }
            let now = self.store.replica(range_id);
            if now.is_none_or(|now| now.replica_id() != replica.replica_id()) {
                let words = format!("the replica of range {range_id} was removed meanwhile");
                return Err(Status::not_found(words));
            }
            if replica.has_passed(check_id, index) {
                let words = format!("a snapshot has brought range {range_id} beyond the check");
                return Err(Status::aborted(words));
            }
        }
        let words = format!("range {range_id} has not reached the check in time");
        Err(Status::deadline_exceeded(words))
    }

    async fn start_check(&self, range_id: RangeId, check_id: u64) -> Result<(), Refusal> {
        let replica = self.store.replica(range_id).ok_or(Refusal::RangeNotFound(range_id))?;
        let not_leader =
            || Refusal::NotLeader { leader: replica.leader(), range: replica.descriptor() };
        if replica.leadership().is_none() {
            return Err(not_leader());
        }
        let proposed = replica.consistency_check(check_id);
        match tokio::time::timeout(CHECK_START_MAX, proposed).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(ProposeError::NotLeader)) => Err(not_leader()),
            Ok(Err(ProposeError::EpochMismatch)) => {
                let ranges = self.store.overlapping(&replica.descriptor().span);
                Err(Refusal::EpochMismatch { ranges })
            }
            Ok(Err(ProposeError::Frozen)) => Err(Refusal::NotReady("the range is being merged")),
            Ok(Err(ProposeError::HandingOver)) => {
                Err(Refusal::NotReady("the lead of the range is being handed over"))
            }
            Ok(Err(ProposeError::Overloaded)) => Err(Refusal::Overloaded("too much waits")),
            // A check changes nothing: asking for another is safe.
            Ok(Err(ProposeError::OutcomeUnknown | ProposeError::Stopping)) | Err(_) => {
                Err(Refusal::NotReady("the check was not seen through; start another"))
            }
        }
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    type DataStream = ResponseStream;
    type WaitsStream = BoxStream<'static, Result<wire::DeadlockFound, Status>>;

    async fn data(
        &self,
        request: Request<Streaming<wire::DataRequests>>,
    ) -> Result<Response<ResponseStream>, Status> {
        Ok(Response::new(DataPlane::serve(&self.data, request.into_inner())))
    }

    async fn waits(
        &self,
        request: Request<Streaming<wire::WaitsReport>>,
    ) -> Result<Response<Self::WaitsStream>, Status> {
        Ok(Response::new(self.detector.serve(request.into_inner())?))
    }

    async fn close_timestamps(
        &self,
        request: Request<wire::ClosedTimestamps>,
    ) -> Result<Response<wire::ClosedTimestampsReceipt>, Status> {
        let message = request.into_inner();
        check_hello(self.identity, message.hello.as_ref())?;
        crate::closed::hear(&self.store, &message);
        Ok(Response::new(wire::ClosedTimestampsReceipt {}))
    }

    async fn take_abandoned(
        &self,
        _request: Request<wire::TakeAbandonedRequest>,
    ) -> Result<Response<wire::TakeAbandonedResponse>, Status> {
        Ok(Response::new(actions::abandoned(self.abandoned.take())))
    }

    async fn replica_checksum(
        &self,
        request: Request<wire::ReplicaChecksumRequest>,
    ) -> Result<Response<wire::ReplicaChecksumResponse>, Status> {
        let request = request.into_inner();
        let range_id = RangeId(request.range_id);
        let replica: Arc<ReplicaHandle> = self
            .store
            .replica(range_id)
            .ok_or_else(|| Status::not_found(format!("range {range_id} has no replica here")))?;
        let limit = Duration::from_millis(request.timeout_ms.into()).min(CHECKSUM_WAIT_MAX);
        let result = self.checksum(&replica, (request.check_id, request.index), limit).await?;
        Ok(Response::new(wire::ReplicaChecksumResponse {
            applied_index: result.applied_index,
            checksum: result.checksum,
            entries: result.entries,
            replica_id: replica.replica_id().get(),
        }))
    }

    async fn start_consistency_check(
        &self,
        request: Request<wire::StartConsistencyCheckRequest>,
    ) -> Result<Response<wire::StartConsistencyCheckResponse>, Status> {
        let request = request.into_inner();
        let range_id = RangeId(request.range_id);
        let error = self.start_check(range_id, request.check_id).await.err();
        let replica = self.store.replica(range_id);
        Ok(Response::new(wire::StartConsistencyCheckResponse {
            index: replica
                .as_ref()
                .and_then(|replica| replica.checks().index_of(request.check_id))
                .unwrap_or_default(),
            range: replica.map(|replica| (&*replica.descriptor()).into()),
            error: error.map(convert::node_error),
        }))
    }
}

#[cfg(test)]
mod tests;
