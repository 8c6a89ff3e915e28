use super::*;
use crate::access::testing::{EPOCH, RANGE, TestNode};
use bytes::Bytes;
use futures::StreamExt as _;
use rangedb_proto::internal::v1::data_request::Operation;
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_proto::internal::v1::node_error::Kind;
use rangedb_types::Timestamp;
use std::collections::HashMap;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// A gateway's end of a data stream.
struct Gateway {
    requests: mpsc::Sender<Result<wire::DataRequests, Status>>,
    answers: ResponseStream,
    epoch: wire::Epoch,
}

impl Gateway {
    fn connect(node: &TestNode) -> Self {
        let (requests, stream) = mpsc::channel(4);
        let answers = DataPlane::serve(&node.plane, ReceiverStream::new(stream));
        Self { requests, answers, epoch: EPOCH.into() }
    }

    /// Sends one message and waits for all of its answers.
    async fn ask(&mut self, operations: Vec<Operation>) -> Vec<Answer> {
        let count = operations.len();
        let requests =
            operations.into_iter().enumerate().map(|(tag, operation)| wire::DataRequest {
                tag: tag as u64,
                range_id: RANGE.get(),
                epoch: Some(self.epoch),
                timeout_ms: 5_000,
                operation: Some(operation),
                replica: None,
            });
        let message = wire::DataRequests { requests: requests.collect() };
        self.requests.send(Ok(message)).await.unwrap();
        let mut answers = HashMap::new();
        while answers.len() < count {
            let message = self.answers.next().await.unwrap().unwrap();
            for response in message.responses {
                let twice = answers.insert(response.tag, response.result.expect("a result"));
                assert!(twice.is_none(), "answered twice");
            }
        }
        (0..count as u64).map(|tag| answers.remove(&tag).expect("every tag")).collect()
    }

    async fn one(&mut self, operation: Operation) -> Answer {
        self.ask(vec![operation]).await.remove(0)
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(node: &TestNode, key: &str, value: &str) -> Operation {
    let seen = node.oracle.now();
    Operation::Put(wire::NodePut {
        key: bytes(key),
        value: bytes(value),
        condition: None,
        identity: Some(wire::WriteIdentity {
            request_id: u128::from(seen.0).to_be_bytes().to_vec().into(),
            seen_version: seen.0,
            retry: false,
        }),
    })
}

fn get(keys: &[&str]) -> Operation {
    let keys = keys.iter().map(|key| bytes(key)).collect();
    Operation::Get(wire::NodeGet { keys, ..wire::NodeGet::default() })
}

fn scan(start: &str, end: &str, limit: u64, read_version: u64) -> Operation {
    Operation::Scan(wire::NodeScan {
        start: bytes(start),
        end: bytes(end),
        limit,
        read_version,
        ..Default::default()
    })
}

fn kind(answer: Answer) -> Kind {
    match answer {
        Answer::Error(error) => error.kind.expect("a kind"),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn values(answer: Answer) -> Vec<Option<Bytes>> {
    match answer {
        Answer::Get(get) => {
            get.values.into_iter().map(|value| value.found.then_some(value.value)).collect()
        }
        other => panic!("expected values, got {other:?}"),
    }
}

#[tokio::test]
async fn one_stream_carries_every_kind_of_request() {
    let node = TestNode::start();
    let mut gateway = Gateway::connect(&node);
    let puts: Vec<_> =
        (0..600).map(|at| put(&node, &format!("k{at:03}"), &format!("v{at}"))).collect();
    for answer in gateway.ask(puts).await {
        assert!(matches!(&answer, Answer::Write(write) if write.version > 0), "{answer:?}");
    }
    let gets: Vec<_> = (0..600).map(|at| get(&[&format!("k{at:03}")])).collect();
    for (at, answer) in gateway.ask(gets).await.into_iter().enumerate() {
        assert_eq!(values(answer), [Some(bytes(&format!("v{at}")))]);
    }
    let many = values(gateway.one(get(&["k599", "nope", "k000"])).await);
    assert_eq!(many, [Some(bytes("v599")), None, Some(bytes("v0"))]);
}

#[tokio::test]
async fn the_pages_of_a_scan_show_one_version() {
    let node = TestNode::start();
    let mut gateway = Gateway::connect(&node);
    let puts = ["c", "d", "e"].map(|key| put(&node, key, "1")).to_vec();
    gateway.ask(puts).await;
    let Answer::Scan(first) = gateway.one(scan("", "", 2, 0)).await else { panic!("a page") };
    assert_eq!(first.entries.len(), 2);
    assert!(first.read_version > 0);
    gateway.one(put(&node, "e", "2")).await;
    gateway.one(put(&node, "f", "2")).await;
    let resume = String::from_utf8(first.resume.expect("more to come").to_vec()).unwrap();
    let next = gateway.one(scan(&resume, "", 0, first.read_version)).await;
    let Answer::Scan(second) = next else { panic!("a page") };
    let found: Vec<_> =
        second.entries.iter().map(|entry| (&entry.key[..], &entry.value[..])).collect();
    assert_eq!(found, [(&b"e"[..], &b"1"[..])]);
    assert_eq!(second.resume, None);
    let future = Timestamp(u64::MAX >> 1).0;
    assert!(matches!(kind(gateway.one(scan("", "", 0, future)).await), Kind::Invalid(_)));
}

#[tokio::test]
async fn refusals_carry_what_the_gateway_needs() {
    let node = TestNode::start();
    let mut gateway = Gateway::connect(&node);
    let Kind::EpochMismatch(outside) = kind(gateway.one(get(&["z"])).await) else { panic!() };
    assert!(outside.ranges.is_empty(), "no range of this node holds the key");
    gateway.epoch.version -= 1;
    let Kind::EpochMismatch(old) = kind(gateway.one(get(&["k"])).await) else { panic!() };
    assert_eq!(old.ranges[0].epoch, Some(EPOCH.into()));
    gateway.epoch = EPOCH.into();
    // A change of replicas moves no data.
    gateway.epoch.conf_version += 9;
    assert_eq!(values(gateway.one(get(&["k"])).await), [None]);
    node.range.step_down();
    let Kind::NotLeader(not_leader) = kind(gateway.one(get(&["k"])).await) else { panic!() };
    assert_eq!(not_leader.leader.map(|leader| leader.node_id), Some(2));
    assert_eq!(not_leader.range.map(|range| range.range_id), Some(RANGE.get()));
}

#[tokio::test]
async fn a_request_waits_a_little_for_the_election_of_a_leader() {
    let node = TestNode::start();
    let mut gateway = Gateway::connect(&node);
    node.range.elect_nobody();
    let Kind::NotLeader(nobody) = kind(gateway.one(get(&["k"])).await) else { panic!() };
    assert!(nobody.leader.is_none(), "nobody was elected while it waited");
    let elected = async {
        tokio::task::yield_now().await;
        node.range.next_term();
        node.range.set_leased(true);
    };
    let write = put(&node, "k", "1");
    let (answers, ()) = tokio::join!(gateway.ask(vec![write, get(&["l"])]), elected);
    assert!(answers.iter().all(|answer| !matches!(answer, Answer::Error(_))), "{answers:?}");
}

#[tokio::test]
async fn reads_without_a_lease_share_a_read_index_round() {
    let node = TestNode::start();
    let mut gateway = Gateway::connect(&node);
    gateway.one(put(&node, "k", "1")).await;
    node.range.set_leased(false);
    let gets = (0..50).map(|_| get(&["k"])).collect();
    for answer in gateway.ask(gets).await {
        assert_eq!(values(answer), [Some(bytes("1"))]);
    }
    assert_eq!(node.range.read_index_rounds.load(std::sync::atomic::Ordering::SeqCst), 1);
    node.range.set_confirms(false);
    assert!(matches!(kind(gateway.one(get(&["k"])).await), Kind::NotLeader(_)));
}

#[tokio::test]
async fn a_write_goes_on_though_its_stream_has_gone() {
    let node = TestNode::start();
    let mut gateway = Gateway::connect(&node);
    gateway.one(put(&node, "k", "0")).await;
    node.range.close();
    let operation = put(&node, "k", "1");
    let request = wire::DataRequest {
        tag: 1,
        range_id: RANGE.get(),
        epoch: Some(EPOCH.into()),
        timeout_ms: 5_000,
        operation: Some(operation),
        replica: None,
    };
    gateway.requests.send(Ok(wire::DataRequests { requests: vec![request] })).await.unwrap();
    crate::access::testing::until("it is proposed", || node.state().stamps.in_flight() == 1).await;
    drop(gateway);
    node.range.open();
    crate::access::testing::until("it is settled", || node.state().stamps.in_flight() == 0).await;
    let mut gateway = Gateway::connect(&node);
    assert_eq!(values(gateway.one(get(&["k"])).await), [Some(bytes("1"))]);
}
