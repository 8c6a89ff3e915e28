//! The power of all storage nodes fails at the same moment.
//!
//! What the Raft log did not sync is gone. The data stores, whose own logs are not synced at every
//! write, fall back to what they were before the workload began, which is worse than any power cut:
//! everything acknowledged must come back from the Raft logs alone.

use anyhow::{Result, bail, ensure};
use rangedb_storage_node::raft_log::fault::{SyncBehaviour, Unsynced};
use rangedb_tests::in_process::copy_folder;
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::workload::Plan;
use rangedb_tests::{InProcess, Workload, admin, rounds, seed, wait};
use std::time::{Duration, Instant};

const NODES: usize = 3;
/// Acknowledged writes before the power fails.
const WRITES: usize = 1500;
const WRITES_LIMIT: Duration = Duration::from_secs(60);
/// After the power is back. A cluster that lost what it needs never serves: then this is waited.
const SERVE_LIMIT: Duration = Duration::from_secs(30);

/// What nodes say whose disks are gone, and when they find torn ends after it.
const POWER_LOST: &[&str] = &[
    "the power is off",
    "the file was open when the power went off",
    "Truncating log file due to broken batch",
];

/// What became of a cluster after a power cut.
enum After {
    /// It serves, with these broken promises.
    Serves(Vec<String>),
    /// It noticed that something is missing, and does not serve.
    Refuses(anyhow::Error),
}

/// Runs a workload and cuts the power in its middle.
async fn after_a_power_cut(seed: u64, sync: SyncBehaviour, unsynced: Unsynced) -> Result<After> {
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
    Ok(match judge(cluster, workload, cut).await {
        Ok(broken) => After::Serves(broken),
        Err(error) => After::Refuses(error),
    })
}

/// Starts the nodes again and compares what they hold with what they promised.
async fn judge(mut cluster: InProcess, workload: Workload, cut: Instant) -> Result<Vec<String>> {
    for index in 0..NODES {
        cluster.start_node(index).await?;
    }
    cluster.ready().await?;
    let resumed = workload.resumed(cut, SERVE_LIMIT).await?;
    let judgement = workload.stop().await?;
    let client = cluster.client().await?;
    let broken = judgement.broken_promises(&client).await?;
    println!("{} broken promises; writes went on {:?} after the cut", broken.len(), resumed.last);
    if broken.is_empty() {
        println!("{:?}", judgement.verify(&client).await?);
        ensure!(admin::consistent(&client).await? == NODES, "{NODES} replicas");
        cluster.finish(&[PEER_LOST, POWER_LOST].concat()).await?;
    }
    Ok(broken)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_of_all_nodes_loses_nothing_acknowledged() -> Result<()> {
    for round in 0..rounds(2) {
        let seed = seed().wrapping_add(round as u64);
        // Every other time the writes that were under way are torn instead of gone.
        let unsynced = if round % 2 == 0 { Unsynced::Lost } else { Unsynced::Torn { seed } };
        match after_a_power_cut(seed, SyncBehaviour::Honest, unsynced).await? {
            After::Serves(broken) if broken.is_empty() => {}
            After::Serves(broken) => bail!("round {round}, {unsynced:?}: {broken:#?}"),
            After::Refuses(error) => {
                return Err(error.context(format!("round {round}, {unsynced:?}")));
            }
        }
    }
    Ok(())
}

/// The test above proves something only if it fails where nothing is synced.
#[tokio::test(flavor = "multi_thread")]
async fn without_syncs_the_same_power_cut_is_noticed() -> Result<()> {
    match after_a_power_cut(seed(), SyncBehaviour::Lies, Unsynced::Lost).await? {
        After::Serves(broken) => ensure!(!broken.is_empty(), "a disk that lies lost nothing"),
        After::Refuses(error) => println!("the cluster refuses to serve: {error:#}"),
    }
    Ok(())
}
