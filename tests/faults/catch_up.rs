//! A node that was away for longer than the leader's log reaches comes back by a snapshot.

use anyhow::{Result, ensure};
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::workload::{Plan, percentile_ms};
use rangedb_tests::{Processes, Shape, Workload, admin, full, http, seed, wait};
use std::time::{Duration, Instant};

/// Writes while the node is away.
const WRITES: usize = 20_000;
const WRITES_FULL: usize = 200_000;
const WRITES_LIMIT: Duration = Duration::from_secs(600);
/// The leader keeps no more than this for those that are away. (An entry holds many writes.)
const NODE_SETTINGS: &str = "raft_retain = \"1MiB\"\nraft_retain_entries = 300\n";
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);
/// The longest time without any acknowledged write.
const PAUSE_LIMIT: Duration = Duration::from_secs(1);
const CALM: Duration = Duration::from_secs(3);
const INSTALLED: &str = "rangedb_snapshot_installed_total";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_catches_up_by_snapshot_and_nobody_waits() -> Result<()> {
    let shape = Shape { node_settings: NODE_SETTINGS.to_owned(), ..Shape::default() };
    let mut cluster = Processes::start(shape).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    let leader = admin::ranges(&client).await?[0].leader_node_id;
    let nodes = admin::nodes(&client).await?;
    let away = cluster.nodes.iter().position(|part| {
        nodes.iter().any(|node| node.address == part.grpc && node.node_id != leader)
    });
    let away = away.expect("two of three do not lead");

    let plan =
        Plan { pipeline: true, writers: 64, readers: 1, value_bytes: 256, ..Plan::new(seed()) };
    let workload = Workload::start(&cluster.endpoints(), plan).await?;
    wait::let_run(CALM).await;
    let stopped = Instant::now();
    let before = workload.latencies(stopped - CALM, stopped);
    cluster.nodes[away].kill()?;
    let wanted = workload.acknowledged() + if full() { WRITES_FULL } else { WRITES };
    wait::until("enough was written", WRITES_LIMIT, async || {
        ensure!(workload.acknowledged() >= wanted, "{} of {wanted}", workload.acknowledged());
        Ok(())
    })
    .await?;

    let started = Instant::now();
    cluster.nodes[away].start()?;
    cluster.nodes[away].ready().await?;
    let http = cluster.nodes[away].http.clone();
    wait::until("the node installed a snapshot", CATCH_UP_LIMIT, async || {
        let installed = http::metric(&http, INSTALLED).await?;
        ensure!(installed >= 1.0, "{installed} snapshots");
        Ok(())
    })
    .await?;
    let caught_up = Instant::now();
    wait::let_run(CALM).await;
    let end = Instant::now();
    let during = workload.latencies(started, end);
    let pause = workload.longest_pause(stopped, end);
    let judgement = workload.stop().await?;
    println!("{:?}", judgement.verify(&client).await?);
    ensure!(admin::consistent(&client).await? == 3, "three replicas");
    println!(
        "snapshot installed {:?} after the start; p50/p99 before {:.1}/{:.1} ms, during catch-up \
         {:.1}/{:.1} ms; longest pause {pause:?}",
        caught_up - started,
        percentile_ms(&before, 5000),
        percentile_ms(&before, 9900),
        percentile_ms(&during, 5000),
        percentile_ms(&during, 9900),
    );
    ensure!(pause <= PAUSE_LIMIT, "writes paused for {pause:?}");
    cluster.finish(PEER_LOST).await
}
