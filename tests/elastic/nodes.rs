//! Nodes join, are drained, and die for good, while the cluster is written to.

use crate::sizes::ranges_are;
use anyhow::{Context as _, Result, ensure};
use rangedb_client::Client;
use rangedb_client::proto::{DrainNodeRequest, RangeStatus, RemoveNodeRequest};
use rangedb_tests::admin::whole;
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::workload::Plan;
use rangedb_tests::{Processes, Shape, Workload, admin, http, rounds, seed, wait};
use std::time::{Duration, Instant};

/// How many ranges the moves are tried with; the full figure is 200.
const RANGES: usize = 12;
const LIMIT: Duration = Duration::from_secs(180);
/// More moves than an even spread needs are a planner that does not know what it wants.
const MOVES_FACTOR: f64 = 1.3;
/// What a few ranges more or less make of that.
const MOVES_MORE: f64 = 6.0;
/// By when a node that was away has none of the replicas that were moved meanwhile.
const STALE_LIMIT: Duration = Duration::from_secs(60);
const HOSTED: &str = "rangedb_store_replicas_count";
const OPERATION_LIMIT: Duration = Duration::from_secs(5);

/// True if a node holds an even share, or differs from it by little.
fn is_near(count: usize, even: f64) -> bool {
    (count as f64 - even).abs() <= (even / 10.0).max(1.0)
}

/// A workload, and so many ranges that it has made; from then on there are no more of them.
async fn load(client: &Client, cluster: &Processes, wanted: usize) -> Result<Workload> {
    admin::set_config(client, "range_merge_size", "0B").await?;
    admin::set_config(client, "range_split_size", "1MiB").await?;
    admin::set_config(client, "node_dead_after", "4s").await?;
    let keys_per_writer = wanted * 17;
    let plan =
        Plan { writers: 16, readers: 6, keys_per_writer, value_bytes: 4096, ..Plan::new(seed()) };
    let workload = Workload::start(&cluster.endpoints(), plan).await?;
    ranges_are(client, |count| count >= wanted).await?;
    admin::set_config(client, "range_split_size", "1GiB").await?;
    Ok(workload)
}

/// What clients saw of a step, and what it moved.
struct Step {
    begun: Instant,
    moves: f64,
    reads: usize,
}

impl Step {
    async fn begin(cluster: &Processes, workload: &Workload) -> Result<Self> {
        let (reads, _) = workload.reads();
        Ok(Self { begun: Instant::now(), moves: moves(cluster).await?, reads })
    }

    /// Tells of it; so many moves a range were needed.
    async fn end(
        self,
        what: &str,
        moves_a_range: f64,
        cluster: &Processes,
        client: &Client,
        workload: &Workload,
    ) -> Result<()> {
        let (begun, now) = (self.begun, Instant::now());
        let took = now - begun;
        // Splits that were under way have ended by now.
        let ranges = admin::ranges(client).await?.len();
        let needed = (moves_a_range * ranges as f64).ceil();
        let moved = moves(cluster).await? - self.moves;
        let latencies = workload.latencies(begun, now);
        let a_second = |count: usize| count as f64 / took.as_secs_f64();
        let (writes, reads) =
            (a_second(latencies.len()), a_second(workload.reads().0 - self.reads));
        println!(
            "{what}, {ranges} ranges: {took:?}, {moved} moves ({needed} needed), {writes:.0} writes/s, {reads:.0} reads/s, slowest {:?}, \
             longest pause {:?}",
            latencies.last().copied().unwrap_or_default(),
            workload.longest_pause(begun, now)
        );
        let most = needed * MOVES_FACTOR + MOVES_MORE;
        ensure!(moved <= most, "{what}: {moved} moves, where {needed} would do");
        Ok(())
    }
}

/// Replicas that were filled by a snapshot, on all nodes that run.
async fn moves(cluster: &Processes) -> Result<f64> {
    let mut moves = 0.0;
    for node in cluster.nodes.iter().filter(|node| node.is_started()) {
        // A node that never got a snapshot has no such metric yet.
        moves += http::metric(&node.http, "rangedb_snapshot_installed_total").await.unwrap_or(0.0);
    }
    Ok(moves)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_and_shrinks_again() -> Result<()> {
    let mut cluster = Processes::start(Shape { nodes: 1, ..Shape::default() }).await?;
    let client = cluster.client().await?;
    let workload = load(&client, &cluster, rounds(RANGES)).await?;
    let begun = Instant::now();

    let step = Step::begin(&cluster, &workload).await?;
    join(&mut cluster, 2).await?;
    even(&client, 3).await?;
    step.end("one node to three", 2.0, &cluster, &client, &workload).await?;

    let step = Step::begin(&cluster, &workload).await?;
    join(&mut cluster, 2).await?;
    even(&client, 5).await?;
    step.end("three nodes to five", 1.2, &cluster, &client, &workload).await?;

    let step = Step::begin(&cluster, &workload).await?;
    let away = [0, 1].map(|index: usize| cluster.nodes[index].grpc.clone());
    for address in &away {
        let node_id = node_id(&client, address).await?;
        client.admin().drain_node(DrainNodeRequest { node_id, dry_run: false }).await?;
    }
    for address in &away {
        emptied(&client, address).await?;
    }
    even(&client, 3).await?;
    step.end("five nodes to three", 1.2, &cluster, &client, &workload).await?;
    for (index, address) in away.iter().enumerate() {
        // One that still runs when it is removed ends with an error that says so.
        cluster.nodes[index].stop().await?;
        let node_id = node_id(&client, address).await?;
        client.admin().remove_node(RemoveNodeRequest { node_id, dry_run: false }).await?;
    }
    judge(cluster, workload, &client, begun).await
}

async fn join(cluster: &mut Processes, count: usize) -> Result<()> {
    for _ in 0..count {
        let node = cluster.add_node()?;
        node.start()?;
        node.ready().await?;
    }
    Ok(())
}

/// Waits until nothing is left on a node.
async fn emptied(client: &Client, address: &str) -> Result<()> {
    let away = node_id(client, address).await?;
    wait::until("the node is empty", LIMIT, async || {
        let ranges = admin::ranges(client).await?;
        let holds = |range: &&RangeStatus| range.replicas.iter().any(|one| one.node_id == away);
        ensure!(ranges.iter().filter(holds).count() == 0, "it holds replicas");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_rebuilt_elsewhere() -> Result<()> {
    let mut cluster = Processes::start(Shape { nodes: 4, ..Shape::default() }).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    let workload = load(&client, &cluster, rounds(RANGES)).await?;
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

    let back = Instant::now();
    cluster.nodes[2].start()?;
    cluster.nodes[2].ready().await?;
    rid_of_stale_replicas(&cluster, 2, &client).await?;
    println!("rid of its stale replicas {:?} after it was started again", back.elapsed());
    judge(cluster, workload, &client, begun).await
}

/// Waits until a node hosts what it is to host and nothing else.
async fn rid_of_stale_replicas(cluster: &Processes, at: usize, client: &Client) -> Result<()> {
    let node = &cluster.nodes[at];
    let node_id = node_id(client, &node.grpc).await?;
    wait::until("stale replicas are gone", STALE_LIMIT, async || {
        let named = admin::ranges(client)
            .await?
            .into_iter()
            .filter(|range| range.replicas.iter().any(|replica| replica.node_id == node_id));
        let (named, hosted) = (named.count(), http::metric(&node.http, HOSTED).await?);
        ensure!(hosted == named as f64, "{hosted} replicas, where {named} are to be");
        Ok(())
    })
    .await
}

pub(crate) async fn node_id(client: &Client, address: &str) -> Result<u64> {
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
        for (counts, total) in [(replicas, 3 * ranges.len()), (leaders, ranges.len())] {
            let even = total as f64 / nodes as f64;
            ensure!(
                counts.len() == nodes && counts.values().all(|count| is_near(*count, even)),
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
    let (_, reads_refused) = workload.reads();
    ensure!(reads_refused == 0, "{reads_refused} reads failed in spite of retries");
    let judged = workload.stop().await?.verify(client).await?;
    println!("{judged:?}");
    whole(client).await?;
    admin::consistent(client).await?;
    ensure!(judged.refused == 0, "{} writes failed in spite of retries", judged.refused);
    ensure!(slowest <= OPERATION_LIMIT, "a write took {slowest:?}");
    cluster.finish(PEER_LOST).await
}
