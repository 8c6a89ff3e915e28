//! Random transactions at every level, while the cluster is hurt: what they saw is judged by the
//! checker in `rangedb_tests::isolation`.
//!
//! All modes run side by side on one cluster, each on keys of its own. A broken promise leaves the
//! whole history in the cluster's folder, which is kept.

mod attempt;
mod workload;
mod world;

use crate::chaos;
use anyhow::{Context as _, Result, ensure};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rangedb_client::{Client, Isolation, Options};
use rangedb_tests::admin::{split_at, whole};
use rangedb_tests::isolation::{Anomaly, Level, Transaction, check};
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::{Processes, Shape, admin, rounds, seed};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use world::{Mode, World};

/// Clients of each mode.
const CLIENTS: u32 = 16;
/// Events that continuous integration has time for; the full figure is 240 (ten minutes).
const EVENTS: usize = 7;
/// How long the last looks may take in spite of all that happened.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// How long a client of the workload waits for one call. Short, so that some outcomes stay unknown.
const PATIENCE: Duration = Duration::from_secs(3);
/// The client of the last look at everything.
const LAST: u32 = CLIENTS;

const MODES: [Mode; 5] = [
    Mode { name: "read_committed", isolation: Isolation::ReadCommitted, pessimistic: false },
    Mode { name: "snapshot", isolation: Isolation::Snapshot, pessimistic: false },
    Mode { name: "serializable", isolation: Isolation::Serializable, pessimistic: false },
    Mode { name: "snapshot_pessimistic", isolation: Isolation::Snapshot, pessimistic: true },
    Mode {
        name: "serializable_pessimistic",
        isolation: Isolation::Serializable,
        pessimistic: true,
    },
];

const fn level(isolation: Isolation) -> Level {
    match isolation {
        Isolation::ReadCommitted => Level::ReadCommitted,
        Isolation::Snapshot => Level::Snapshot,
        Isolation::Serializable => Level::Serializable,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_level_shows_what_it_forbids() -> Result<()> {
    let shape = Shape { nodes: 4, gateways: 3, ..Shape::default() };
    let mut cluster = Processes::start(shape).await?;
    cluster.replicated().await?;
    let options = Options { timeout: CALL_LIMIT, ..Options::default() };
    let client = Client::connect_with(cluster.endpoints(), options).await?;
    admin::set_config(&client, "range_merge_size", "0B").await?;
    // Old versions go while it runs.
    admin::set_config(&client, "gc_retention", "10s").await?;
    admin::set_config(&client, "transaction_lifetime_max", "10s").await?;
    let seed = seed();
    let (start, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let worlds = MODES.map(|mode| Arc::new(World::new(mode, start, &stop)));
    for world in &worlds {
        for key in world.borders() {
            split_at(&client, key.as_bytes()).await?;
        }
    }
    let mut running = Vec::new();
    for (at, world) in worlds.iter().enumerate() {
        let mut tasks = Vec::new();
        for process in 0..CLIENTS {
            let mut endpoints = cluster.endpoints();
            let turn = process as usize % endpoints.len();
            endpoints.rotate_left(turn);
            let hasty = Options { timeout: PATIENCE, ..options };
            let client = Client::connect_with(endpoints, hasty).await?;
            let random = StdRng::seed_from_u64(seed ^ ((at as u64) << 32) ^ u64::from(process));
            tasks.push(tokio::spawn(workload::run(Arc::clone(world), client, process, random)));
        }
        running.push(tasks);
    }
    let keys: Vec<String> = worlds.iter().flat_map(|world| world.some_keys()).collect();
    let mut random = StdRng::seed_from_u64(seed);
    chaos::strike(&mut cluster, &client, &mut random, rounds(EVENTS), &keys).await?;
    stop.store(true, Ordering::Relaxed);
    let mut broken = String::new();
    for (world, tasks) in worlds.iter().zip(running) {
        let mut history = Vec::new();
        for task in tasks {
            history.extend(task.await?.context(world.mode.name)?);
        }
        history.push(workload::look_at_all(world, &client, LAST).await?);
        broken.push_str(&judge(world.mode, &history, cluster.folder())?);
    }
    ensure!(broken.is_empty(), "{broken}");
    whole(&client).await?;
    admin::consistent(&client).await?;
    cluster.finish(PEER_LOST).await
}

/// What is wrong with the history of a mode, in words.
fn judge(mode: Mode, history: &[Transaction], folder: &Path) -> Result<String> {
    let report = check(history);
    let slowest = history.iter().map(|txn| txn.ended - txn.begun).max().unwrap_or_default();
    let slowest = Duration::from_micros(slowest);
    ensure!(report.statistics.committed > 0, "{}: nothing was committed", mode.name);
    println!("{}: {report}; the slowest took {slowest:?}", mode.name);
    let mut broken = report.broken(level(mode.isolation)).unwrap_or_default();
    if let Some(missing) = expected(mode).into_iter().find(|kind| report.count(*kind) == 0) {
        // A checker or a workload that finds nothing proves nothing.
        write!(broken, "no {missing} came about")?;
    }
    if broken.is_empty() {
        return Ok(broken);
    }
    let path = folder.join(format!("history-{}.txt", mode.name));
    let lines = history.iter().enumerate().map(|(at, txn)| format!("T{at}: {txn}\n"));
    std::fs::write(&path, lines.collect::<String>())?;
    Ok(format!("{}, see {}:\n{broken}\n", mode.name, path.display()))
}

/// What a level allows and the workload is made to bring about.
fn expected(mode: Mode) -> Vec<Anomaly> {
    match mode.isolation {
        Isolation::ReadCommitted => vec![Anomaly::LostUpdate],
        Isolation::Snapshot if mode.pessimistic => vec![Anomaly::G2Item],
        Isolation::Snapshot => vec![Anomaly::G2Item, Anomaly::G2],
        Isolation::Serializable => Vec::new(),
    }
}
