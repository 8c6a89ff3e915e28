//! A quorum of placement in this process, and storage nodes that are only their stream.

use rangedb_placement::{Server, Settings};
use rangedb_placement_client::{PlacementClient, PlacementError, admin_client, placement_client};
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::node_command::Command;
use rangedb_proto::internal::v1::node_report::Report;
use rangedb_types::{RangeDescriptor, ReplicaRole};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

pub const LIMIT: Duration = Duration::from_secs(30);

/// A port of an address that is this process's alone: connections go out from 127.0.0.1, so none
/// takes the port of a member that is stopped.
pub fn listener() -> TcpListener {
    let [_, b, c, d] = std::process::id().to_be_bytes();
    TcpListener::bind((Ipv4Addr::new(127, 1 + b % 128, c, d), 0)).unwrap()
}

pub fn soon() -> Instant {
    Instant::now() + LIMIT
}

/// Waits until something is so.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let limit = soon();
    while !condition().await {
        assert!(Instant::now() < limit, "{what} did not happen");
        // tidy: the pause between two looks at a condition
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Members of one quorum. Each keeps its address and folder over restarts.
pub struct Quorum {
    pub folder: tempfile::TempDir,
    pub addresses: BTreeMap<u64, String>,
    pub members: BTreeMap<u64, Server>,
}

impl Quorum {
    pub async fn start(count: u64) -> Self {
        // Held until all are known, so that no two get the same.
        let held: Vec<_> = (0..count).map(|_| listener()).collect();
        let addresses = (1..=count)
            .zip(&held)
            .map(|(id, listener)| (id, listener.local_addr().unwrap().to_string()))
            .collect();
        drop(held);
        let folder = tempfile::tempdir().unwrap();
        let mut quorum = Self { folder, addresses, members: BTreeMap::new() };
        for id in 1..=count {
            quorum.start_member(id).await;
        }
        quorum.ready().await;
        quorum
    }

    pub fn settings(&self, id: u64) -> Settings {
        let peers = self.addresses.iter().map(|(id, address)| format!("{id}={address}"));
        Settings {
            id,
            data_dir: self.folder.path().join(id.to_string()),
            listen: self.addresses[&id].clone(),
            http_listen: "127.0.0.1:0".to_owned(),
            peers: if self.addresses.len() == 1 { Vec::new() } else { peers.collect() },
            ..Settings::default()
        }
    }

    pub async fn start_member(&mut self, id: u64) {
        let server = rangedb_placement::start(self.settings(id)).await.unwrap();
        self.members.insert(id, server);
    }

    pub async fn stop_member(&mut self, id: u64) {
        self.members.remove(&id).unwrap().shutdown().await.unwrap();
    }

    pub async fn ready(&self) {
        eventually("readiness", async || self.members.values().all(Server::is_ready)).await;
    }

    pub async fn leader(&self) -> u64 {
        let find = || self.members.iter().find(|(_, member)| member.is_leader()).map(|(id, _)| *id);
        eventually("an election", async || find().is_some()).await;
        find().unwrap()
    }

    pub fn client(&self) -> Arc<PlacementClient> {
        PlacementClient::new(self.addresses.values().cloned().collect())
    }

    pub async fn stop(mut self) {
        let ids: Vec<_> = self.members.keys().copied().collect();
        for id in ids {
            self.stop_member(id).await;
        }
    }
}

/// A storage node that is only its stream to placement.
pub struct FakeNode {
    pub node_id: u64,
    pub cluster_id: String,
    reports: mpsc::Sender<wire::NodeReport>,
    commands: Streaming<wire::NodeCommand>,
    /// Read while something else was waited for.
    unread: Vec<Command>,
    beating: JoinHandle<()>,
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

/// Beats with nothing new, so that the node counts as up.
async fn beat_quietly(reports: mpsc::Sender<wire::NodeReport>) {
    loop {
        // tidy: a beat is a matter of time
        tokio::time::sleep(Duration::from_millis(500)).await;
        let beat = Report::Heartbeat(wire::Heartbeat::default());
        if reports.send(wire::NodeReport { report: Some(beat) }).await.is_err() {
            return;
        }
    }
}

pub fn registration(store: u128) -> wire::RegisterNode {
    wire::RegisterNode {
        store_id: format!("{store:032x}"),
        address: format!("127.0.0.1:{}", 20_000 + store),
        software_version: "test".to_owned(),
        ..wire::RegisterNode::default()
    }
}

impl FakeNode {
    /// Registers at the leader.
    pub async fn register(
        client: &PlacementClient,
        request: wire::RegisterNode,
    ) -> Result<Self, Status> {
        let channel = client.leader_channel(soon()).await.unwrap();
        let (reports, outgoing) = mpsc::channel(64);
        let report = wire::NodeReport { report: Some(Report::Register(request)) };
        reports.send(report).await.unwrap();
        let mut rpc = placement_client(channel);
        let commands = rpc.node(ReceiverStream::new(outgoing)).await?.into_inner();
        let beating = tokio::spawn(beat_quietly(reports.clone()));
        let mut node = Self {
            node_id: 0,
            cluster_id: String::new(),
            reports,
            commands,
            unread: Vec::new(),
            beating,
        };
        match node.next().await? {
            Command::Registered(registered) => {
                node.node_id = registered.node_id;
                node.cluster_id = registered.cluster_id;
                Ok(node)
            }
            other => panic!("the first command is the welcome, not {other:?}"),
        }
    }

    pub async fn next(&mut self) -> Result<Command, Status> {
        match timeout(LIMIT, self.commands.message()).await.expect("a command in time")? {
            Some(command) => Ok(command.command.expect("a command of some kind")),
            None => Err(Status::ok("the stream ended")),
        }
    }

    /// Reads until a command fits; keeps the others.
    pub async fn wait_for<T>(&mut self, fits: impl Fn(&Command) -> Option<T>) -> T {
        if let Some(place) = self.unread.iter().position(|command| fits(command).is_some()) {
            return fits(&self.unread.remove(place)).unwrap();
        }
        loop {
            let command = self.next().await.expect("the stream goes on");
            match fits(&command) {
                Some(wanted) => return wanted,
                None => self.unread.push(command),
            }
        }
    }

    /// The status with which the stream ends.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }

    /// True if a command of this kind came within a while.
    pub async fn gets(&mut self, while_: Duration, fits: impl Fn(&Command) -> bool) -> bool {
        timeout(while_, self.wait_for(|command| fits(command).then_some(()))).await.is_ok()
    }

    pub async fn beat(&self, beat: wire::Heartbeat) {
        let report = wire::NodeReport { report: Some(Report::Heartbeat(beat)) };
        self.reports.send(report).await.expect("the stream is open");
    }

    /// Reports one range that this node leads, with all its replicas caught up.
    pub async fn report(&self, range: &RangeDescriptor, term: u64) {
        let report = wire::RangeReport {
            range: Some(range.into()),
            term,
            size_bytes: 4_096,
            caught_up_replica_ids: range.replicas.iter().map(|r| r.replica_id.get()).collect(),
            ..wire::RangeReport::default()
        };
        self.beat(wire::Heartbeat { leaders: 1, ranges: vec![report], ..Default::default() }).await;
    }
}

pub fn bootstrap_of(command: &Command) -> Option<RangeDescriptor> {
    match command {
        Command::BootstrapRange(bootstrap) => {
            Some(bootstrap.range.as_ref().unwrap().try_into().unwrap())
        }
        _ => None,
    }
}

pub fn change_of(command: &Command) -> Option<wire::ChangeReplicas> {
    match command {
        Command::ChangeReplicas(change) => Some(change.clone()),
        _ => None,
    }
}

/// What the leader of a range would do with a command.
pub fn carry_out(range: &mut RangeDescriptor, change: &wire::ChangeReplicas) {
    use wire::replica_change::Kind;
    assert_eq!(change.range_id, range.range_id.get());
    assert_eq!(change.epoch, Some(range.epoch.into()));
    range.epoch.conf_version += 1;
    for change in &change.changes {
        let replica: rangedb_types::Replica = change.replica.as_ref().unwrap().try_into().unwrap();
        match change.kind() {
            Kind::AddLearner => range.replicas.push(replica),
            Kind::Promote => {
                let known = range.replicas.iter_mut().find(|r| r.replica_id == replica.replica_id);
                known.unwrap().role = ReplicaRole::IncomingVoter;
            }
            Kind::Remove => range.replicas.retain(|r| r.replica_id != replica.replica_id),
            Kind::Demote => {
                let known = range.replicas.iter_mut().find(|r| r.replica_id == replica.replica_id);
                known.unwrap().role = ReplicaRole::DemotingVoter;
            }
        }
    }
    if change.leave_joint {
        for replica in &mut range.replicas {
            replica.role = match replica.role {
                ReplicaRole::DemotingVoter | ReplicaRole::Learner => ReplicaRole::Learner,
                ReplicaRole::IncomingVoter | ReplicaRole::Voter => ReplicaRole::Voter,
            };
        }
    }
}

/// An operator's call on the leader.
macro_rules! admin {
    ($client:expr, $method:ident, $request:expr) => {{
        let request = $request;
        let attempt = |mut rpc: rangedb_placement_client::AdminRpc| {
            let request = request.clone();
            async move { rpc.$method(request).await }
        };
        $client.call_admin(attempt, crate::support::soon()).await
    }};
}
pub(crate) use admin;

/// The code of a refusal.
pub fn code<T: std::fmt::Debug>(result: Result<T, PlacementError>) -> tonic::Code {
    result.expect_err("refused").refusal().expect("by the leader").code()
}

/// A client of one member's admin service, leader or not.
pub async fn member_admin(address: &str) -> rangedb_placement_client::AdminRpc {
    let channel = rangedb_service::grpc::endpoint(address).unwrap().connect().await.unwrap();
    admin_client(channel)
}
