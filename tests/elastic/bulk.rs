//! Much data is loaded, spreads over ranges of the size asked for, and leaves nothing behind when it
//! is deleted.

use crate::nodes::node_id;
use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngCore as _, SeedableRng as _};
use rangedb_client::proto::RangeStatus;
use rangedb_client::{Client, Options, RangeQuery};
use rangedb_tests::admin::whole;
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::{Processes, Shape, admin, rounds, seed, usage, wait};
use std::path::Path;
use std::time::{Duration, Instant};

/// How many ranges' worth of data; the full figure is 64, of 32 MiB each.
const RANGES: usize = 16;
const SPLIT_BYTES: usize = 1 << 20;
const SPLIT_BYTES_FULL: usize = 32 << 20;
const VALUE_BYTES: usize = 4096;
const AT_A_TIME: usize = 256;
/// Deletions of a key one by one are many small writes.
const LIMIT: Duration = Duration::from_secs(1200);
/// No range was made or went for so long, a few looks at their sizes: it is over.
const QUIET: Duration = Duration::from_secs(15);
/// Shares of the split size that a range may hold.
const SIZES: std::ops::RangeInclusive<f64> = 0.4..=1.5;
const RANGES_FEW: usize = 5;

/// In which order keys are written, and how they are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Deleted by one DeleteRange.
    Ascending,
    /// Deleted one by one.
    Random,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_in_key_order_spreads_and_leaves_nothing() -> Result<()> {
    load_and_delete(Order::Ascending).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_in_random_order_spreads_and_leaves_nothing() -> Result<()> {
    load_and_delete(Order::Random).await
}

async fn load_and_delete(order: Order) -> Result<()> {
    let cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    let client = client.with_timeout(Options::default().timeout.max(Duration::from_secs(30)));
    let empty = disk(&cluster)?;
    let wanted = rounds(RANGES);
    let split_bytes = if wanted > RANGES { SPLIT_BYTES_FULL } else { SPLIT_BYTES };
    admin::set_config(&client, "range_merge_size", &format!("{}B", split_bytes / 4)).await?;
    admin::set_config(&client, "range_split_size", &format!("{split_bytes}B")).await?;

    let keys = keys(wanted * split_bytes / VALUE_BYTES, order);
    let begun = Instant::now();
    load(&client, &keys).await?;
    let took = begun.elapsed();
    let mebibytes = (keys.len() * VALUE_BYTES) as f64 / f64::from(1 << 20);
    println!("{order:?}: {mebibytes} MiB in {took:?}, {:.1} MiB/s", mebibytes / took.as_secs_f64());
    let ranges = at_rest(&client).await?;
    println!("{} ranges at rest {:?} after the load began", ranges.len(), begun.elapsed());
    sized(&client, &ranges, split_bytes).await?;
    let peak = disk(&cluster)?;

    admin::set_config(&client, "gc_retention", "10s").await?;
    admin::set_config(&client, "transaction_lifetime_max", "10s").await?;
    let begun = Instant::now();
    match order {
        Order::Ascending => drop(client.delete_range("key", "kez").await?),
        Order::Random => delete(&client, &keys).await?,
    }
    println!("deleted in {:?}; {} MiB on the disks at most", begun.elapsed(), peak >> 20);
    wait::until("ranges and files are gone", LIMIT, async || {
        let (ranges, left) = (admin::ranges(&client).await?.len(), disk(&cluster)?);
        ensure!(ranges < RANGES_FEW, "{ranges} ranges, {} MiB", left >> 20);
        let limit = peak / 10 + if wanted > RANGES { 0 } else { empty };
        ensure!(left < limit, "{} of {} MiB are left", left >> 20, peak >> 20);
        Ok(())
    })
    .await?;
    let (ranges, left) = (admin::ranges(&client).await?.len(), disk(&cluster)?);
    println!(
        "{ranges} ranges and {} MiB {:?} after the deletion began",
        left >> 20,
        begun.elapsed()
    );
    whole(&client).await?;
    admin::consistent(&client).await?;
    cluster.finish(PEER_LOST).await
}

/// A node dies for good: what it held is copied elsewhere with no command given.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_node_held_is_copied_elsewhere() -> Result<()> {
    let mut cluster = Processes::start(Shape { nodes: 4, ..Shape::default() }).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    let client = client.with_timeout(Duration::from_secs(30));
    let wanted = rounds(RANGES);
    let split_bytes = if wanted > RANGES { SPLIT_BYTES_FULL } else { SPLIT_BYTES };
    admin::set_config(&client, "range_merge_size", "0B").await?;
    admin::set_config(&client, "range_split_size", &format!("{split_bytes}B")).await?;
    admin::set_config(&client, "node_dead_after", "4s").await?;
    let keys = keys(wanted * split_bytes / VALUE_BYTES, Order::Ascending);
    load(&client, &keys).await?;
    at_rest(&client).await?;
    whole(&client).await?;

    let victim = &mut cluster.nodes[3];
    let address = victim.grpc.clone();
    victim.kill()?;
    let died = Instant::now();
    let dead = node_id(&client, &address).await?;
    let holds = |range: &&RangeStatus| range.replicas.iter().any(|replica| replica.node_id == dead);
    let ranges = admin::ranges(&client).await?;
    let lost: u64 = ranges.iter().filter(holds).map(|range| range.size_bytes).sum();
    wait::until("three live replicas of every range", LIMIT, async || {
        let ranges = admin::ranges(&client).await?;
        let left = ranges.iter().filter(holds).count();
        ensure!(left == 0, "{left} ranges count on the dead node");
        let whole = |range: &&RangeStatus| {
            range.replicas.len() == 3 && range.replicas.iter().all(|it| it.role == "voter")
        };
        ensure!(ranges.iter().all(|range| whole(&range)), "not all have three voters");
        Ok(())
    })
    .await?;
    let (took, gibibytes) = (died.elapsed(), lost as f64 / f64::from(1 << 30));
    let copying = took.saturating_sub(Duration::from_secs(4)).as_secs_f64();
    println!(
        "{gibibytes:.2} GiB in {} ranges are whole {took:?} after the node died: {:.1} s a GiB once it counted as dead",
        ranges.iter().filter(holds).count(),
        copying / gibibytes
    );
    admin::consistent(&client).await?;
    cluster.finish(PEER_LOST).await
}

fn keys(count: usize, order: Order) -> Vec<Vec<u8>> {
    let mut keys: Vec<_> = (0..count).map(|key| format!("key-{key:09}").into_bytes()).collect();
    if order == Order::Random {
        keys.shuffle(&mut StdRng::seed_from_u64(seed()));
    }
    keys
}

/// Writes every key with a value that does not compress.
async fn load(client: &Client, keys: &[Vec<u8>]) -> Result<()> {
    let pipeline = client.pipeline();
    stream::iter(keys.iter().enumerate().map(Ok))
        .try_for_each_concurrent(AT_A_TIME, |(number, key)| {
            let mut value = vec![0; VALUE_BYTES];
            StdRng::seed_from_u64(number as u64).fill_bytes(&mut value);
            let put = pipeline.put(key.clone(), value);
            async move { put.await.map(drop).context("a put") }
        })
        .await
}

async fn delete(client: &Client, keys: &[Vec<u8>]) -> Result<()> {
    let pipeline = client.pipeline();
    stream::iter(keys.iter().map(Ok))
        .try_for_each_concurrent(AT_A_TIME, |key| {
            let delete = pipeline.delete(key.clone());
            async move { delete.await.map(drop).context("a deletion") }
        })
        .await
}

/// Waits until ranges neither split nor merge any more.
async fn at_rest(client: &Client) -> Result<Vec<RangeStatus>> {
    let (mut before, mut since) = (0, Instant::now());
    wait::until("the ranges are at rest", LIMIT, async || {
        let ranges = admin::ranges(client).await?;
        if ranges.len() != before {
            (before, since) = (ranges.len(), Instant::now());
        }
        ensure!(since.elapsed() >= QUIET, "{before} ranges");
        Ok(ranges)
    })
    .await
}

/// Reads all ranges but the first and the last: nearly all hold about as much as they ought to.
async fn sized(client: &Client, ranges: &[RangeStatus], split_bytes: usize) -> Result<()> {
    let inner = ranges.get(1..ranges.len() - 1).context("there are no inner ranges")?;
    let mut shares: Vec<f64> = stream::iter(inner)
        .map(|range| async {
            let query = RangeQuery::between(range.start.clone(), range.end.clone());
            let bytes = client.range(query).await?.try_fold(0, |sum, entry| async move {
                Ok(sum + entry.key.len() + entry.value.len())
            });
            anyhow::Ok(bytes.await? as f64 / split_bytes as f64)
        })
        .buffer_unordered(2)
        .try_collect()
        .await?;
    shares.sort_by(f64::total_cmp);
    let good = shares.iter().filter(|share| SIZES.contains(share)).count();
    let at = |percent: usize| shares[(shares.len() - 1) * percent / 100];
    println!(
        "{good} of {} inner ranges are well sized; shares of the split size: {:.2}, 5 % {:.2}, median {:.2}, 95 % {:.2}, {:.2}",
        shares.len(),
        at(0),
        at(5),
        at(50),
        at(95),
        at(100)
    );
    // One may stand out where 5 % are less than one.
    ensure!(good * 100 >= shares.len() * 95 || good + 1 >= shares.len(), "{shares:?}");
    Ok(())
}

/// What the nodes' files take.
/// All that nodes take from their disks; of a small load, beside which their logs are much, what their engines
/// hold.
fn disk(cluster: &Processes) -> Result<u64> {
    let taken = |data_dir: &Path| match rounds(RANGES) > RANGES {
        true => usage::disk_bytes(data_dir),
        false => usage::written_bytes(&data_dir.join("engine")),
    };
    cluster.nodes.iter().map(|node| taken(&node.data_dir)).sum()
}
