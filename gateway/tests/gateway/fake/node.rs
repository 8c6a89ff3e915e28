//! A storage node without storage.

use super::store::{Fault, Store, refusal};
use futures::stream::{BoxStream, StreamExt as _};
use rangedb_proto::internal::v1::node_server::{Node, NodeServer};
use rangedb_proto::internal::v1::{
    ClosedTimestamps, ClosedTimestampsReceipt, DataRequest, DataRequests, DataResponse,
    DataResponses, DeadlockFound, ReplicaChecksumRequest, ReplicaChecksumResponse,
    StartConsistencyCheckRequest, StartConsistencyCheckResponse, TakeAbandonedRequest,
    TakeAbandonedResponse, WaitsReport,
};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

pub struct FakeNode {
    node: u64,
    store: Arc<Store>,
    cancel: CancellationToken,
}

pub fn service(node: u64, store: Arc<Store>, cancel: CancellationToken) -> NodeServer<FakeNode> {
    NodeServer::new(FakeNode { node, store, cancel }).max_decoding_message_size(64 << 20)
}

/// `Err` breaks the stream; `None` answers nothing.
fn answer(store: &Store, node: u64, request: DataRequest) -> Result<Option<DataResponse>, Status> {
    store.saw(node, &request);
    let tag = request.tag;
    let broken = || Status::unavailable("a fake break");
    let result = match store.next_fault(node) {
        None => store.serve(node, request),
        Some(Fault::Refuse(kind)) => refusal(kind),
        Some(Fault::Break) => return Err(broken()),
        Some(Fault::ApplyAndBreak) => {
            store.serve(node, request);
            return Err(broken());
        }
        Some(Fault::Hang) => return Ok(None),
        Some(Fault::ApplyAndHang) => {
            store.serve(node, request);
            return Ok(None);
        }
    };
    Ok(Some(DataResponse { tag, result: Some(result) }))
}

#[tonic::async_trait]
impl Node for FakeNode {
    type WaitsStream = BoxStream<'static, Result<DeadlockFound, Status>>;

    async fn waits(
        &self,
        _: Request<Streaming<WaitsReport>>,
    ) -> Result<Response<Self::WaitsStream>, Status> {
        Err(Status::unimplemented("nobody waits here"))
    }

    async fn close_timestamps(
        &self,
        _: Request<ClosedTimestamps>,
    ) -> Result<Response<ClosedTimestampsReceipt>, Status> {
        Err(Status::unimplemented("nothing is closed here"))
    }

    async fn take_abandoned(
        &self,
        _: Request<TakeAbandonedRequest>,
    ) -> Result<Response<TakeAbandonedResponse>, Status> {
        Ok(Response::new(TakeAbandonedResponse::default()))
    }

    type DataStream = BoxStream<'static, Result<DataResponses, Status>>;

    async fn data(
        &self,
        request: Request<Streaming<DataRequests>>,
    ) -> Result<Response<Self::DataStream>, Status> {
        let (node, store) = (self.node, Arc::clone(&self.store));
        let answers = request
            .into_inner()
            .map(move |message| {
                let answers =
                    message?.requests.into_iter().map(|request| answer(&store, node, request));
                let answers: Result<Vec<_>, Status> = answers.collect();
                Ok(DataResponses { responses: answers?.into_iter().flatten().collect() })
            })
            .take_until(self.cancel.clone().cancelled_owned());
        Ok(Response::new(answers.boxed()))
    }

    async fn replica_checksum(
        &self,
        request: Request<ReplicaChecksumRequest>,
    ) -> Result<Response<ReplicaChecksumResponse>, Status> {
        let replica_id = request.into_inner().range_id * 10 + self.node;
        Ok(Response::new(ReplicaChecksumResponse {
            applied_index: 7,
            checksum: 99,
            entries: 3,
            replica_id,
        }))
    }

    async fn start_consistency_check(
        &self,
        request: Request<StartConsistencyCheckRequest>,
    ) -> Result<Response<StartConsistencyCheckResponse>, Status> {
        let range_id = request.into_inner().range_id;
        let route = self
            .store
            .routes(b"", u32::MAX)
            .into_iter()
            .find(|route| route.range.as_ref().is_some_and(|range| range.range_id == range_id));
        let route = route.ok_or_else(|| Status::not_found("no such range"))?;
        let leads = route.leader_replica_id == range_id * 10 + self.node;
        let error = (!leads).then(|| rangedb_proto::internal::v1::NodeError {
            message: "not here".to_owned(),
            kind: Some(rangedb_proto::internal::v1::node_error::Kind::NotLeader(
                rangedb_proto::internal::v1::NotLeader { range_id, leader: None, range: None },
            )),
        });
        Ok(Response::new(StartConsistencyCheckResponse { range: route.range, error, index: 0 }))
    }
}
