//! A quorum of placement that exists only in this process: members that agree on who leads, and a
//! counter for timestamps.

use rangedb_placement_client::LEADER_METADATA;
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::placement_server::{Placement, PlacementServer};
use rangedb_proto::v1::PlacementMember;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the members share.
pub struct Quorum {
    /// The index of the member that leads; `usize::MAX` for none.
    pub leader: watch::Sender<usize>,
    /// Replies to fetches wait while this is true.
    pub hold: watch::Sender<bool>,
    /// Given to each fetch when its reply is made.
    pub next_timestamp: AtomicU64,
    pub fetches: AtomicU64,
    pub addresses: Vec<String>,
}

impl Quorum {
    pub fn address_of_leader(&self) -> String {
        self.addresses.get(*self.leader.borrow()).cloned().unwrap_or_default()
    }
}

pub struct Member {
    index: usize,
    quorum: Arc<Quorum>,
}

/// A running quorum. Dropping a handle's task stops that member.
pub struct Fake {
    pub quorum: Arc<Quorum>,
    pub members: Vec<JoinHandle<()>>,
}

impl Fake {
    pub async fn start(count: usize) -> Self {
        let mut listeners = Vec::new();
        for _ in 0..count {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
        let quorum = Arc::new(Quorum {
            leader: watch::channel(0).0,
            hold: watch::channel(false).0,
            next_timestamp: AtomicU64::new(1),
            fetches: AtomicU64::new(0),
            addresses,
        });
        let members = listeners
            .into_iter()
            .enumerate()
            .map(|(index, listener)| {
                let member = Member { index, quorum: quorum.clone() };
                tokio::spawn(async move {
                    tonic::transport::Server::builder()
                        .add_service(PlacementServer::new(member))
                        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(
                            listener,
                        ))
                        .await
                        .unwrap();
                })
            })
            .collect();
        Self { quorum, members }
    }

    pub fn addresses(&self) -> Vec<String> {
        self.quorum.addresses.clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        for member in &self.members {
            member.abort();
        }
    }
}

impl Member {
    fn refuse(&self) -> Status {
        let mut status = Status::failed_precondition("this member does not lead");
        let address = self.quorum.address_of_leader();
        status.metadata_mut().insert(LEADER_METADATA, address.parse().unwrap());
        status
    }

    fn leads(&self) -> Result<(), Status> {
        if *self.quorum.leader.borrow() == self.index { Ok(()) } else { Err(self.refuse()) }
    }
}

#[tonic::async_trait]
impl Placement for Member {
    type NodeStream = Answers<wire::NodeCommand>;
    type TimestampsStream = Answers<wire::TimestampBatch>;
    type WatchNodesStream = Answers<wire::NodeAddresses>;
    type WatchRangesStream = Answers<wire::RangeChanges>;

    async fn hello(
        &self,
        _: Request<wire::HelloRequest>,
    ) -> Result<Response<wire::HelloResponse>, Status> {
        let members = self.quorum.addresses.iter().enumerate().map(|(index, address)| {
            PlacementMember { id: index as u64 + 1, address: address.clone(), role: String::new() }
        });
        Ok(Response::new(wire::HelloResponse {
            cluster_id: String::new(),
            member_id: self.index as u64 + 1,
            leader_address: self.quorum.address_of_leader(),
            members: members.collect(),
        }))
    }

    async fn timestamps(
        &self,
        request: Request<Streaming<wire::TimestampRequest>>,
    ) -> Result<Response<Self::TimestampsStream>, Status> {
        self.leads()?;
        let mut fetches = request.into_inner();
        let (replies, stream) = mpsc::channel(100);
        let (quorum, index) = (self.quorum.clone(), self.index);
        let deposed = self.refuse();
        tokio::spawn(async move {
            let mut leader = quorum.leader.subscribe();
            let mut hold = quorum.hold.subscribe();
            loop {
                let fetch = tokio::select! {
                    _ = leader.wait_for(|leader| *leader != index) => None,
                    fetch = fetches.next() => Some(fetch),
                };
                let Some(fetch) = fetch else {
                    let _ = replies.send(Err(deposed)).await;
                    return;
                };
                let Some(Ok(fetch)) = fetch else { return };
                quorum.fetches.fetch_add(1, Ordering::SeqCst);
                let released = tokio::select! {
                    _ = leader.wait_for(|leader| *leader != index) => false,
                    _ = hold.wait_for(|hold| !hold) => true,
                };
                if !released {
                    let _ = replies.send(Err(deposed)).await;
                    return;
                }
                let count = u64::from(fetch.count);
                let first = quorum.next_timestamp.fetch_add(count, Ordering::SeqCst);
                let batch = wire::TimestampBatch { tag: fetch.tag, first, count: fetch.count };
                if replies.send(Ok(batch)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn allocate_ids(
        &self,
        request: Request<wire::AllocateIdsRequest>,
    ) -> Result<Response<wire::AllocateIdsResponse>, Status> {
        self.leads()?;
        if request.get_ref().count == 0 {
            return Err(Status::invalid_argument("no ids asked for"));
        }
        Ok(Response::new(wire::AllocateIdsResponse { first: self.index as u64 + 1 }))
    }

    async fn node(
        &self,
        _: Request<Streaming<wire::NodeReport>>,
    ) -> Result<Response<Self::NodeStream>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn lookup_ranges(
        &self,
        _: Request<wire::LookupRangesRequest>,
    ) -> Result<Response<wire::LookupRangesResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn safe_point(
        &self,
        _: Request<wire::SafePointRequest>,
    ) -> Result<Response<wire::SafePointResponse>, Status> {
        Err(Status::unimplemented("nothing is removed here"))
    }

    async fn token_key(
        &self,
        _: Request<wire::TokenKeyRequest>,
    ) -> Result<Response<wire::TokenKeyResponse>, Status> {
        Err(Status::unimplemented("no secrets here"))
    }

    async fn watch_ranges(
        &self,
        _: Request<wire::WatchRangesRequest>,
    ) -> Result<Response<Self::WatchRangesStream>, Status> {
        Err(Status::unimplemented("no range changes here"))
    }

    async fn watch_nodes(
        &self,
        _: Request<wire::WatchNodesRequest>,
    ) -> Result<Response<Self::WatchNodesStream>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }
}
