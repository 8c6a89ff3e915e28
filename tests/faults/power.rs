//! The power of all storage nodes fails at the same moment.
//!
//! What the Raft log did not sync is gone. The data stores, whose own logs are not synced at every
//! write, fall back to what they were before the workload began, which is worse than any power cut:
//! everything acknowledged must come back from the Raft logs alone.

use anyhow::{Result, ensure};
use rangedb_storage_node::raft_log::fault::{SyncBehaviour, Unsynced};
use rangedb_tests::in_process::copy_folder;
use rangedb_tests::workload::Plan;
use rangedb_tests::{InProcess, Workload, admin, rounds, seed, wait};
use std::time::{Duration, Instant};

const NODES: usize = 3;
/// Acknowledged writes before the power fails.
const WRITES: usize = 1500;
const WRITES_LIMIT: Duration = Duration::from_secs(60);
/// Words of nodes whose disks are gone.
const EXPECTED: [&str; 0] = [];

/// Runs a workload, cuts the power in its middle, and gives the promises that were broken.
async fn broken_by_a_power_cut(
    seed: u64,
    sync: SyncBehaviour,
    unsynced: Unsynced,
) -> Result<Vec<String>> {
    let mut cluster = InProcess::start(1, NODES, 1).await?;
    cluster.replicated().await?;
    let saved = tempfile::tempdir()?;
    for index in 0..NODES {
        // Closed cleanly: what is copied is a whole data store.
        cluster.stop_node(index).await?;
    }
    for index in 0..NODES {
        copy_folder(&cluster.nodes[index].engine_folder(), &saved.path().join(index.to_string()))?;
        cluster.nodes[index].disk.set_sync(sync);
        cluster.start_node(index).await?;
    }
    cluster.ready().await?;

    let plan = Plan { readers: 0, ..Plan::new(seed) };
    let workload = Workload::start(&cluster.endpoints(), plan).await?;
    wait::until("enough was written", WRITES_LIMIT, async || {
        ensure!(workload.acknowledged() > WRITES, "{} writes", workload.acknowledged());
        Ok(())
    })
    .await?;
    let cut = Instant::now();
    cluster.power_off().await?;
    for index in 0..NODES {
        let engine = cluster.nodes[index].engine_folder();
        std::fs::remove_dir_all(&engine)?;
        copy_folder(&saved.path().join(index.to_string()), &engine)?;
        cluster.nodes[index].disk.set_sync(SyncBehaviour::Honest);
    }
    cluster.power_on(unsynced)?;
    for index in 0..NODES {
        cluster.start_node(index).await?;
    }
    cluster.ready().await?;
    let resumed = workload.resumed(cut, WRITES_LIMIT).await?;
    let judgement = workload.stop().await?;
    let client = cluster.client().await?;
    let broken = judgement.broken_promises(&client).await?;
    eprintln!("{} broken promises; writes went on {:?} after the cut", broken.len(), resumed.last);
    if broken.is_empty() {
        judgement.verify(&client).await?;
        ensure!(admin::consistent(&client).await? == NODES, "{NODES} replicas");
        cluster.finish(&EXPECTED).await?;
    }
    Ok(broken)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_of_all_nodes_loses_nothing_acknowledged() -> Result<()> {
    for round in 0..rounds(2) {
        let seed = seed().wrapping_add(round as u64);
        // Every other time the writes that were under way are torn instead of gone.
        let unsynced = if round % 2 == 0 { Unsynced::Lost } else { Unsynced::Torn { seed } };
        let broken = broken_by_a_power_cut(seed, SyncBehaviour::Honest, unsynced).await?;
        ensure!(broken.is_empty(), "round {round}, {unsynced:?}: {broken:#?}");
    }
    Ok(())
}

/// The test above proves something only if it fails where nothing is synced.
#[tokio::test(flavor = "multi_thread")]
async fn without_syncs_the_same_power_cut_is_noticed() -> Result<()> {
    // Either promises are broken, or the nodes notice that their logs are damaged and do not serve.
    match broken_by_a_power_cut(seed(), SyncBehaviour::Lies, Unsynced::Lost).await {
        Ok(broken) => ensure!(!broken.is_empty(), "a disk that lies lost nothing"),
        Err(error) => println!("the cluster does not serve what it lost: {error:#}"),
    }
    Ok(())
}
