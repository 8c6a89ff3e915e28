use super::*;
use crate::access::testing::{EPOCH, RANGE, TestNode, until};
use crate::access::{Refusal, resolve};
use crate::read::{Get, ReadAt};
use bytes::Bytes;
use rangedb_mvcc::txn::{KeyState, Status, StatusQuery, Transaction, Want};
use rangedb_types::{Span, Timestamp};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(10);

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn transaction(id: Timestamp, primary: &str) -> Transaction {
    Transaction { id, snapshot_ts: id, primary: primary.into(), lifetime_ms: 3_000, sequence: 1 }
}

fn puts(keys: &[&str], value: &str) -> Vec<(Bytes, Want)> {
    keys.iter().map(|key| (bytes(key), Want::Put(bytes(value)))).collect()
}

impl TestNode {
    async fn act(&self, action: Action) -> Result<Done, Refusal> {
        let target = resolve(&self.ranges, &self.states, RANGE, EPOCH, Span::all).unwrap();
        self.actor.act(target, action, Instant::now() + SOON).await
    }

    async fn prewrite(&self, id: Timestamp, keys: &[&str], value: &str) -> Result<Done, Refusal> {
        let writes = puts(keys, value);
        let transaction = transaction(id, keys[0]);
        self.act(Action::Prewrite { transaction, writes, secondaries: None }).await
    }

    async fn get(&self, key: &str, version: Timestamp) -> Result<Option<Bytes>, Refusal> {
        let target = resolve(&self.ranges, &self.states, RANGE, EPOCH, Span::all).unwrap();
        let get = Get { tag: 0, target, keys: vec![bytes(key)], deadline: Instant::now() + SOON };
        let at = ReadAt { version, pass_over: Vec::new() };
        Ok(self.reader.get_at(get, at).await?[0].clone().map(|value| value.bytes))
    }
}

#[tokio::test]
async fn a_transaction_goes_from_intents_to_versions() {
    let node = TestNode::start();
    let id = node.oracle.now();
    let Done::Prewritten(least) = node.prewrite(id, &["c", "d"], "1").await.unwrap() else {
        panic!("prewritten")
    };
    assert!(least > id, "a timestamp made after the latches were had");
    assert!(matches!(node.get("c", least).await, Err(Refusal::KeyLocked { .. })));
    assert_eq!(node.get("c", least.prev()).await.unwrap(), None, "it commits later than this");
    let commit_ts = node.oracle.now();
    let commit = Action::Commit { id, commit_ts, keys: vec![bytes("c")], open: false };
    assert_eq!(node.act(commit.clone()).await.unwrap(), Done::Committed(commit_ts));
    let again = node.act(commit).await;
    assert_eq!(again, Err(Refusal::Committed { version: commit_ts }));
    let keys = vec![bytes("d")];
    node.act(Action::ResolveKeys { id, keys, commit_ts: Some(commit_ts) }).await.unwrap();
    for key in ["c", "d"] {
        assert_eq!(node.get(key, commit_ts).await.unwrap(), Some(bytes("1")));
    }
}

#[tokio::test]
async fn one_round_suffices_for_one_range() {
    let node = TestNode::start();
    let id = node.oracle.now();
    let commit = Action::CommitAtOnce {
        transaction: transaction(id, "c"),
        writes: puts(&["c", "d", "e"], "1"),
    };
    let before = node.range.proposals.load(Ordering::SeqCst);
    let Done::Committed(version) = node.act(commit.clone()).await.unwrap() else { panic!() };
    assert_eq!(node.range.proposals.load(Ordering::SeqCst), before + 1);
    assert_eq!(node.get("e", version).await.unwrap(), Some(bytes("1")));
    assert_eq!(node.act(commit).await, Err(Refusal::Committed { version }));
}

#[tokio::test]
async fn a_version_is_above_every_read_served_before() {
    let node = TestNode::start();
    let (id, behind, ahead) = (node.oracle.now(), node.oracle.now(), node.oracle.now());
    assert_eq!(node.get("c", ahead).await.unwrap(), None);
    *node.oracle.next.lock() = vec![node.oracle.now(), behind];
    let Done::Prewritten(least) = node.prewrite(id, &["c"], "1").await.unwrap() else { panic!() };
    assert!(least > ahead, "the first timestamp was not above what was read");
}

#[tokio::test]
async fn a_read_waits_for_intents_on_their_way() {
    let node = Arc::new(TestNode::start());
    let id = node.oracle.now();
    node.range.close();
    let prewriting = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.prewrite(id, &["c"], "1").await }
    });
    until("it is proposed", || node.range.proposals.load(Ordering::SeqCst) > 0).await;
    let version = node.oracle.now();
    let reading = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.get("c", version).await }
    });
    tokio::task::yield_now().await;
    assert!(!reading.is_finished());
    node.range.open();
    prewriting.await.unwrap().unwrap();
    assert!(matches!(reading.await.unwrap(), Err(Refusal::KeyLocked { .. })));
}

#[tokio::test]
async fn a_reader_pushes_and_the_primary_commits_above_it() {
    let node = TestNode::start();
    let id = node.oracle.now();
    node.prewrite(id, &["c"], "1").await.unwrap();
    let read = node.oracle.now();
    let ask = |push_above, roll_back_absent| {
        let (primary, now) = (b"c".to_vec(), Timestamp::ZERO);
        let query = StatusQuery { id, primary, now, push_above, roll_back_absent };
        Action::Status { query, out_of_interest: false }
    };
    let Done::Status(Status::Alive(lock)) = node.act(ask(Some(read), false)).await.unwrap() else {
        panic!("alive")
    };
    assert!(lock.min_commit_ts > read);
    assert_eq!(node.get("c", read).await.unwrap(), None, "it need not wait any more");
    let early = Action::Commit { id, commit_ts: read, keys: vec![bytes("c")], open: false };
    assert_eq!(node.act(early).await, Err(Refusal::CommitTooEarly { least: read.next() }));
    node.oracle.jump_to(Timestamp::new(id.physical_ms() + 3_001, 0));
    let dead = node.act(ask(None, false)).await.unwrap();
    assert_eq!(dead, Done::Status(Status::RolledBack), "nobody renewed it");
    assert_eq!(node.prewrite(id, &["c"], "1").await, Err(Refusal::Aborted));
}

#[tokio::test]
async fn plain_writes_wait_for_intents_and_pay_nothing_once_they_are_gone() {
    let node = TestNode::start();
    let id = node.oracle.now();
    node.prewrite(id, &["c"], "1").await.unwrap();
    assert!(!node.state().intents.none(&*node.range));
    let keys = vec![bytes("c")];
    let states = Action::States { id, keys: keys.clone(), roll_back_absent: false };
    assert!(matches!(node.act(states).await.unwrap(), Done::States(found)
        if matches!(found[..], [KeyState::Firm { .. }])));
    node.act(Action::RollBack { id, keys }).await.unwrap();
    until("a look has shown that there are none", || {
        // Any action looks, from time to time.
        let look = node.act(Action::States { id, keys: vec![bytes("d")], roll_back_absent: false });
        futures::executor::block_on(look).unwrap();
        node.state().intents.none(&*node.range)
    })
    .await;
}

#[tokio::test]
async fn reads_that_changed_are_found() {
    let node = TestNode::start();
    let id = node.oracle.now();
    let check = |commit_ts| Action::CheckReads {
        id,
        snapshot_ts: id,
        commit_ts,
        keys: vec![bytes("c")],
        spans: vec![Span { start: b"f".to_vec(), end: b"h".to_vec() }],
    };
    assert_eq!(node.act(check(node.oracle.now())).await, Ok(Done::Checked(None)));
    let other = node.oracle.now();
    let commit =
        Action::CommitAtOnce { transaction: transaction(other, "g"), writes: puts(&["g"], "1") };
    node.act(commit).await.unwrap();
    let failed = node.act(check(node.oracle.now())).await;
    assert!(matches!(failed, Err(Refusal::WriteConflict { key, .. }) if key == "g"));
}
