use super::*;
use crate::access::testing::{BEGINNING, EPOCH, RANGE, TestNode, until};
use crate::access::{Refusal, resolve};
use crate::read::{Get, ReadAt};
use bytes::Bytes;
use parking_lot::Mutex;
use rangedb_mvcc::Condition;
use rangedb_types::{RequestId, Span, Timestamp};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(10);

fn put(key: &str, value: &str, condition: Condition) -> Change {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Change::Put { key: bytes(key), value: bytes(value), condition }
}

fn first(request_id: u128, seen: Timestamp) -> Identity {
    Identity { request_id: RequestId(request_id), seen, retry: false }
}

fn again(identity: Identity) -> Identity {
    Identity { retry: true, ..identity }
}

impl TestNode {
    fn work(&self, change: Change, identity: Identity, timeout: Duration) -> Work {
        let target = resolve(&self.ranges, &self.states, RANGE, EPOCH, Span::all).unwrap();
        Work::Write(Write { target, change, identity, deadline: Instant::now() + timeout })
    }

    async fn run(&self, work: Vec<Work>) -> Vec<WorkResult> {
        let results = Arc::new(Mutex::new(vec![None; work.len()]));
        let sink = Arc::clone(&results);
        let batch = Batch::new(&self.writer, work.into_iter().enumerate().collect());
        batch
            .run(move |answers| {
                for (at, result) in answers {
                    assert!(sink.lock()[at].replace(result).is_none(), "answered twice");
                }
            })
            .await;
        let results = results.lock().clone();
        results.into_iter().map(|result| result.expect("answered")).collect()
    }

    async fn write(&self, change: Change, identity: Identity) -> Result<Timestamp, Refusal> {
        let result = self.run(vec![self.work(change, identity, SOON)]).await.remove(0);
        result.map(|version| version.expect("a version"))
    }

    async fn put(&self, key: &str, value: &str) -> Timestamp {
        let seen = self.oracle.now();
        self.write(put(key, value, Condition::None), first(seen.0.into(), seen)).await.unwrap()
    }

    async fn status(&self, key: &str, identity: Identity) -> WorkResult {
        let target = resolve(&self.ranges, &self.states, RANGE, EPOCH, Span::all).unwrap();
        let query = StatusQuery {
            target,
            key: Bytes::copy_from_slice(key.as_bytes()),
            request_id: identity.request_id,
            seen: identity.seen,
            deadline: Instant::now() + SOON,
        };
        self.run(vec![Work::Status(query)]).await.remove(0)
    }

    async fn read(&self, key: &str, read_version: Timestamp) -> Option<(Bytes, Timestamp)> {
        let target = resolve(&self.ranges, &self.states, RANGE, EPOCH, Span::all).unwrap();
        let keys = vec![Bytes::copy_from_slice(key.as_bytes())];
        let at = ReadAt { version: read_version, pass_over: Vec::new() };
        let get = Get { tag: 0, target, keys, deadline: Instant::now() + SOON };
        let values = self.reader.get_at(get, at).await.unwrap();
        values[0].clone().map(|value| (value.bytes, value.version))
    }

    async fn value(&self, key: &str) -> Option<String> {
        let found = self.read(key, self.oracle.now()).await;
        found.map(|(value, _)| String::from_utf8(value.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn writes_of_one_message_share_a_timestamp_unless_they_share_a_key() {
    let node = TestNode::start();
    node.put("c", "warm").await;
    let seen = node.oracle.now();
    let work = ["c", "d", "c", "e"].iter().enumerate().map(|(at, key)| {
        node.work(put(key, &at.to_string(), Condition::None), first(100 + at as u128, seen), SOON)
    });
    let versions: Vec<_> = node.run(work.collect()).await;
    let version = |at: usize| versions[at].clone().unwrap().unwrap();
    assert_eq!(version(0), version(1));
    assert_eq!(version(1), version(3));
    assert!(version(2) > version(0));
    assert_eq!(node.value("c").await.as_deref(), Some("2"));
    assert_eq!(node.value("e").await.as_deref(), Some("3"));
}

#[tokio::test]
async fn unconditional_writes_of_a_key_go_side_by_side_and_a_retry_waits_for_them() {
    let node = Arc::new(TestNode::start());
    node.put("k", "0").await;
    let seen = node.oracle.now();
    let go = |value: &'static str, identity: Identity| {
        let node = Arc::clone(&node);
        tokio::spawn(async move { node.write(put("k", value, Condition::None), identity).await })
    };
    node.range.close();
    let one = go("1", first(1, seen));
    until("one is under way", || node.state().stamps.in_flight() == 1).await;
    let two = go("2", first(2, seen));
    until("two are under way", || node.state().stamps.in_flight() == 2).await;
    let retry = go("1", again(first(1, seen)));
    until("the retry waits", || node.state().latches.len() == 3).await;
    let late = go("3", first(3, seen));
    until("so does who comes after it", || node.state().latches.len() == 4).await;
    assert_eq!(node.state().stamps.in_flight(), 2);
    node.range.open();
    let one = one.await.unwrap().unwrap();
    let two = two.await.unwrap().unwrap();
    assert!(one < two);
    assert_eq!(retry.await.unwrap(), Ok(one), "it found what it waited for");
    assert!(two < late.await.unwrap().unwrap());
    assert_eq!(node.value("k").await.as_deref(), Some("3"));
}

#[tokio::test]
async fn conditions_are_checked_and_failures_show_what_is_there() {
    let node = TestNode::start();
    let seen = node.oracle.now();
    let version =
        node.write(put("k", "1", Condition::Absent), first(1, seen)).await.expect("was absent");
    let failed = node.write(put("k", "2", Condition::Absent), first(2, seen)).await;
    let current = Some((Bytes::from_static(b"1"), version));
    assert_eq!(failed, Err(Refusal::ConditionFailed { current }));
    let holds = Condition::VersionIs(version);
    assert!(node.write(put("k", "3", holds), first(3, seen)).await.is_ok());
    assert!(node.write(put("k", "4", holds), first(4, seen)).await.is_err());
    assert_eq!(node.value("k").await.as_deref(), Some("3"));
}

#[tokio::test]
async fn a_failed_condition_is_told_only_by_a_confirmed_leader() {
    let node = TestNode::start();
    node.put("k", "1").await;
    node.range.set_leased(false);
    let seen = node.oracle.now();
    let failed = node.write(put("k", "2", Condition::Absent), first(2, seen)).await;
    assert!(matches!(failed, Err(Refusal::ConditionFailed { .. })));
    assert!(node.range.read_index_rounds.load(Ordering::SeqCst) > 0);
    node.range.set_confirms(false);
    let failed = node.write(put("k", "2", Condition::Absent), first(3, seen)).await;
    assert!(matches!(failed, Err(Refusal::NotLeader { .. })));
}

#[tokio::test]
async fn a_retry_gets_the_first_attempts_answer() {
    let node = TestNode::start();
    let identity = first(9, node.oracle.now());
    let version = node.write(put("k", "1", Condition::None), identity).await.unwrap();
    node.put("k", "2").await;
    let retried = node.write(put("k", "1", Condition::None), again(identity)).await;
    assert_eq!(retried, Ok(version));
    assert_eq!(node.value("k").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_first_attempt_that_comes_after_its_retry_does_nothing() {
    let node = TestNode::start();
    node.put("k", "0").await;
    let identity = first(9, node.oracle.now());
    let version = node.write(put("k", "1", Condition::None), again(identity)).await.unwrap();
    node.put("k", "2").await;
    assert_eq!(node.write(put("k", "1", Condition::None), identity).await, Ok(version));
    assert_eq!(node.value("k").await.as_deref(), Some("2"));
    // The same after a change of term, of which this leader remembers nothing.
    node.range.next_term();
    assert_eq!(node.write(put("k", "1", Condition::None), identity).await, Ok(version));
    assert_eq!(node.value("k").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn the_answer_of_commit_status_is_for_good() {
    let node = TestNode::start();
    let done = first(1, node.oracle.now());
    let version = node.write(put("k", "1", Condition::None), done).await.unwrap();
    assert_eq!(node.status("k", done).await, Ok(Some(version)));
    let late = first(2, node.oracle.now());
    assert_eq!(node.status("k", late).await, Ok(None));
    assert_eq!(node.status("k", late).await, Ok(None));
    for attempt in [late, again(late)] {
        let refused = node.write(put("k", "2", Condition::None), attempt).await;
        assert_eq!(refused, Err(Refusal::Fenced));
    }
    assert_eq!(node.value("k").await.as_deref(), Some("1"));
    assert_eq!(node.put("k", "3").await, node.read("k", node.oracle.now()).await.unwrap().1);
}

#[tokio::test]
async fn commit_status_waits_for_the_attempt_that_is_under_way() {
    let node = Arc::new(TestNode::start());
    node.put("k", "0").await;
    let identity = first(1, node.oracle.now());
    node.range.close();
    let writing = {
        let node = Arc::clone(&node);
        tokio::spawn(async move { node.write(put("k", "1", Condition::None), identity).await })
    };
    until("the write is under way", || node.state().stamps.in_flight() == 1).await;
    let asking = {
        let node = Arc::clone(&node);
        tokio::spawn(async move { node.status("k", identity).await })
    };
    until("the question waits", || node.state().latches.len() == 2).await;
    node.range.open();
    let version = writing.await.unwrap().unwrap();
    assert_eq!(asking.await.unwrap(), Ok(Some(version)));
}

#[tokio::test]
async fn fences_are_dropped_when_no_attempt_can_come_any_more() {
    let node = TestNode::start();
    let old = first(1, node.oracle.now());
    assert_eq!(node.status("k", old).await, Ok(None));
    node.oracle.jump_to(Timestamp::new(BEGINNING.physical_ms() + 11 * 60_000, 0));
    let new = first(2, node.oracle.now());
    assert_eq!(node.status("k", new).await, Ok(None));
    let generation = crate::access::RangeAccess::special_generation(&*node.range);
    node.put("k", "warm").await;
    let specials = node.state().specials.at(generation).expect("just used");
    assert_eq!(specials.fences.get(RequestId(1)), None);
    assert!(specials.fences.get(RequestId(2)).is_some());
    let refused = node.write(put("k", "1", Condition::None), old).await;
    assert_eq!(refused, Err(Refusal::Fenced), "too old to come through without its fence");
    let refused = node.write(put("k", "1", Condition::None), again(old)).await;
    assert!(matches!(refused, Err(Refusal::OutcomeUnknown(_))));
}

#[tokio::test]
async fn a_write_whose_caller_gave_up_still_holds_back_reads_and_writes() {
    let node = Arc::new(TestNode::start());
    node.put("k", "0").await;
    node.range.close();
    let seen = node.oracle.now();
    let work = node.work(put("k", "1", Condition::None), first(1, seen), Duration::from_millis(50));
    let (answers, mut answered) = tokio::sync::mpsc::unbounded_channel();
    let batch = Batch::new(&node.writer, vec![(0, work)]);
    let running = tokio::spawn(batch.run(move |results| {
        let _ = answers.send(results);
    }));
    let results = answered.recv().await.unwrap();
    assert!(matches!(results[..], [(0, Err(Refusal::OutcomeUnknown(_)))]));
    assert!(!running.is_finished());
    assert_eq!((node.state().latches.len(), node.state().stamps.in_flight()), (1, 1));
    let at = node.oracle.now();
    let reading = {
        let node = Arc::clone(&node);
        tokio::spawn(async move { node.read("k", at).await })
    };
    until("the read waits", || Arc::strong_count(&node) == 2).await;
    tokio::task::yield_now().await;
    assert!(!reading.is_finished());
    node.range.open();
    let (value, version) = reading.await.unwrap().unwrap();
    assert!(value == "1" && version < at);
    running.await.unwrap();
    assert!(node.state().latches.is_empty() && node.state().stamps.in_flight() == 0);
}

#[tokio::test]
async fn a_write_that_a_read_overtook_is_stamped_again() {
    let node = TestNode::start();
    node.put("k", "0").await;
    let early = node.oracle.now();
    let seen = node.oracle.now();
    let at = node.oracle.now();
    assert_eq!(node.read("k", at).await.unwrap().0, "0");
    // The oracle's answer to the write was made before that of the read and comes after it.
    node.oracle.next.lock().push(early);
    let version = node.write(put("k", "1", Condition::None), first(1, seen)).await.unwrap();
    assert!(version > at);
    assert_eq!(node.read("k", at).await.unwrap().0, "0", "a page at this version stays the same");
}

#[tokio::test]
async fn a_range_delete_hides_what_is_older_and_is_done_once() {
    let node = TestNode::start();
    for key in ["c", "d", "m"] {
        node.put(key, "1").await;
    }
    let span = Span { start: b"c".to_vec(), end: b"e".to_vec() };
    let identity = first(50, node.oracle.now());
    let delete = Change::DeleteRange { span };
    let version = node.write(delete.clone(), identity).await.unwrap();
    assert_eq!(node.value("c").await, None);
    assert_eq!(node.value("m").await.as_deref(), Some("1"));
    node.put("d", "2").await;
    assert_eq!(node.write(delete, again(identity)).await, Ok(version));
    assert_eq!(node.value("d").await.as_deref(), Some("2"));
    assert_eq!(node.status("c", identity).await, Ok(Some(version)));
    let key = Change::Delete { key: Bytes::from_static(b"d"), condition: Condition::None };
    node.write(key, first(51, node.oracle.now())).await.unwrap();
    assert_eq!(node.value("d").await, None);
}

#[tokio::test]
async fn without_an_oracle_nothing_is_done_and_said_so() {
    let node = TestNode::start();
    node.put("k", "0").await;
    let seen = node.oracle.now();
    node.oracle.set_away(true);
    let short = Duration::from_millis(30);
    let plain = node.work(put("k", "1", Condition::None), first(1, seen), short);
    let slow = node.work(put("m", "1", Condition::Absent), first(2, seen), short);
    for result in node.run(vec![plain, slow]).await {
        assert!(matches!(result, Err(Refusal::NoTimestamp(_))), "{result:?}");
    }
    node.oracle.set_away(false);
    assert_eq!(node.value("k").await.as_deref(), Some("0"));
    assert!(node.state().latches.is_empty());
}

#[tokio::test]
async fn leadership_lost_under_way_is_unknown_and_before_it_is_not() {
    let node = Arc::new(TestNode::start());
    node.put("k", "0").await;
    node.range.close();
    let seen = node.oracle.now();
    let writing = {
        let node = Arc::clone(&node);
        tokio::spawn(
            async move { node.write(put("k", "1", Condition::None), first(1, seen)).await },
        )
    };
    until("the write is under way", || node.state().stamps.in_flight() == 1).await;
    let stale = node.work(put("m", "1", Condition::None), first(2, seen), SOON);
    node.range.next_term();
    assert!(matches!(writing.await.unwrap(), Err(Refusal::OutcomeUnknown(_))));
    let refused = node.run(vec![stale]).await.remove(0);
    assert!(refused.is_ok() || matches!(refused, Err(Refusal::NotLeader { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_write_that_fits_no_entry_is_refused_in_words() {
    let node = TestNode::start();
    let value = Bytes::from(vec![0; 16 << 20]);
    let change = Change::Put { key: Bytes::from_static(b"k"), value, condition: Condition::None };
    let Err(Refusal::Invalid(words)) = node.write(change, first(1, node.oracle.now())).await else {
        panic!("it does not fit")
    };
    assert!(words.contains("one write may take"), "{words}");
    assert_eq!(node.range.proposals.load(Ordering::SeqCst), 0);
}
