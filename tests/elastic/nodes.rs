//! Nodes join, are drained, and die for good, while the cluster is written to.

use crate::sizes::{ranges_are, whole};
use anyhow::{Context as _, Result, ensure};
use rangedb_client::Client;
use rangedb_client::proto::DrainNodeRequest;
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::workload::Plan;
use rangedb_tests::{Processes, Shape, Workload, admin, seed, wait};
use std::time::{Duration, Instant};

/// How many ranges the moves are tried with.
const RANGES: usize = 12;
const LIMIT: Duration = Duration::from_secs(90);
const OPERATION_LIMIT: Duration = Duration::from_secs(5);

/// What a node holds may differ from an even share by this much.
fn slack(even: usize) -> usize {
    (even / 10).max(1)
}

/// A workload, and so many ranges that it has made; from then on there are no more of them.
async fn load(client: &Client, cluster: &Processes) -> Result<Workload> {
    admin::set_config(client, "range_merge_size", "0B").await?;
    admin::set_config(client, "range_split_size", "1MiB").await?;
    admin::set_config(client, "node_dead_after", "4s").await?;
    let plan = Plan { keys_per_writer: 400, value_bytes: 4096, ..Plan::new(seed()) };
    let workload = Workload::start(&cluster.endpoints(), plan).await?;
    ranges_are(client, |count| count >= RANGES).await?;
    admin::set_config(client, "range_split_size", "1GiB").await?;
    Ok(workload)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_and_shrinks_again() -> Result<()> {
    let mut cluster = Processes::start(Shape { nodes: 1, ..Shape::default() }).await?;
    let client = cluster.client().await?;
    let workload = load(&client, &cluster).await?;
    let begun = Instant::now();
    for _ in 0..3 {
        let node = cluster.add_node()?;
        node.start()?;
        node.ready().await?;
    }
    even(&client, 4).await?;
    println!("four nodes are even after {:?}", begun.elapsed());

    let drained = Instant::now();
    let away = node_id(&client, &cluster.nodes[0].grpc).await?;
    let request = DrainNodeRequest { node_id: away, dry_run: false };
    client.admin().drain_node(request).await?;
    wait::until("the node is empty", LIMIT, async || {
        let holds = admin::ranges(&client)
            .await?
            .into_iter()
            .filter(|range| range.replicas.iter().any(|replica| replica.node_id == away));
        ensure!(holds.count() == 0, "it holds replicas");
        Ok(())
    })
    .await?;
    println!("a node is empty {:?} after its drain began", drained.elapsed());
    even(&client, 3).await?;
    judge(cluster, workload, &client, begun).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_rebuilt_elsewhere() -> Result<()> {
    let mut cluster = Processes::start(Shape { nodes: 4, ..Shape::default() }).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    let workload = load(&client, &cluster).await?;
    even(&client, 4).await?;
    let begun = Instant::now();
    let dead = node_id(&client, &cluster.nodes[2].grpc).await?;
    cluster.nodes[2].kill()?;
    wait::until("nothing is on the dead node", LIMIT, async || {
        for range in admin::ranges(&client).await? {
            let roles: Vec<_> = range.replicas.iter().map(|replica| &*replica.role).collect();
            ensure!(roles == ["voter"; 3], "range {}: {roles:?}", range.range_id);
            let lost = range.replicas.iter().any(|replica| replica.node_id == dead);
            ensure!(!lost, "range {} counts on the dead node", range.range_id);
        }
        Ok(())
    })
    .await?;
    println!("three live replicas of every range {:?} after the node died", begun.elapsed());
    judge(cluster, workload, &client, begun).await
}

async fn node_id(client: &Client, address: &str) -> Result<u64> {
    let nodes = admin::nodes(client).await?;
    let node = nodes.into_iter().find(|node| node.address == address);
    Ok(node.context("the node is not known")?.node_id)
}

/// Waits until replicas and leaders are spread evenly over so many nodes.
async fn even(client: &Client, nodes: usize) -> Result<()> {
    wait::until(&format!("an even spread over {nodes} nodes"), LIMIT, async || {
        let ranges = admin::ranges(client).await?;
        let mut replicas = std::collections::BTreeMap::<u64, usize>::new();
        let mut leaders = std::collections::BTreeMap::<u64, usize>::new();
        for range in &ranges {
            ensure!(range.replicas.len() == 3, "range {} has not three replicas", range.range_id);
            *leaders.entry(range.leader_node_id).or_default() += 1;
            for replica in &range.replicas {
                *replicas.entry(replica.node_id).or_default() += 1;
            }
        }
        for (counts, even) in
            [(replicas, 3 * ranges.len() / nodes), (leaders, ranges.len() / nodes)]
        {
            let near = |count: &usize| count.abs_diff(even) <= slack(even) + 1;
            ensure!(
                counts.len() == nodes && counts.values().all(near),
                "{counts:?}, even is {even}"
            );
        }
        Ok(())
    })
    .await
}

async fn judge(
    cluster: Processes,
    workload: Workload,
    client: &Client,
    begun: Instant,
) -> Result<()> {
    let end = Instant::now();
    let slowest = workload.latencies(begun, end).last().copied().unwrap_or_default();
    println!("{} writes, the slowest took {slowest:?}", workload.acknowledged());
    let judged = workload.stop().await?.verify(client).await?;
    println!("{judged:?}");
    whole(client).await?;
    admin::consistent(client).await?;
    ensure!(judged.refused == 0, "{} writes failed in spite of retries", judged.refused);
    ensure!(slowest <= OPERATION_LIMIT, "a write took {slowest:?}");
    cluster.finish(PEER_LOST).await
}
