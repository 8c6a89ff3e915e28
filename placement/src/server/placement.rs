//! The `Placement` service: nodes and gateways.

use super::{Answers, Services, node, timestamps, unexpected};
use crate::metrics::OpenStream;
use crate::state::{Command, Response as Outcome};
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::placement_server::Placement;
use rangedb_proto::v1::PlacementMember;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Commands that wait for a node to read them.
const COMMANDS_MAX: usize = 1_024;
/// Answers that wait for a caller to read them; more stop the stream's requests.
const ANSWERS_MAX: usize = 64;

impl Services {
    /// The quorum's members, in order of their ids.
    pub(super) fn members(&self) -> Vec<PlacementMember> {
        self.consensus
            .members()
            .into_iter()
            .map(|member| PlacementMember {
                id: member.id.get(),
                address: member.address,
                role: member.role.as_str().to_owned(),
            })
            .collect()
    }

    /// The leader's address, unless it is this member and it cannot serve.
    fn leader_address(&self) -> String {
        let leadership = self.consensus.leadership().borrow().clone();
        let serves = !leadership.is_leader || self.office.borrow().is_some();
        leadership.leader_address.filter(|_| serves).unwrap_or_default()
    }
}

#[tonic::async_trait]
impl Placement for Services {
    type NodeStream = Answers<wire::NodeCommand>;
    type TimestampsStream = Answers<wire::TimestampBatch>;
    type WatchNodesStream = Answers<wire::NodeAddresses>;
    type WatchRangesStream = Answers<wire::RangeChanges>;

    async fn hello(
        &self,
        _request: Request<wire::HelloRequest>,
    ) -> Result<Response<wire::HelloResponse>, Status> {
        let cluster_id = self.consensus.cluster_id();
        Ok(Response::new(wire::HelloResponse {
            cluster_id: cluster_id.map(|id| id.to_string()).unwrap_or_default(),
            member_id: self.id.get(),
            leader_address: self.leader_address(),
            members: self.members(),
        }))
    }

    async fn node(
        &self,
        request: Request<Streaming<wire::NodeReport>>,
    ) -> Result<Response<Self::NodeStream>, Status> {
        let office = self.office()?;
        let (outgoing, commands) = mpsc::channel(COMMANDS_MAX);
        let services = self.clone();
        let reports = request.into_inner();
        self.tasks.spawn(async move {
            let _open = OpenStream::new("node");
            let refused = node::serve(&services, &office, reports, &outgoing).await;
            if let Err(status) = refused {
                // Waits for room behind the commands; a node that is gone closes the channel.
                let _gone = outgoing.send_timeout(Err(status), super::CALL_TIMEOUT).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(commands))))
    }

    async fn timestamps(
        &self,
        request: Request<Streaming<wire::TimestampRequest>>,
    ) -> Result<Response<Self::TimestampsStream>, Status> {
        let office = self.office()?;
        let (outgoing, answers) = mpsc::channel(ANSWERS_MAX);
        let services = self.clone();
        let requests = request.into_inner();
        self.tasks.spawn(async move {
            let _open = OpenStream::new("timestamps");
            let refused = timestamps::serve(&services, &office, requests, &outgoing).await;
            if let Err(status) = refused {
                let _gone = outgoing.send_timeout(Err(status), super::CALL_TIMEOUT).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn allocate_ids(
        &self,
        request: Request<wire::AllocateIdsRequest>,
    ) -> Result<Response<wire::AllocateIdsResponse>, Status> {
        self.office()?;
        let count = request.into_inner().count;
        if count == 0 {
            return Err(Status::invalid_argument("`count` must be at least 1"));
        }
        match self.propose(Command::AllocateIds { count }).await? {
            Outcome::Ids { first } => Ok(Response::new(wire::AllocateIdsResponse { first })),
            other => Err(unexpected(&other)),
        }
    }

    async fn lookup_ranges(
        &self,
        request: Request<wire::LookupRangesRequest>,
    ) -> Result<Response<wire::LookupRangesResponse>, Status> {
        let office = self.office()?;
        let routes = super::lookup::routes(&office, &request.into_inner())?;
        Ok(Response::new(wire::LookupRangesResponse { routes }))
    }

    async fn token_key(
        &self,
        _request: Request<wire::TokenKeyRequest>,
    ) -> Result<Response<wire::TokenKeyResponse>, Status> {
        self.office()?;
        let key = self.consensus.read(|state| state.token_key().cloned());
        let key = key.ok_or_else(|| Status::unavailable("the cluster is being formed"))?;
        let byte = |at: usize| u8::from_str_radix(&key[at..at + 2], 16);
        let bytes: Result<Vec<u8>, _> = (0..key.len()).step_by(2).map(byte).collect();
        let bytes = bytes.map_err(|_| Status::data_loss("the tokens' secret cannot be read"))?;
        Ok(Response::new(wire::TokenKeyResponse { key: bytes.into() }))
    }

    async fn safe_point(
        &self,
        _request: Request<wire::SafePointRequest>,
    ) -> Result<Response<wire::SafePointResponse>, Status> {
        self.office()?;
        let version = super::holds::safe_point(self).await?.0;
        Ok(Response::new(wire::SafePointResponse { version }))
    }

    async fn watch_nodes(
        &self,
        _request: Request<wire::WatchNodesRequest>,
    ) -> Result<Response<Self::WatchNodesStream>, Status> {
        let office = self.office()?;
        let (outgoing, answers) = mpsc::channel(1);
        let services = self.clone();
        self.tasks.spawn(async move {
            let _open = OpenStream::new("watch_nodes");
            let mut nodes = office.nodes();
            nodes.mark_changed();
            loop {
                tokio::select! {
                    () = office.ended().cancelled() => {
                        let refused = Err(super::not_leader(&services.consensus));
                        let _gone = outgoing.send_timeout(refused, super::CALL_TIMEOUT).await;
                        return;
                    }
                    () = outgoing.closed() => return,
                    changed = nodes.changed() => if changed.is_err() { return },
                }
                let addresses = nodes.borrow_and_update().clone();
                tokio::select! {
                    sent = outgoing.send(Ok(addresses)) => if sent.is_err() { return },
                    () = office.ended().cancelled() => {}
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn watch_ranges(
        &self,
        request: Request<wire::WatchRangesRequest>,
    ) -> Result<Response<Self::WatchRangesStream>, Status> {
        let office = self.office()?;
        let after = request.into_inner().after_revision;
        let watch = super::range_watch::RangeWatch::new(&office, after)?;
        let (outgoing, answers) = mpsc::channel(1);
        let services = self.clone();
        self.tasks.spawn(async move {
            let _open = OpenStream::new("watch_ranges");
            if let Err(status) = watch.serve(&services.consensus, &office, &outgoing).await {
                let _gone = outgoing.send_timeout(Err(status), super::CALL_TIMEOUT).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}
