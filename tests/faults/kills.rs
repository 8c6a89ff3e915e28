//! Every process is killed in its turn, under constant writes.

use anyhow::{Context as _, Result, ensure};
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::processes::Part;
use rangedb_tests::workload::{Plan, summary};
use rangedb_tests::{Processes, Shape, Workload, admin, rounds, seed, wait};
use std::time::{Duration, Instant};

/// Writes go on within this time after every kill.
const RESUME_LIMIT: Duration = Duration::from_secs(5);
/// How long a resumption is waited for before the test gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Every round begins with a healthy cluster that has served for this long.
const CALM: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_when_each_process_is_killed_in_turn() -> Result<()> {
    let mut cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let workload = Workload::start(&cluster.endpoints(), Plan::new(seed())).await?;
    let mut times = Vec::new();
    for round in 0..rounds(8) {
        wait::let_run(CALM).await;
        let victim = victim(&mut cluster, round).await?;
        let name = victim.name();
        let killed = Instant::now();
        victim.kill()?;
        let resumed = workload.resumed(killed, PATIENCE).await.with_context(|| name.clone())?;
        eprintln!("round {round}: {name} killed, writes resumed after {:?}", resumed.last);
        times.push((name, resumed.last));
        let part = cluster.parts().find(|part| !part.is_started()).context("it was killed")?;
        part.start()?;
        part.ready().await?;
    }
    let judgement = workload.stop().await?;
    let client = cluster.client().await?;
    let judged = judgement.verify(&client).await?;
    cluster.replicated().await?;
    ensure!(admin::consistent(&client).await? == 3, "three replicas");
    let durations: Vec<_> = times.iter().map(|(_, time)| *time).collect();
    println!("{judged:?}");
    println!("{}", summary("writes resumed after a kill", &durations));
    let slow: Vec<_> = times.iter().filter(|(_, time)| *time > RESUME_LIMIT).collect();
    ensure!(slow.is_empty(), "writes did not resume in {RESUME_LIMIT:?}: {slow:?}");
    cluster.finish(PEER_LOST).await
}

/// The leaders of ranges and of placement are killed as often as anybody, whoever they are.
async fn victim(cluster: &mut Processes, round: usize) -> Result<&mut Part> {
    let client = cluster.client().await?;
    let range = admin::ranges(&client).await?.into_iter().next().context("there is a range")?;
    let nodes = admin::nodes(&client).await?;
    let leader = nodes.iter().find(|node| node.node_id == range.leader_node_id);
    let leader = leader.map(|node| node.address.clone()).unwrap_or_default();
    let placement = admin::placement_leader(&client).await?;
    let mut parts: Vec<&mut Part> = cluster.parts().collect();
    parts.sort_by_key(|part| part.grpc != leader && part.grpc != placement);
    let index = round % parts.len();
    Ok(parts.swap_remove(index))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_in_the_middle_of_a_stream_loses_nothing() -> Result<()> {
    let mut cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let plan = Plan { pipeline: true, writers: 32, keys_per_writer: 4, ..Plan::new(seed()) };
    let workload = Workload::start(&cluster.endpoints(), plan).await?;
    let mut times = Vec::new();
    for round in 0..rounds(4) {
        wait::let_run(CALM).await;
        let gateway = &mut cluster.gateways[round % 2];
        let killed = Instant::now();
        gateway.kill()?;
        times.push(workload.resumed(killed, PATIENCE).await?.last);
        gateway.start()?;
        gateway.ready().await?;
    }
    let judgement = workload.stop().await?;
    println!("{:?}", judgement.verify(&cluster.client().await?).await?);
    println!("{}", summary("streams resumed after a gateway was killed", &times));
    ensure!(times.iter().all(|time| *time <= RESUME_LIMIT), "{times:?}");
    cluster.finish(PEER_LOST).await
}
