//! Deadlocks are found by whoever leads the first range, also after the node that did was killed.

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use rangedb_client::{Client, Error, Options, PessimisticTransaction, TransactionOptions};
use rangedb_tests::admin::{split_at, tell_first_leader_to_move};
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::{Processes, Shape, admin, rounds, wait};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The promise.
const FOUND_WITHIN: Duration = Duration::from_millis(100);
const CALL_LIMIT: Duration = Duration::from_secs(30);
const ELECTION_LIMIT: Duration = Duration::from_secs(20);

/// How a deadlock ended.
struct Found {
    after: Duration,
    /// The slowest put meanwhile, for who looks into a failure: the victim's rollback writes, too.
    put: Duration,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, a put beside it {:?}", self.after, self.put)
    }
}

/// Takes one key each, and then the next one's; gives how long it took until the youngest gave way.
async fn deadlock(client: &Client, keys: &[&'static str]) -> Result<Found> {
    let mut all: Vec<PessimisticTransaction> = Vec::new();
    for key in keys {
        let txn = client.begin_pessimistic(TransactionOptions::default()).await?;
        txn.get_for_update(*key).await?;
        all.push(txn);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let puts = tokio::spawn(slowest_put(client.clone(), Arc::clone(&stop)));
    let begun = Instant::now();
    let count = keys.len();
    let waits = all.into_iter().enumerate().map(|(at, txn)| async move {
        let wanted = keys[(at + 1) % count];
        let taken = txn.get_for_update(wanted).await;
        let took = begun.elapsed();
        if taken.is_err() {
            txn.rollback().await?;
        } else {
            txn.commit().await.map(|_| ())?;
        }
        anyhow::Ok((taken, took))
    });
    let ended: Vec<_> = join_all(waits).await.into_iter().collect::<Result<_>>()?;
    stop.store(true, Ordering::Relaxed);
    let put = puts.await??;
    let (last, others) = ended.split_last().context("there are some")?;
    ensure!(others.iter().all(|(taken, _)| taken.is_ok()), "{ended:?}");
    ensure!(matches!(last.0, Err(Error::Conflict { .. })), "the youngest gives way: {ended:?}");
    Ok(Found { after: last.1, put })
}

/// Puts one after another, in a range of the deadlock's.
async fn slowest_put(client: Client, stop: Arc<AtomicBool>) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        client.put("e", "beside").await?;
        slowest = slowest.max(begun.elapsed());
    }
    Ok(slowest)
}

/// The node that leads the first range; 0 if placement knows of none.
async fn first_leader(client: &Client) -> Result<u64> {
    let ranges = admin::ranges(client).await?;
    let first = ranges.iter().find(|range| range.start.is_empty());
    Ok(first.context("there is a first range")?.leader_node_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlocks_are_found_after_the_detector_was_killed() -> Result<()> {
    let mut cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let options = Options { timeout: CALL_LIMIT, ..Options::default() };
    let client = Client::connect_with(cluster.endpoints(), options).await?;
    admin::set_config(&client, "range_merge_size", "0B").await?;
    for key in ["c", "h", "p"] {
        split_at(&client, key.as_bytes()).await?;
    }
    let keys = ["d", "m", "z"];
    println!("at rest: {}", deadlock(&client, &keys).await?);
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds(3) {
        // Placement may be handing it to the node that came back.
        let leader = wait::until("the first range is led", ELECTION_LIMIT, async || {
            let leader = first_leader(&client).await?;
            ensure!(leader != 0, "nobody leads the first range");
            Ok(leader)
        })
        .await?;
        let place = admin::nodes(&client).await?.into_iter().find(|node| node.node_id == leader);
        let address = place.context("a node leads it")?.address;
        let part = cluster.nodes.iter_mut().find(|part| part.grpc == address);
        let part = part.context("it is ours")?;
        part.kill()?;
        // Until there is another leader there is nobody to find anything, nor to take a key.
        wait::until("others lead", ELECTION_LIMIT, async || {
            for key in ["a", "d", "m", "z"] {
                client.get(key).await?;
            }
            ensure!(first_leader(&client).await? != leader, "nobody leads the first range");
            Ok(())
        })
        .await?;
        for size in [2, 3] {
            let found = deadlock(&client, &keys[..size]).await?;
            println!("a deadlock of {size} after the kill: {found}");
            slowest = slowest.max(found.after);
        }
        part.start()?;
        part.ready().await?;
        cluster.replicated().await?;
    }
    ensure!(slowest < FOUND_WITHIN, "{slowest:?}");
    cluster.finish(PEER_LOST).await
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlocks_are_found_while_the_detector_moves() -> Result<()> {
    let cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let client = Client::connect(cluster.endpoints()).await?;
    admin::set_config(&client, "range_merge_size", "0B").await?;
    split_at(&client, b"c").await?;
    let keys = ["d", "m", "z"];
    println!("at rest: {}", deadlock(&client, &keys).await?);
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds(5) {
        tell_first_leader_to_move(&client).await?;
        // At once, while it moves.
        let found = deadlock(&client, &keys).await?;
        println!("a deadlock while the leader moves: {found}");
        slowest = slowest.max(found.after);
    }
    ensure!(slowest < FOUND_WITHIN, "{slowest:?}");
    cluster.finish(&[]).await
}
