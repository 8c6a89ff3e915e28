//! Ranges split because they grow, and merge because the sizes were raised, under constant writes.

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rangedb_client::Client;
use rangedb_tests::admin::whole;
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::workload::Plan;
use rangedb_tests::{Processes, Shape, Workload, admin, rounds, seed, wait};
use std::time::{Duration, Instant};

/// How many ranges the load must come to at the smallest split size.
const RANGES_MANY: usize = 20;
/// How many there must be before nodes are killed.
const RANGES_TORN: usize = 6;
/// How few must be left after the sizes were raised.
const RANGES_FEW: usize = 3;
const LIMIT: Duration = Duration::from_secs(60);
/// The longest time a client may wait for one operation, with all its attempts.
const OPERATION_LIMIT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn ranges_split_and_merge_under_load() -> Result<()> {
    let cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    admin::set_config(&client, "range_merge_size", "0B").await?;
    admin::set_config(&client, "range_split_size", "1MiB").await?;
    let plan = Plan { keys_per_writer: 800, value_bytes: 4096, ..Plan::new(seed()) };
    let workload = Workload::start(&cluster.endpoints(), plan).await?;
    let begun = Instant::now();

    let many = ranges_are(&client, |count| count >= RANGES_MANY).await?;
    println!("{many} ranges after {:?}", begun.elapsed());
    let raised = Instant::now();
    admin::set_config(&client, "range_split_size", "1GiB").await?;
    admin::set_config(&client, "range_merge_size", "512MiB").await?;
    let few = ranges_are(&client, |count| count <= RANGES_FEW).await?;
    println!("{few} ranges {:?} after the sizes were raised", raised.elapsed());

    let end = Instant::now();
    let slowest = workload.latencies(begun, end).last().copied().unwrap_or_default();
    let pause = workload.longest_pause(begun, end);
    let acknowledged = workload.acknowledged();
    println!("{acknowledged} writes, the slowest took {slowest:?}, longest pause {pause:?}");
    let judged = workload.stop().await?.verify(&client).await?;
    println!("{judged:?}");
    whole(&client).await?;
    admin::consistent(&client).await?;
    ensure!(judged.refused == 0, "{} writes failed in spite of retries", judged.refused);
    ensure!(slowest <= OPERATION_LIMIT, "a write took {slowest:?}");
    cluster.finish(PEER_LOST).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_killed_while_ranges_split_and_merge() -> Result<()> {
    let mut cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    admin::set_config(&client, "range_merge_size", "0B").await?;
    admin::set_config(&client, "range_split_size", "1MiB").await?;
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let plan = Plan { keys_per_writer: 800, value_bytes: 4096, ..Plan::new(seed) };
    let workload = Workload::start(&cluster.endpoints(), plan).await?;
    ranges_are(&client, |count| count >= RANGES_TORN).await?;
    let rounds = rounds(4);
    for round in 0..rounds {
        if round == rounds / 2 {
            admin::set_config(&client, "range_split_size", "1GiB").await?;
            admin::set_config(&client, "range_merge_size", "512MiB").await?;
        }
        wait::let_run(Duration::from_millis(random.random_range(1000..2000))).await;
        let count = admin::ranges(&client).await?.len();
        let node = random.random_range(0..cluster.nodes.len());
        let victim = &mut cluster.nodes[node];
        eprintln!("round {round}: {} is killed, {count} ranges", victim.name());
        victim.kill()?;
        victim.start()?;
        victim.ready().await?;
    }
    ranges_are(&client, |count| count <= RANGES_FEW).await?;
    let judged = workload.stop().await?.verify(&client).await?;
    println!("{judged:?}");
    cluster.replicated().await?;
    whole(&client).await?;
    admin::consistent(&client).await?;
    cluster.finish(PEER_LOST).await
}

/// Waits until there is such a number of ranges.
pub(crate) async fn ranges_are(client: &Client, wanted: impl Fn(usize) -> bool) -> Result<usize> {
    wait::until("the ranges have split or merged", LIMIT, async || {
        let count = admin::ranges(client).await?.len();
        ensure!(wanted(count), "{count} ranges");
        Ok(count)
    })
    .await
}
