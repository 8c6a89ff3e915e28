//! A leader that is cut off for longer than its lease, and comes back with the belief that it leads.
//!
//! The process is stopped by a signal: from outside that is a node that nobody can reach, and inside
//! no time passed.

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::workload::Plan;
use rangedb_tests::{Processes, Shape, Workload, admin, seed, wait};
use std::time::{Duration, Instant};

/// Longer than a lease and an election.
const AWAY: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);
const CALM: Duration = Duration::from_secs(1);
/// Reads that wait in the connection to the old leader when it wakes up.
const READS: usize = 64;
/// What is said when another process does not answer.
const SILENCE: &[&str] = &["a quorum of placement cannot be reached", "placement member"];

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_cut_off_serves_no_stale_read() -> Result<()> {
    let mut cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    // The second gateway hears of the new leader as late as possible: it has nothing to do meanwhile.
    let (busy, idle) = (cluster.client_of(0).await?, cluster.client_of(1).await?);
    busy.put("k", "old").await?;
    ensure!(idle.get("k").await?.is_some_and(|found| &*found.value == b"old"));
    let leader = admin::ranges(&busy).await?[0].leader_node_id;
    let nodes = admin::nodes(&busy).await?;
    let leader = nodes.iter().find(|node| node.node_id == leader).context("it is a node")?;
    let leader = cluster.nodes.iter_mut().find(|part| part.grpc == leader.address);
    let leader = leader.context("it is one of ours")?.child()?;
    for round in 0..2 {
        leader.signal("-STOP")?;
        let value = format!("new {round}");
        let put = wait::until("another node leads", PATIENCE, async || {
            Ok(busy.put("k", value.clone()).await?)
        });
        let version = put.await?;
        let reads = try_join_all((0..READS).map(|_| idle.get("k")));
        let wake = async {
            wait::pause().await;
            leader.signal("-CONT")
        };
        let (found, woken) = tokio::join!(reads, wake);
        woken?;
        for found in found? {
            let found = found.context("it was written")?;
            ensure!(found.version == version, "stale: {found:?}, {version:?} was acknowledged");
        }
    }
    cluster.replicated().await?;
    ensure!(admin::consistent(&busy).await? == 3, "three replicas");
    cluster.finish(&[PEER_LOST, SILENCE].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn placements_leader_that_was_cut_off_gives_no_earlier_time() -> Result<()> {
    let mut cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    let workload = Workload::start(&cluster.endpoints(), Plan::new(seed())).await?;
    wait::let_run(CALM).await;
    let leader = admin::placement_leader(&client).await?;
    let member = cluster.placement.iter_mut().find(|member| member.grpc == leader);
    let member = member.with_context(|| leader.clone())?.child()?;
    let stopped = Instant::now();
    member.signal("-STOP")?;
    let resumed = workload.resumed(stopped, PATIENCE).await?.last;
    wait::let_run(AWAY.saturating_sub(stopped.elapsed())).await;
    let woken = Instant::now();
    member.signal("-CONT")?;
    workload.resumed(woken, PATIENCE).await?;
    wait::let_run(CALM).await;
    let judgement = workload.stop().await?;
    // Versions against real time are a part of the judgement.
    println!("{:?}", judgement.verify(&client).await?);
    println!("writes resumed {resumed:?} after placement's leader was cut off");
    cluster.finish(&[PEER_LOST, SILENCE].concat()).await
}
