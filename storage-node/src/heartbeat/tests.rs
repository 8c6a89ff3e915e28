use super::*;
use crate::merge::MergeOrder;
use crate::raft_log::{LogError, LogState, LogWrite, RaftLog};
use crate::replica::membership::ReplicaChangeKind;
use crate::split::SplitOrder;
use crate::store::ReplicaStatus;
use crate::store::StoreError;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rangedb_engine::{EngineKind, EngineSettings};
use rangedb_placement_client::PlacementClient;
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::node_command::Command;
use rangedb_proto::internal::v1::placement_server::{Placement, PlacementServer};
use rangedb_proto::v1::PlacementMember;
use rangedb_service::DataDir;
use rangedb_types::{Epoch, NodeId, RangeDescriptor, RangeId, Replica, ReplicaId};
use std::collections::HashMap;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Streaming};

const CLUSTER: &str = "000000000000000000000000000000aa";
const LIMIT: Duration = Duration::from_secs(10);

type Commands = mpsc::Sender<Result<wire::NodeCommand, Status>>;

/// A placement of one member that hands its streams to the test.
struct FakePlacement {
    address: String,
    streams: mpsc::Sender<(Streaming<NodeReport>, Commands)>,
    refuse: Option<Status>,
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Placement for FakePlacement {
    type NodeStream = Answers<wire::NodeCommand>;
    type TimestampsStream = Answers<wire::TimestampBatch>;
    type WatchNodesStream = Answers<wire::NodeAddresses>;
    type WatchRangesStream = Answers<wire::RangeChanges>;

    async fn hello(
        &self,
        _: Request<wire::HelloRequest>,
    ) -> Result<Response<wire::HelloResponse>, Status> {
        let member =
            PlacementMember { id: 1, address: self.address.clone(), role: "leader".to_owned() };
        Ok(Response::new(wire::HelloResponse {
            cluster_id: CLUSTER.to_owned(),
            member_id: 1,
            leader_address: self.address.clone(),
            members: vec![member],
        }))
    }

    async fn node(
        &self,
        request: Request<Streaming<NodeReport>>,
    ) -> Result<Response<Self::NodeStream>, Status> {
        if let Some(status) = &self.refuse {
            return Err(status.clone());
        }
        let (commands, answers) = mpsc::channel(16);
        let taken = self.streams.send((request.into_inner(), commands)).await;
        taken.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn timestamps(
        &self,
        _: Request<Streaming<wire::TimestampRequest>>,
    ) -> Result<Response<Self::TimestampsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn allocate_ids(
        &self,
        _: Request<wire::AllocateIdsRequest>,
    ) -> Result<Response<wire::AllocateIdsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn lookup_ranges(
        &self,
        _: Request<wire::LookupRangesRequest>,
    ) -> Result<Response<wire::LookupRangesResponse>, Status> {
        Err(Status::unimplemented(""))
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
        Err(Status::unimplemented(""))
    }
}

#[derive(Default)]
struct FakeStore {
    changed: Arc<Notify>,
    leads: Mutex<bool>,
    transfers: Mutex<Vec<(RangeId, ReplicaId)>>,
    splits: Mutex<Vec<SplitOrder>>,
}

impl Replicas for FakeStore {
    fn replicas_count(&self) -> usize {
        1
    }

    fn range_ids(&self) -> Vec<RangeId> {
        vec![RangeId(4)]
    }

    fn take_listed(&self) -> Vec<RangeId> {
        self.range_ids()
    }

    fn look(&self, range_id: RangeId) -> Option<ReplicaStatus> {
        let descriptor = RangeDescriptor {
            range_id: RangeId(4),
            span: rangedb_types::Span::all(),
            epoch: Epoch { version: 1, conf_version: 1 },
            replicas: Vec::new(),
        };
        (range_id == descriptor.range_id).then(|| ReplicaStatus {
            descriptor: Arc::new(descriptor),
            replica_id: ReplicaId(1),
            leader: None,
            is_leader: *self.leads.lock(),
            term: 6,
            applied_index: 12,
            last_index: 12,
            caught_up: Vec::new(),
            down: Vec::new(),
            size_bytes: None,
            frozen: None,
            slowest_match: 0,
        })
    }
}

impl Hosted for FakeStore {
    fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    fn bootstrap(&self, _: RangeDescriptor) -> BoxFuture<'_, Result<(), StoreError>> {
        async { Ok(()) }.boxed()
    }

    fn change_replicas(&self, _: RangeId, _: Epoch, _: Vec<(ReplicaChangeKind, Replica)>, _: bool) {
    }

    fn transfer_leader(&self, range_id: RangeId, _: Epoch, to: ReplicaId) {
        self.transfers.lock().push((range_id, to));
    }

    fn split(&self, order: SplitOrder) {
        self.splits.lock().push(order);
    }

    fn merge(&self, _: MergeOrder) {}

    fn abort_merge(&self, _: RangeId, _: u64) {}

    fn found_size(&self, _: RangeId, _: u64) {}
}

struct NoLog;

impl RaftLog for NoLog {
    fn write(&self, _: LogWrite, _: bool) -> Result<(), LogError> {
        Ok(())
    }
    fn load(&self, _: ReplicaId) -> Result<Option<LogState>, LogError> {
        Ok(None)
    }
    fn entries(
        &self,
        _: ReplicaId,
        _: u64,
        _: u64,
        _: u64,
    ) -> Result<Vec<raft::eraftpb::Entry>, LogError> {
        Ok(Vec::new())
    }
    fn replicas(&self) -> Vec<ReplicaId> {
        Vec::new()
    }
    fn purge(&self) -> Result<Vec<ReplicaId>, LogError> {
        Ok(Vec::new())
    }
    fn size_bytes(&self) -> u64 {
        1000
    }
}

struct Fixture {
    store: Arc<FakeStore>,
    data_dir: Arc<DataDir>,
    streams: mpsc::Receiver<(Streaming<NodeReport>, Commands)>,
    registered: watch::Receiver<bool>,
    addresses: Arc<Mutex<HashMap<NodeId, String>>>,
    cancel: CancellationToken,
    running: JoinHandle<Result<(), LinkError>>,
    _dir: tempfile::TempDir,
}

impl Fixture {
    async fn start(refuse: Option<Status>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, streams) = mpsc::channel(4);
        let fake = FakePlacement { address: address.clone(), streams: sender, refuse };
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(PlacementServer::new(fake));
        tokio::spawn(server.serve_with_incoming(incoming));
        let data_dir = DataDir::open(dir.path().join("node"), "storage-node", 1).unwrap();
        let data_dir = Arc::new(data_dir);
        let engine = rangedb_engine::open(
            EngineKind::RocksDb,
            &dir.path().join("data"),
            &EngineSettings::default(),
        );
        let store = Arc::new(FakeStore::default());
        let addresses = Arc::new(Mutex::new(HashMap::new()));
        let sink = Arc::clone(&addresses);
        let (registered_sender, registered) = watch::channel(false);
        let cancel = CancellationToken::new();
        let heartbeat = Heartbeat::new(
            Link {
                client: PlacementClient::new(vec![address]),
                data_dir: Arc::clone(&data_dir),
                info: NodeInfo { address: "127.0.0.1:1".to_owned(), ..NodeInfo::default() },
            },
            Orders {
                hosted: Arc::clone(&store) as Arc<dyn Hosted>,
                settings: watch::Sender::default(),
                addresses: Box::new(move |all| *sink.lock() = all),
            },
            Measures::new(
                engine.unwrap(),
                Arc::new(NoLog),
                Arc::default(),
                dir.path().to_owned(),
                0,
            ),
            registered_sender,
            cancel.clone(),
        );
        let running = tokio::spawn(heartbeat.run());
        Self { store, data_dir, streams, registered, addresses, cancel, running, _dir: dir }
    }

    /// The next stream, after its registration was answered.
    async fn accept(&mut self) -> (wire::RegisterNode, Streaming<NodeReport>, Commands) {
        let (mut reports, commands) =
            timeout(LIMIT, self.streams.recv()).await.unwrap().expect("a stream");
        let Report::Register(register) = next(&mut reports).await else {
            panic!("the first report is the registration")
        };
        let registered = wire::Registered { cluster_id: CLUSTER.to_owned(), node_id: 3 };
        order(&commands, Command::Registered(registered)).await;
        (register, reports, commands)
    }
}

async fn next(reports: &mut Streaming<NodeReport>) -> Report {
    let report = timeout(LIMIT, reports.message()).await.unwrap().unwrap();
    report.and_then(|report| report.report).expect("a report")
}

async fn order(commands: &Commands, command: Command) {
    commands.send(Ok(wire::NodeCommand { command: Some(command) })).await.unwrap();
}

#[tokio::test]
async fn a_node_registers_reports_obeys_and_comes_back() {
    let mut node = Fixture::start(None).await;
    let (register, mut reports, commands) = node.accept().await;
    assert_eq!((register.node_id, register.cluster_id.as_str()), (0, ""));
    let Report::Heartbeat(first) = next(&mut reports).await else { panic!("a beat") };
    assert_eq!((first.replicas, first.leaders), (1, 0));
    assert_eq!(node.data_dir.node_id(), Some(NodeId(3)));
    node.registered.wait_for(|registered| *registered).await.unwrap();

    // A change is reported without waiting for the next second's beat.
    *node.store.leads.lock() = true;
    let found = loop {
        node.store.changed.notify_waiters();
        let Report::Heartbeat(beat) = next(&mut reports).await else { panic!("a beat") };
        if let Some(range) = beat.ranges.first() {
            break range.clone();
        }
    };
    assert_eq!((found.term, found.applied_index), (6, 12));

    let address = wire::NodeAddress { node_id: 9, address: "h:1".to_owned() };
    order(&commands, Command::Nodes(wire::NodeAddresses { nodes: vec![address], revision: 1 }))
        .await;
    let transfer = wire::TransferLeader {
        range_id: 4,
        epoch: Some(wire::Epoch { version: 1, conf_version: 1 }),
        to_replica_id: 5,
    };
    order(&commands, Command::TransferLeader(transfer)).await;
    let range = wire::RangeDescriptor { epoch: Some(wire::Epoch::default()), ..Default::default() };
    order(&commands, Command::BootstrapRange(wire::BootstrapRange { range: Some(range) })).await;
    while !matches!(next(&mut reports).await, Report::BootstrapDone(_)) {}
    assert_eq!(*node.store.transfers.lock(), [(RangeId(4), ReplicaId(5))]);
    assert_eq!(node.addresses.lock().get(&NodeId(9)).map(String::as_str), Some("h:1"));

    // The stream ends, as at an election: the node comes back under its id and tells everything.
    drop((commands, reports));
    let (register, mut reports, _commands) = node.accept().await;
    assert_eq!((register.node_id, register.cluster_id.as_str()), (3, CLUSTER));
    let Report::Heartbeat(first) = next(&mut reports).await else { panic!("a beat") };
    assert_eq!(first.ranges.len(), 1);
    node.cancel.cancel();
    timeout(LIMIT, node.running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_refusal_for_good_ends_it_and_says_why() {
    let status = Status::failed_precondition("node 3 is known under another store id");
    let node = Fixture::start(Some(status)).await;
    let error = timeout(LIMIT, node.running).await.unwrap().unwrap().unwrap_err();
    assert!(error.is_final() && error.to_string().contains("another store id"), "{error}");
}
