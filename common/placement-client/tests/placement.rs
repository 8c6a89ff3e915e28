//! The client against members that change, die and answer late.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use fake::Fake;
use rangedb_placement_client::{PlacementClient, PlacementError, TimestampClient};
use rangedb_proto::internal::v1::AllocateIdsRequest;
use rangedb_types::Timestamp;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);

fn soon() -> Instant {
    Instant::now() + LIMIT
}

async fn allocate(
    client: &PlacementClient,
    count: u32,
    deadline: Instant,
) -> Result<u64, PlacementError> {
    let attempt = |mut rpc: rangedb_placement_client::PlacementRpc| async move {
        rpc.allocate_ids(AllocateIdsRequest { count }).await
    };
    client.call(attempt, deadline).await.map(|response| response.first)
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let limit = soon();
    while !condition() {
        assert!(Instant::now() < limit, "{what} did not happen");
        tokio::task::yield_now().await;
    }
}

struct Timestamps {
    client: Arc<TimestampClient>,
    cancel: CancellationToken,
}

impl Timestamps {
    fn start(fake: &Fake) -> Self {
        let cancel = CancellationToken::new();
        let placement = PlacementClient::new(fake.addresses());
        Self { client: TimestampClient::start(placement, cancel.clone()), cancel }
    }

    fn get(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<Timestamp, PlacementError>> + 'static {
        let client = self.client.clone();
        async move { client.get(deadline).await }
    }
}

#[tokio::test]
async fn a_call_finds_the_leader_and_follows_it() {
    let fake = Fake::start(3).await;
    fake.quorum.leader.send_replace(2);
    let client = PlacementClient::new(vec![fake.addresses()[0].clone()]);
    assert_eq!(allocate(&client, 1, soon()).await.unwrap(), 3);
    assert_eq!(client.leader_address().as_ref(), Some(&fake.addresses()[2]));
    fake.quorum.leader.send_replace(1);
    assert_eq!(allocate(&client, 1, soon()).await.unwrap(), 2);
}

#[tokio::test]
async fn a_dead_member_is_passed_over() {
    let fake = Fake::start(1).await;
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = dead.local_addr().unwrap().to_string();
    drop(dead);
    let client = PlacementClient::new(vec![address, fake.addresses()[0].clone()]);
    assert_eq!(allocate(&client, 1, soon()).await.unwrap(), 1);
}

#[tokio::test]
async fn a_member_that_accepts_and_never_answers_is_passed_over() {
    let fake = Fake::start(1).await;
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mute.local_addr().unwrap().to_string();
    let client = PlacementClient::new(vec![address, fake.addresses()[0].clone()]);
    assert_eq!(allocate(&client, 1, soon()).await.unwrap(), 1);
}

#[tokio::test]
async fn without_a_leader_calls_end_at_their_deadline() {
    let fake = Fake::start(2).await;
    fake.quorum.leader.send_replace(usize::MAX);
    let client = PlacementClient::new(fake.addresses());
    let begun = Instant::now();
    let error = allocate(&client, 1, begun + Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(&error, PlacementError::NoLeader { .. }) && error.is_retryable(), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    fake.quorum.leader.send_replace(0);
    assert_eq!(allocate(&client, 1, soon()).await.unwrap(), 1);
}

#[tokio::test]
async fn refusals_of_the_leader_are_not_retried() {
    let fake = Fake::start(1).await;
    let client = PlacementClient::new(fake.addresses());
    let error = allocate(&client, 0, soon()).await.unwrap_err();
    assert!(error.refusal().is_some() && !error.is_retryable(), "{error}");
}

#[tokio::test]
async fn bad_addresses_are_named() {
    let client = PlacementClient::new(vec!["nonsense".to_owned()]);
    let error =
        allocate(&client, 1, Instant::now() + Duration::from_millis(100)).await.unwrap_err();
    assert!(error.to_string().contains("nonsense"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timestamps_are_unique_and_come_in_batches() {
    const CALLERS: u64 = 64;
    const CALLS: u64 = 500;
    let fake = Fake::start(1).await;
    let timestamps = Timestamps::start(&fake);
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        let client = timestamps.client.clone();
        callers.push(tokio::spawn(async move {
            let mut last = Timestamp::ZERO;
            let mut seen = Vec::new();
            for _ in 0..CALLS {
                let next = client.get(soon()).await.unwrap();
                assert!(next > last, "{next} after {last}");
                last = next;
                seen.push(next);
            }
            seen
        }));
    }
    let mut all = Vec::new();
    for caller in callers {
        all.extend(caller.await.unwrap());
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len() as u64, CALLERS * CALLS);
    assert!(timestamps.client.latest_seen() >= *all.last().unwrap());
    let fetches = fake.quorum.fetches.load(Ordering::SeqCst);
    assert!(fetches < CALLERS * CALLS / 4, "{fetches} fetches");
}

#[tokio::test]
async fn a_batch_serves_only_requests_that_came_before_its_fetch() {
    let fake = Fake::start(1).await;
    let timestamps = Timestamps::start(&fake);
    timestamps.get(soon()).await.unwrap();
    fake.quorum.hold.send_replace(true);
    let before = fake.quorum.fetches.load(Ordering::SeqCst);
    let first = tokio::spawn(timestamps.get(soon()));
    eventually("the first fetch", || fake.quorum.fetches.load(Ordering::SeqCst) > before).await;
    // This one comes while the first fetch is under way: it must get its own.
    let second = tokio::spawn(timestamps.get(soon()));
    eventually("the second request", || !second.is_finished()).await;
    fake.quorum.hold.send_replace(false);
    let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert_ne!(first, second);
    eventually("a fetch of its own", || fake.quorum.fetches.load(Ordering::SeqCst) >= before + 2)
        .await;
}

#[tokio::test]
async fn late_replies_are_thrown_away() {
    let fake = Fake::start(1).await;
    let timestamps = Timestamps::start(&fake);
    timestamps.get(soon()).await.unwrap();
    fake.quorum.hold.send_replace(true);
    let error = timestamps.get(Instant::now() + Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, PlacementError::NoLeader { .. }));
    // Whoever comes next gets a timestamp that was made for nobody else.
    let made = fake.quorum.next_timestamp.load(Ordering::SeqCst);
    let next = tokio::spawn(timestamps.get(soon()));
    fake.quorum.hold.send_replace(false);
    assert!(next.await.unwrap().unwrap() > Timestamp(made));
}

#[tokio::test]
async fn waiters_move_to_the_next_leader() {
    let fake = Fake::start(3).await;
    let timestamps = Timestamps::start(&fake);
    let before = timestamps.get(soon()).await.unwrap();
    fake.quorum.hold.send_replace(true);
    let fetches = fake.quorum.fetches.load(Ordering::SeqCst);
    let waiting: Vec<_> = (0..10).map(|_| tokio::spawn(timestamps.get(soon()))).collect();
    eventually("a fetch", || fake.quorum.fetches.load(Ordering::SeqCst) > fetches).await;
    fake.quorum.leader.send_replace(1);
    fake.quorum.hold.send_replace(false);
    for waiter in waiting {
        assert!(waiter.await.unwrap().unwrap() > before);
    }
}

#[tokio::test]
async fn waiters_survive_a_leader_that_dies() {
    let mut fake = Fake::start(2).await;
    let timestamps = Timestamps::start(&fake);
    let before = timestamps.get(soon()).await.unwrap();
    fake.members.remove(0).abort();
    fake.quorum.leader.send_replace(1);
    assert!(timestamps.get(soon()).await.unwrap() > before);
}

#[tokio::test]
async fn a_stream_that_hangs_is_given_up() {
    let fake = Fake::start(2).await;
    let timestamps = Timestamps::start(&fake);
    timestamps.get(soon()).await.unwrap();
    fake.quorum.hold.send_replace(true);
    let waiting = tokio::spawn(timestamps.get(soon()));
    let before = fake.quorum.fetches.load(Ordering::SeqCst);
    // The same request is sent again on another stream.
    eventually("another fetch", || fake.quorum.fetches.load(Ordering::SeqCst) > before + 1).await;
    fake.quorum.hold.send_replace(false);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_ends_every_request() {
    let fake = Fake::start(1).await;
    fake.quorum.leader.send_replace(usize::MAX);
    let timestamps = Timestamps::start(&fake);
    let waiting = tokio::spawn(timestamps.get(soon()));
    tokio::task::yield_now().await;
    timestamps.cancel.cancel();
    timestamps.client.stopped().await;
    assert!(matches!(waiting.await.unwrap(), Err(PlacementError::Stopped)));
    assert!(matches!(timestamps.get(soon()).await, Err(PlacementError::Stopped)));
}

#[tokio::test]
async fn an_idle_client_has_seen_a_timestamp() {
    let fake = Fake::start(1).await;
    fake.quorum.next_timestamp.store(500, Ordering::SeqCst);
    let timestamps = Timestamps::start(&fake);
    eventually("a first timestamp", || timestamps.client.latest_seen() >= Timestamp(500)).await;
}
