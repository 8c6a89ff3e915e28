//! Placement's leader dies, and then all of placement.

use anyhow::{Context as _, Result, ensure};
use rangedb_client::{Options, RetryAdvice};
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::workload::{Plan, summary};
use rangedb_tests::{Processes, Shape, Workload, admin, rounds, seed, wait};
use std::time::{Duration, Instant};

const RESUME_LIMIT: Duration = Duration::from_secs(5);
/// After the return of all of placement; its own election and start are part of it.
const RETURN_LIMIT: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(30);
const CALM: Duration = Duration::from_secs(1);
/// A read while placement is away may take this long.
const READ_LIMIT: Duration = Duration::from_millis(1000);

#[tokio::test(flavor = "multi_thread")]
async fn time_never_goes_back_when_placements_leader_is_killed() -> Result<()> {
    let mut cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    client.put("known", "v").await?;
    let workload = Workload::start(&cluster.endpoints(), Plan::new(seed())).await?;
    let mut times = Vec::new();
    let mut reads = Vec::new();
    for _ in 0..rounds(3) {
        wait::let_run(CALM).await;
        let leader = admin::placement_leader(&client).await?;
        let member = cluster.placement.iter_mut().find(|member| member.grpc == leader);
        let member = member.with_context(|| leader.clone())?;
        let killed = Instant::now();
        member.kill()?;
        for _ in 0..20 {
            let begun = Instant::now();
            client.get("known").await?.context("reads of known ranges go on")?;
            reads.push(begun.elapsed());
        }
        times.push(workload.resumed(killed, PATIENCE).await?.last);
        member.start()?;
        member.ready().await?;
    }
    let judgement = workload.stop().await?;
    // Versions against real time are a part of the judgement.
    println!("{:?}", judgement.verify(&client).await?);
    println!("{}", summary("writes resumed after placement's leader was killed", &times));
    println!("{}", summary("reads meanwhile", &reads));
    ensure!(times.iter().all(|time| *time <= RESUME_LIMIT), "{times:?}");
    ensure!(reads.iter().all(|time| *time <= READ_LIMIT), "{reads:?}");
    cluster.finish(PEER_LOST).await
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_and_writes_wait_while_all_of_placement_is_down() -> Result<()> {
    let mut cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    let version = client.put("known", "v").await?;
    let workload = Workload::start(&cluster.endpoints(), Plan::new(seed())).await?;
    wait::let_run(CALM).await;
    for member in &mut cluster.placement {
        member.kill()?;
    }
    let mut reads = Vec::new();
    for _ in 0..50 {
        let begun = Instant::now();
        let found = client.get("known").await?.context("linearizable reads go on")?;
        ensure!(found.version == version);
        reads.push(begun.elapsed());
    }
    let options = Options { timeout: Duration::from_secs(2), ..Options::default() };
    let hasty = rangedb_client::Client::connect_with(cluster.endpoints(), options).await?;
    let begun = Instant::now();
    let refused = hasty.put("unknown", "v").await;
    let took = begun.elapsed();
    let Err(error) = refused else { anyhow::bail!("a write without a timestamp") };
    ensure!(error.retry_advice() == RetryAdvice::Safe, "nothing was applied: {error}");
    ensure!((1500..3500).contains(&took.as_millis()), "not at its deadline: {took:?}");

    let returned = Instant::now();
    for member in &mut cluster.placement {
        member.start()?;
    }
    for member in &mut cluster.placement {
        member.ready().await?;
    }
    let ready = Instant::now();
    let resumed = workload.resumed(returned, PATIENCE).await?.last;
    println!("{}", summary("reads while placement was down", &reads));
    println!(
        "writes resumed {resumed:?} after the start of placement, which was ready after {:?}",
        ready - returned
    );
    ensure!(resumed <= RETURN_LIMIT, "{resumed:?}");
    ensure!(reads.iter().all(|time| *time <= READ_LIMIT), "{reads:?}");
    let judgement = workload.stop().await?;
    println!("{:?}", judgement.verify(&client).await?);
    cluster.finish(PEER_LOST).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_restart_while_placement_is_down_find_each_other() -> Result<()> {
    let mut cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    let version = client.put("known", "v").await?;
    for member in &mut cluster.placement {
        member.kill()?;
    }
    // One alone has no quorum: the other two must find each other, or the third.
    for node in &mut cluster.nodes[..2] {
        node.kill()?;
    }
    for node in &mut cluster.nodes[..2] {
        node.start()?;
    }
    let begun = Instant::now();
    let found = wait::until("reads resume", PATIENCE, async || {
        client.get("known").await?.context("it was acknowledged")
    });
    ensure!(found.await?.version == version);
    println!("reads resumed after {:?}", begun.elapsed());
    for member in &mut cluster.placement {
        member.start()?;
    }
    cluster.ready().await?;
    client.put("known", "w").await?;
    cluster.finish(PEER_LOST).await
}
