//! The public `Admin` service: passes calls on to placement.
//!
//! Owns: nothing but the way there. Must not know: what the calls mean, except VerifyRange, which
//! asks storage nodes. Invariant: a call that changes something is sent once; if no answer comes
//! back the caller is told that the outcome is unknown.

use crate::deadline;
use crate::dispatch::Dispatcher;
use crate::errors::Failure;
use crate::verify::verify_range;
use futures::stream::{BoxStream, StreamExt as _};
use rangedb_placement_client::{
    AdminRpc, LEADER_METADATA, PlacementClient, PlacementError, admin_client,
};
use rangedb_proto::v1::admin_server::Admin;
use rangedb_proto::v1::{
    AddPlacementRequest, ClusterStatusRequest, ClusterStatusResponse, ConfigEntry,
    DrainNodeRequest, GetConfigRequest, GetMetaRequest, GetRangeRequest, GetRangeResponse,
    HoldVersionRequest, ListConfigRequest, ListConfigResponse, ListHoldsRequest, ListHoldsResponse,
    ListMetaRequest, ListMetaResponse, ListNodesRequest, ListNodesResponse, ListPlacementRequest,
    ListPlacementResponse, ListRangesRequest, ListRangesResponse, MergeRangeRequest, MetaEntry,
    MetaEvent, MoveReplicaRequest, NodePlan, RangePlan, ReleaseVersionRequest,
    ReleaseVersionResponse, RemoveNodeRequest, RemovePlacementRequest, ScatterPlan,
    ScatterRangesRequest, SetConfigRequest, SplitRangeRequest, TransferLeaderRequest,
    UndrainNodeRequest, VerifyRangeRequest, VerifyRangeResponse, VersionHold, WatchMetaRequest,
};
use rangedb_types::RangeId;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

/// Time of a VerifyRange whose caller names no deadline: a large range takes a while to read.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(60);
/// Members that may refuse a changing call because they do not lead, before we give up.
const LEADERS_TRIED_MAX: u32 = 8;

/// Serves operators.
pub struct AdminService {
    placement: Arc<PlacementClient>,
    dispatcher: Arc<Dispatcher>,
    request_timeout: Duration,
    /// Ends the watches when the gateway stops.
    stop: CancellationToken,
}

impl AdminService {
    #[must_use]
    pub const fn new(
        placement: Arc<PlacementClient>,
        dispatcher: Arc<Dispatcher>,
        request_timeout: Duration,
        stop: CancellationToken,
    ) -> Self {
        Self { placement, dispatcher, request_timeout, stop }
    }

    fn deadline(&self, metadata: &MetadataMap) -> Result<Instant, Failure> {
        deadline::of_call(metadata, self.request_timeout)
    }

    /// A call that only reads, on whichever member leads.
    async fn read<M, T, F, A>(&self, request: Request<M>, attempt: F) -> Result<Response<T>, Status>
    where
        M: Clone,
        F: Fn(AdminRpc, M) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = self.deadline(request.metadata())?;
        let message = request.into_inner();
        let answer = self.placement.call_admin(|rpc| attempt(rpc, message.clone()), deadline).await;
        Ok(Response::new(answer?))
    }

    /// A call that changes something. Only a refusal by a member that does not lead is followed by
    /// another attempt.
    async fn change<M, T, F, A>(
        &self,
        request: Request<M>,
        attempt: F,
    ) -> Result<Response<T>, Status>
    where
        M: Clone,
        F: Fn(AdminRpc, M) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = self.deadline(request.metadata())?;
        let message = request.into_inner();
        for _ in 0..LEADERS_TRIED_MAX {
            let leader = self.placement.leader(deadline).await?;
            let sent = attempt(admin_client(leader.channel.clone()), message.clone());
            match timeout_at(deadline, sent).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(status)) if status.metadata().contains_key(LEADER_METADATA) => {
                    self.placement.forget(&leader, Some(&status));
                }
                Ok(Err(status)) => {
                    if matches!(status.code(), Code::Unavailable | Code::Cancelled) {
                        self.placement.forget(&leader, None);
                        return Err(unknown_change());
                    }
                    return Err(status);
                }
                Err(_) => return Err(unknown_change()),
            }
        }
        Err(PlacementError::NoLeader { reason: "no member keeps the lead".to_owned() }.into())
    }
}

fn unknown_change() -> Status {
    Status::unknown(
        "no answer from placement: the change may have happened; look before repeating it",
    )
}

macro_rules! pass_on {
    ($self:ident.$kind:ident($request:ident) => $method:ident) => {
        $self.$kind($request, |mut rpc, message| async move { rpc.$method(message).await }).await
    };
}

#[tonic::async_trait]
impl Admin for AdminService {
    type WatchMetaStream = BoxStream<'static, Result<MetaEvent, Status>>;

    async fn cluster_status(
        &self,
        request: Request<ClusterStatusRequest>,
    ) -> Result<Response<ClusterStatusResponse>, Status> {
        pass_on!(self.read(request) => cluster_status)
    }

    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        pass_on!(self.read(request) => list_nodes)
    }

    async fn list_ranges(
        &self,
        request: Request<ListRangesRequest>,
    ) -> Result<Response<ListRangesResponse>, Status> {
        pass_on!(self.read(request) => list_ranges)
    }

    async fn verify_range(
        &self,
        request: Request<VerifyRangeRequest>,
    ) -> Result<Response<VerifyRangeResponse>, Status> {
        let deadline = deadline::of_call(request.metadata(), VERIFY_TIMEOUT)?;
        let range = RangeId(request.into_inner().range_id);
        Ok(Response::new(verify_range(&self.dispatcher, range, deadline).await?))
    }

    async fn get_range(
        &self,
        request: Request<GetRangeRequest>,
    ) -> Result<Response<GetRangeResponse>, Status> {
        pass_on!(self.read(request) => get_range)
    }

    async fn split_range(
        &self,
        request: Request<SplitRangeRequest>,
    ) -> Result<Response<RangePlan>, Status> {
        pass_on!(self.change(request) => split_range)
    }

    async fn merge_range(
        &self,
        request: Request<MergeRangeRequest>,
    ) -> Result<Response<RangePlan>, Status> {
        pass_on!(self.change(request) => merge_range)
    }

    async fn move_replica(
        &self,
        request: Request<MoveReplicaRequest>,
    ) -> Result<Response<RangePlan>, Status> {
        pass_on!(self.change(request) => move_replica)
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<RangePlan>, Status> {
        pass_on!(self.change(request) => transfer_leader)
    }

    async fn scatter_ranges(
        &self,
        request: Request<ScatterRangesRequest>,
    ) -> Result<Response<ScatterPlan>, Status> {
        pass_on!(self.change(request) => scatter_ranges)
    }

    async fn drain_node(
        &self,
        request: Request<DrainNodeRequest>,
    ) -> Result<Response<NodePlan>, Status> {
        pass_on!(self.change(request) => drain_node)
    }

    async fn undrain_node(
        &self,
        request: Request<UndrainNodeRequest>,
    ) -> Result<Response<NodePlan>, Status> {
        pass_on!(self.change(request) => undrain_node)
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<NodePlan>, Status> {
        pass_on!(self.change(request) => remove_node)
    }

    async fn get_config(
        &self,
        request: Request<GetConfigRequest>,
    ) -> Result<Response<ConfigEntry>, Status> {
        pass_on!(self.read(request) => get_config)
    }

    async fn set_config(
        &self,
        request: Request<SetConfigRequest>,
    ) -> Result<Response<ConfigEntry>, Status> {
        pass_on!(self.change(request) => set_config)
    }

    async fn list_config(
        &self,
        request: Request<ListConfigRequest>,
    ) -> Result<Response<ListConfigResponse>, Status> {
        pass_on!(self.read(request) => list_config)
    }

    async fn hold_version(
        &self,
        request: Request<HoldVersionRequest>,
    ) -> Result<Response<VersionHold>, Status> {
        pass_on!(self.change(request) => hold_version)
    }

    async fn release_version(
        &self,
        request: Request<ReleaseVersionRequest>,
    ) -> Result<Response<ReleaseVersionResponse>, Status> {
        pass_on!(self.read(request) => release_version)
    }

    async fn list_holds(
        &self,
        request: Request<ListHoldsRequest>,
    ) -> Result<Response<ListHoldsResponse>, Status> {
        pass_on!(self.read(request) => list_holds)
    }

    async fn get_meta(
        &self,
        request: Request<GetMetaRequest>,
    ) -> Result<Response<MetaEntry>, Status> {
        pass_on!(self.read(request) => get_meta)
    }

    async fn list_meta(
        &self,
        request: Request<ListMetaRequest>,
    ) -> Result<Response<ListMetaResponse>, Status> {
        pass_on!(self.read(request) => list_meta)
    }

    async fn watch_meta(
        &self,
        request: Request<WatchMetaRequest>,
    ) -> Result<Response<Self::WatchMetaStream>, Status> {
        let opened: Response<tonic::Streaming<MetaEvent>> =
            pass_on!(self.read(request) => watch_meta)?;
        let events = opened.into_inner().take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(events.boxed()))
    }

    async fn list_placement(
        &self,
        request: Request<ListPlacementRequest>,
    ) -> Result<Response<ListPlacementResponse>, Status> {
        pass_on!(self.read(request) => list_placement)
    }

    async fn add_placement(
        &self,
        request: Request<AddPlacementRequest>,
    ) -> Result<Response<ListPlacementResponse>, Status> {
        pass_on!(self.change(request) => add_placement)
    }

    async fn remove_placement(
        &self,
        request: Request<RemovePlacementRequest>,
    ) -> Result<Response<ListPlacementResponse>, Status> {
        pass_on!(self.change(request) => remove_placement)
    }
}
