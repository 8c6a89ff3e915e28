//! A disk that still works, but slowly: its node leads nothing any more, and writes do not wait for it.

use anyhow::{Context as _, Result, ensure};
use rangedb_storage_node::raft_log::fault::SyncBehaviour;
use rangedb_tests::workload::Plan;
use rangedb_tests::{InProcess, Workload, admin, seed, wait};
use std::time::{Duration, Instant};

const SLOW: Duration = Duration::from_millis(400);
/// A few measurements, and a plan.
const LIMIT: Duration = Duration::from_secs(40);
const CALM: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_slow_disk_hands_its_leaderships_over() -> Result<()> {
    let cluster = InProcess::start(1, 3, 1).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    let workload = Workload::start(&cluster.endpoints(), Plan::new(seed())).await?;
    wait::let_run(CALM).await;

    let range = admin::ranges(&client).await?.into_iter().next().context("no range")?;
    let nodes = admin::nodes(&client).await?;
    let leader = nodes.iter().find(|node| node.node_id == range.leader_node_id);
    let address = &leader.context("it is a node")?.address;
    let slow = cluster.nodes.iter().find(|node| node.address() == address).context("it is ours")?;
    slow.disk.set_sync(SyncBehaviour::Slow(SLOW));
    let begun = Instant::now();
    wait::until("another node leads", LIMIT, async || {
        let now = admin::ranges(&client).await?;
        ensure!(now[0].leader_node_id != range.leader_node_id, "it still leads");
        Ok(())
    })
    .await?;
    println!("another node leads after {:?}", begun.elapsed());
    wait::let_run(CALM).await;
    let calm = Instant::now();
    wait::let_run(CALM).await;
    let latencies = workload.latencies(calm, Instant::now());
    let median = latencies.get(latencies.len() / 2).copied().context("nothing is written")?;
    println!("a write takes {median:?}");
    // The two others make a majority.
    ensure!(median < SLOW / 2, "writes wait for the slow disk: {median:?}");
    slow.disk.set_sync(SyncBehaviour::Honest);
    let judged = workload.stop().await?.verify(&client).await?;
    ensure!(judged.refused == 0, "{} writes failed in spite of retries", judged.refused);
    cluster.finish(&[]).await
}
