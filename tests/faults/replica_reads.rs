//! Reads away from the leader: how old they may be, and that nothing acknowledged is missing from those
//! that claim to be fresh.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rangedb_client::proto::TransferLeaderRequest;
use rangedb_client::{Client, Consistency, Error, Options, RangeQuery};
use rangedb_tests::admin::split_at;
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::{Processes, Shape, admin, http, rounds, seed, wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The promise of `docs/closed-timestamps.md`.
const CLOSED_AGE_MAX: Duration = Duration::from_secs(3);
/// For the message, and for a machine that does other things.
const ALLOWANCE: Duration = Duration::from_secs(2);
const RANGES: usize = 12;
/// After so long without use a range sleeps.
const SLEEP: Duration = Duration::from_secs(6);
const LOOKS: usize = 8;
/// Between two writes, on a busy machine.
const TURN_MAX_MS: u64 = 1_500;

fn key(number: usize) -> String {
    format!("key/{number:03}")
}

async fn start() -> Result<(Processes, Client)> {
    let cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    admin::set_config(&client, "range_merge_size", "0B").await?;
    for number in 0..RANGES {
        client.put(key(number), "first").await?;
    }
    for number in 1..RANGES {
        split_at(&client, key(number).as_bytes()).await?;
    }
    Ok((cluster, client))
}

/// The oldest closed timestamp, in seconds, of all replicas that do not lead.
async fn closed_age(cluster: &Processes) -> Result<f64> {
    let mut oldest: f64 = 0.0;
    for node in &cluster.nodes {
        let unknown = http::metric(&node.http, "rangedb_node_closed_unknown").await?;
        ensure!(unknown == 0.0, "{unknown} replicas of {} know nothing", node.name());
        oldest = oldest.max(http::metric(&node.http, "rangedb_node_closed_age_seconds").await?);
    }
    Ok(oldest)
}

async fn answered_by_replicas(cluster: &Processes) -> Result<f64> {
    let mut sum = 0.0;
    for gateway in &cluster.gateways {
        let (_, body) = http::get(&gateway.http, "/metrics").await?;
        let name = "rangedb_gateway_replica_reads_total{answered_by=\"replica\"} ";
        let value = body.lines().find_map(|line| line.strip_prefix(name));
        sum += value.map_or(Ok(0.0), str::parse::<f64>)?;
    }
    Ok(sum)
}

/// Trap: a promise that no write comes any more is kept for ranges that nobody uses, too.
#[tokio::test(flavor = "multi_thread")]
async fn every_range_closes_timestamps_asleep_or_not() -> Result<()> {
    let (cluster, client) = start().await?;
    let limit = CLOSED_AGE_MAX.as_secs_f64();
    wait::until("all replicas know", Duration::from_secs(20), async || {
        let age = closed_age(&cluster).await?;
        ensure!(age < limit, "{age} s");
        Ok(())
    })
    .await?;
    wait::let_run(SLEEP).await;
    // Another client: who wrote has to see what it wrote.
    let other = cluster.client_of(1).await?;
    let age = Consistency::Stale(SLEEP);
    let before = answered_by_replicas(&cluster).await?;
    let (mut oldest, mut asked) = (0.0_f64, 0.0);
    for look in 0..rounds(LOOKS) {
        wait::let_run(Duration::from_millis(700)).await;
        oldest = oldest.max(closed_age(&cluster).await?);
        // One range at work among those that sleep.
        client.put(key(0), look.to_string()).await?;
        for number in 1..RANGES {
            let found = other.get_with(key(number), age).await?.context("it is there")?;
            ensure!(&found.value[..] == b"first", "{found:?}");
            asked += 1.0;
        }
    }
    let answered = answered_by_replicas(&cluster).await? - before;
    println!(
        "oldest closed timestamp {oldest:.2} s; replicas answered {answered} of {asked} reads"
    );
    ensure!(oldest < (CLOSED_AGE_MAX + ALLOWANCE).as_secs_f64(), "{oldest} s old");
    ensure!(answered >= asked * 0.9, "leaders had to answer: {answered} of {asked}");
    cluster.finish(&[]).await
}

/// Nodes that are stopped answer nothing; the others go on with what is closed.
#[tokio::test(flavor = "multi_thread")]
async fn stale_reads_need_no_leader_and_are_no_older_than_asked() -> Result<()> {
    let (mut cluster, client) = start().await?;
    let age = Duration::from_secs(5);
    wait::let_run(age).await;
    let began = Instant::now();
    let read = async |client: &Client| -> Result<u64> {
        let found = client.get_with(key(3), Consistency::Stale(age)).await?;
        let found = found.context("it was written")?;
        Ok(String::from_utf8(found.value.to_vec())?.parse().unwrap_or_default())
    };
    let millis = |at: Instant| u64::try_from((at - began).as_millis()).unwrap_or_default();
    // The value is the time before it was written.
    let other = cluster.client_of(1).await?;
    for _ in 0..rounds(20) {
        client.put(key(3), millis(Instant::now()).to_string()).await?;
        let at = Instant::now();
        let found = read(&other).await?;
        // The value of that time was written at most a turn before.
        let oldest = millis(at).saturating_sub(u64::try_from(age.as_millis())? + TURN_MAX_MS);
        ensure!(found >= oldest, "a value of {found} ms, asked at {} ms", millis(at));
        ensure!(read(&client).await? >= found, "who wrote sees at least that");
        wait::let_run(Duration::from_millis(500)).await;
    }
    let all = admin::ranges(&client).await?;
    let range = all.iter().find(|range| range.start.as_ref() == key(3).as_bytes());
    let leader = range.context("it was split there")?.leader_node_id;
    let place = admin::nodes(&client).await?.into_iter().find(|node| node.node_id == leader);
    let address = place.context("a node leads it")?.address;
    let part = cluster.nodes.iter_mut().find(|part| part.grpc == address).context("ours")?;
    part.child()?.signal("-STOP")?;
    let at = Instant::now();
    let found = read(&other).await?;
    let took = at.elapsed();
    part.child()?.signal("-CONT")?;
    println!("{took:?} for a stale read while its leader stood still: {found}");
    ensure!(took < Duration::from_secs(1), "{took:?}");
    cluster.finish(PEER_LOST).await
}

/// Follower reads are linearizable: what was acknowledged before one began is in it.
#[tokio::test(flavor = "multi_thread")]
async fn follower_reads_see_all_that_was_acknowledged() -> Result<()> {
    let (cluster, client) = start().await?;
    let options = Options { timeout: Duration::from_secs(20), ..Options::default() };
    let writer = Client::connect_with(cluster.endpoints(), options).await?;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(count(writer, Arc::clone(&acknowledged), Arc::clone(&stop)));
    let before = answered_by_replicas(&cluster).await?;
    let mut readers = Vec::new();
    for gateway in 0..2 {
        let client = cluster.client_of(gateway).await?;
        let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
        readers.push(tokio::spawn(look(client, acknowledged, stop)));
    }
    let mut random = StdRng::seed_from_u64(seed());
    for _ in 0..rounds(12) {
        wait::let_run(Duration::from_millis(400)).await;
        transfer(&client, &mut random).await?;
    }
    stop.store(true, Ordering::Relaxed);
    writing.await??;
    let mut looks = 0.0;
    for reader in readers {
        looks += reader.await??;
    }
    let answered = answered_by_replicas(&cluster).await? - before;
    println!("{looks} looks, {answered} reads answered by replicas");
    ensure!(answered > looks / 4.0, "replicas answered only {answered} reads of {looks} looks");
    cluster.finish(PEER_LOST).await
}

/// Counts up in two ranges at once, and in one alone.
async fn count(client: Client, acknowledged: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Result<()> {
    for number in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let value = Bytes::from(number.to_string());
        let both = [2, 7].map(|at| (Bytes::from(key(at)), Some(value.clone())));
        client.batch(both).await?;
        client.put(key(5), value).await?;
        acknowledged.store(number, Ordering::SeqCst);
    }
    Ok(())
}

async fn look(client: Client, acknowledged: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Result<f64> {
    let mut looks = 0.0;
    let number = |value: &[u8]| -> Result<u64> {
        Ok(std::str::from_utf8(value)?.parse().unwrap_or_default())
    };
    while !stop.load(Ordering::Relaxed) {
        let least = acknowledged.load(Ordering::SeqCst);
        let found = client.get_with(key(5), Consistency::Follower).await?.context("it is there")?;
        let found = number(&found.value)?;
        ensure!(found >= least, "{found} was read, {least} acknowledged before");
        let least = acknowledged.load(Ordering::SeqCst);
        let both = client.batch_get_with([key(2), key(7)], Consistency::Follower).await?;
        let both: Vec<_> = both.into_iter().flatten().collect();
        ensure!(both.len() == 2 && both[0].value == both[1].value, "half a batch: {both:?}");
        ensure!(number(&both[0].value)? >= least, "{both:?}, {least} acknowledged before");
        let query = RangeQuery::prefix("key/").consistency(Consistency::Follower);
        let entries = match client.range(query).await {
            Ok(entries) => futures::TryStreamExt::try_collect::<Vec<_>>(entries).await,
            Err(error) => Err(error),
        };
        match entries {
            Ok(entries) => {
                ensure!(entries.len() == RANGES, "{} entries", entries.len());
                ensure!(entries[2].value == entries[7].value, "half a batch in a range read");
                ensure!(number(&entries[2].value)? >= least, "an old range read");
            }
            Err(Error::Unavailable { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        looks += 1.0;
    }
    Ok(looks)
}

async fn transfer(client: &Client, random: &mut StdRng) -> Result<()> {
    let ranges = admin::ranges(client).await?;
    let range = &ranges[random.random_range(0..ranges.len())];
    let other = range.replicas.iter().find(|r| r.node_id != range.leader_node_id);
    let to_node_id = other.context("no other replica")?.node_id;
    let range_id = range.range_id;
    let request = TransferLeaderRequest { range_id, to_node_id, ..Default::default() };
    // It may be refused while something else is under way.
    if let Err(refused) = client.admin().transfer_leader(request).await {
        eprintln!("no transfer: {refused}");
    }
    Ok(())
}
