//! Two nodes in one process.

use super::{
    AddressBook, Identity, Inbound, Outbound, Outbox, RaftReceiver, RaftSender, TransportSettings,
    raft_transport_service,
};
use crate::snapshot::{
    InstallDone, SnapshotInbox, SnapshotReceiver, SnapshotSettings, StagedSnapshot,
};
use futures::stream;
use raft::eraftpb::{Entry, Message, MessageType};
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::raft_transport_client::RaftTransportClient;
use rangedb_service::grpc;
use rangedb_types::{ClusterId, Epoch, NodeId, RangeId, ReplicaId, Span};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);
const CLUSTER: ClusterId = ClusterId(42);
const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

pub(super) fn append_of(size: usize) -> Outbound {
    let mut message = message(MessageType::MsgAppend, 1);
    let entry = Entry { data: vec![7; size].into(), ..Entry::default() };
    message.mut_entries().push(entry);
    outbound(message)
}

fn message(kind: MessageType, index: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.to, message.index) = (11, 22, index);
    message
}

fn outbound(message: Message) -> Outbound {
    Outbound {
        to_node: TWO,
        range_id: RangeId(5),
        from_replica: ReplicaId(11),
        to_replica: ReplicaId(22),
        epoch: Epoch { version: 3, conf_version: 4 },
        span: Arc::new(Span { start: b"a".to_vec(), end: b"m".to_vec() }),
        message: Some(message),
        removed_by: None,
        sleep: None,
    }
}

struct Receiver(mpsc::UnboundedSender<Inbound>);

impl RaftReceiver for Receiver {
    fn deliver(&self, message: Inbound) {
        self.0.send(message).expect("the test listens");
    }

    fn opened(&self, _from: NodeId) {}

    fn heard(&self, _from: NodeId) {}
}

struct NoSnapshots;

impl SnapshotReceiver for NoSnapshots {
    fn deliver_snapshot(&self, _staged: StagedSnapshot, done: InstallDone) {
        done(Err("not here".to_owned()));
    }
}

/// A node that listens.
struct Node {
    address: SocketAddr,
    received: mpsc::UnboundedReceiver<Inbound>,
    cancel: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Node {
    async fn start(identity: Identity, address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, received) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        let inbox = SnapshotInbox::new(
            identity,
            std::env::temp_dir(),
            SnapshotSettings::default(),
            Arc::new(NoSnapshots),
        );
        let service = raft_transport_service(
            identity,
            Arc::new(Receiver(sender)),
            Arc::new(inbox),
            cancel.clone(),
        );
        let serving = grpc::server_builder().add_service(service);
        let serving = grpc::serve(serving, listener, cancel.clone());
        let server = tokio::spawn(async move { serving.await.expect("serves") });
        Self { address, received, cancel, server }
    }

    async fn next(&mut self) -> Inbound {
        timeout(LIMIT, self.received.recv()).await.expect("in time").expect("running")
    }

    async fn stop(self) {
        self.cancel.cancel();
        timeout(LIMIT, self.server).await.expect("stops in time").expect("no panic");
    }
}

fn identity(node_id: NodeId) -> Identity {
    Identity { cluster_id: CLUSTER, node_id }
}

fn outbox() -> Arc<Outbox> {
    let addresses = Arc::new(AddressBook::new());
    Outbox::new(identity(ONE), &TransportSettings::default(), addresses, Handle::current())
}

fn addresses(address: SocketAddr) -> HashMap<NodeId, String> {
    HashMap::from([(TWO, address.to_string())])
}

/// Sends heartbeats until one arrives: those sent into an outage are lost.
async fn until_received(outbox: &Outbox, node: &mut Node, index: u64) {
    let deadline = Instant::now() + LIMIT;
    loop {
        assert!(Instant::now() < deadline, "nothing arrives");
        outbox.send(vec![outbound(message(MessageType::MsgHeartbeat, index))]);
        let next = timeout(Duration::from_millis(20), node.received.recv()).await;
        if next.is_ok_and(|inbound| {
            inbound.is_some_and(|inbound| inbound.message.is_some_and(|m| m.index == index))
        }) {
            return;
        }
    }
}

async fn until_unreachable(outbox: &Outbox) {
    let deadline = Instant::now() + LIMIT;
    while !outbox.is_unreachable(TWO) {
        assert!(Instant::now() < deadline, "still thought reachable");
        outbox.send(vec![outbound(message(MessageType::MsgHeartbeat, 1))]);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn messages_arrive_whole_and_in_order() {
    let mut node = Node::start(identity(TWO), "127.0.0.1:0").await;
    let outbox = outbox();
    assert!(outbox.is_unreachable(TWO));
    outbox.set_addresses(addresses(node.address));
    assert!(!outbox.is_unreachable(TWO));
    let sent: Vec<_> = (0..1000)
        .map(|index| outbound(message(MessageType::MsgAppendResponse, index)))
        .chain([append_of(5 << 20)])
        .collect();
    outbox.send(sent.clone());
    for expected in sent {
        let inbound = node.next().await;
        assert_eq!(inbound.from_node, ONE);
        assert_eq!(inbound.message, expected.message);
        assert_eq!(inbound.epoch, expected.epoch);
        assert_eq!(inbound.span, *expected.span);
        assert_eq!((inbound.from_replica, inbound.to_replica), (ReplicaId(11), ReplicaId(22)));
    }
    outbox.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn what_must_not_travel_does_not() {
    let mut node = Node::start(identity(TWO), "127.0.0.1:0").await;
    let outbox = outbox();
    outbox.set_addresses(addresses(node.address));
    outbox.send(vec![
        outbound(message(MessageType::MsgPropose, 1)),
        outbound(message(MessageType::MsgReadIndex, 2)),
        outbound(message(MessageType::MsgHeartbeat, 3)),
    ]);
    assert_eq!(node.next().await.message.expect("a message").index, 3);
    // Nor if a sender does not know the rule.
    let endpoint = grpc::endpoint(&node.address.to_string()).expect("an address");
    let channel = endpoint.connect().await.expect("connects");
    let messages = [MessageType::MsgPropose, MessageType::MsgHeartbeatResponse]
        .map(|kind| super::wire::encode(&outbound(message(kind, 4)), ONE));
    let frame = wire::RaftMessages {
        hello: Some(super::hello(identity(ONE), TWO)),
        messages: messages.to_vec(),
    };
    RaftTransportClient::new(channel).raft(stream::iter([frame])).await.expect("taken");
    let kind = node.next().await.message.expect("a message").get_msg_type();
    assert_eq!(kind, MessageType::MsgHeartbeatResponse);
    outbox.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn strangers_and_mistaken_streams_are_refused() {
    let node = Node::start(identity(TWO), "127.0.0.1:0").await;
    let endpoint = grpc::endpoint(&node.address.to_string()).expect("an address");
    let channel = endpoint.connect().await.expect("connects");
    let refuse = async |hello: Option<wire::RaftHello>, from: NodeId| {
        let message = super::wire::encode(&outbound(message(MessageType::MsgHeartbeat, 1)), from);
        let frame = wire::RaftMessages { hello, messages: vec![message] };
        let mut client = RaftTransportClient::new(channel.clone());
        client.raft(stream::iter([frame])).await.expect_err("refused").code()
    };
    let stranger = Identity { cluster_id: ClusterId(43), node_id: ONE };
    let refused = tonic::Code::FailedPrecondition;
    assert_eq!(refuse(Some(super::hello(stranger, TWO)), ONE).await, refused);
    assert_eq!(refuse(Some(super::hello(identity(ONE), NodeId(3))), ONE).await, refused);
    let malformed = tonic::Code::InvalidArgument;
    assert_eq!(refuse(None, ONE).await, malformed);
    assert_eq!(refuse(Some(super::hello(identity(ONE), TWO)), NodeId(9)).await, malformed);
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_restarts_or_moves_is_found_again() {
    let mut node = Node::start(identity(TWO), "127.0.0.1:0").await;
    let outbox = outbox();
    outbox.set_addresses(addresses(node.address));
    until_received(&outbox, &mut node, 1).await;
    let address = node.address;
    node.stop().await;
    until_unreachable(&outbox).await;
    let mut node = Node::start(identity(TWO), &address.to_string()).await;
    until_received(&outbox, &mut node, 2).await;
    assert!(!outbox.is_unreachable(TWO));
    let mut elsewhere = Node::start(identity(TWO), "127.0.0.1:0").await;
    outbox.set_addresses(addresses(elsewhere.address));
    until_received(&outbox, &mut elsewhere, 3).await;
    outbox.set_addresses(HashMap::new());
    assert!(outbox.is_unreachable(TWO));
    outbox.stop().await;
    node.stop().await;
    elsewhere.stop().await;
}
