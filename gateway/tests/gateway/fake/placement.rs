//! A placement member that always leads.

use super::store::Store;
use futures::stream::{BoxStream, StreamExt as _};
use rangedb_proto::internal::v1::placement_server::{Placement, PlacementServer};
use rangedb_proto::internal::v1::{
    AllocateIdsRequest, AllocateIdsResponse, HelloRequest, HelloResponse, LookupRangesRequest,
    LookupRangesResponse, NodeAddresses, NodeCommand, NodeReport, RangeChanges, SafePointRequest,
    SafePointResponse, TimestampBatch, TimestampRequest, TokenKeyRequest, TokenKeyResponse,
    WatchNodesRequest, WatchRangesRequest,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

pub struct FakePlacement {
    address: String,
    store: Arc<Store>,
    cancel: CancellationToken,
}

pub fn service(
    address: String,
    store: Arc<Store>,
    cancel: CancellationToken,
) -> PlacementServer<FakePlacement> {
    PlacementServer::new(FakePlacement { address, store, cancel })
}

impl FakePlacement {
    fn up(&self) -> Result<(), Status> {
        if self.store.placement_down.load(Ordering::SeqCst) {
            return Err(Status::unavailable("a fake outage"));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Placement for FakePlacement {
    type NodeStream = BoxStream<'static, Result<NodeCommand, Status>>;
    type TimestampsStream = BoxStream<'static, Result<TimestampBatch, Status>>;
    type WatchNodesStream = BoxStream<'static, Result<NodeAddresses, Status>>;
    type WatchRangesStream = BoxStream<'static, Result<RangeChanges, Status>>;

    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        self.up()?;
        Ok(Response::new(HelloResponse {
            cluster_id: "f".repeat(32),
            member_id: 1,
            leader_address: self.address.clone(),
            members: Vec::new(),
        }))
    }

    async fn node(
        &self,
        _: Request<Streaming<NodeReport>>,
    ) -> Result<Response<Self::NodeStream>, Status> {
        Err(Status::unimplemented("no nodes register here"))
    }

    async fn timestamps(
        &self,
        request: Request<Streaming<TimestampRequest>>,
    ) -> Result<Response<Self::TimestampsStream>, Status> {
        self.up()?;
        let store = Arc::clone(&self.store);
        let batches = request
            .into_inner()
            .map(move |request| {
                let request = request?;
                if store.placement_down.load(Ordering::SeqCst) {
                    return Err(Status::unavailable("a fake outage"));
                }
                let first = store.timestamps(request.count);
                Ok(TimestampBatch { tag: request.tag, first, count: request.count })
            })
            .take_until(self.cancel.clone().cancelled_owned());
        Ok(Response::new(batches.boxed()))
    }

    async fn allocate_ids(
        &self,
        _: Request<AllocateIdsRequest>,
    ) -> Result<Response<AllocateIdsResponse>, Status> {
        Err(Status::unimplemented("gateways need no ids"))
    }

    async fn lookup_ranges(
        &self,
        request: Request<LookupRangesRequest>,
    ) -> Result<Response<LookupRangesResponse>, Status> {
        self.up()?;
        let request = request.into_inner();
        let routes = self.store.routes(&request.start, request.limit);
        Ok(Response::new(LookupRangesResponse { routes }))
    }

    async fn watch_nodes(
        &self,
        _: Request<WatchNodesRequest>,
    ) -> Result<Response<Self::WatchNodesStream>, Status> {
        self.up()?;
        let lists = WatchStream::new(self.store.addresses.subscribe()).map(Ok);
        Ok(Response::new(lists.take_until(self.cancel.clone().cancelled_owned()).boxed()))
    }

    async fn safe_point(
        &self,
        _: Request<SafePointRequest>,
    ) -> Result<Response<SafePointResponse>, Status> {
        Err(Status::unimplemented("nothing is removed here"))
    }

    async fn token_key(
        &self,
        _: Request<TokenKeyRequest>,
    ) -> Result<Response<TokenKeyResponse>, Status> {
        self.up()?;
        Ok(Response::new(TokenKeyResponse { key: vec![7; 32].into() }))
    }

    async fn watch_ranges(
        &self,
        _: Request<WatchRangesRequest>,
    ) -> Result<Response<Self::WatchRangesStream>, Status> {
        self.up()?;
        let changes = WatchStream::new(self.store.changes.subscribe()).map(Ok);
        Ok(Response::new(changes.take_until(self.cancel.clone().cancelled_owned()).boxed()))
    }
}
