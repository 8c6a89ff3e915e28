//! A disk that is full: what was acknowledged is kept, the end is clear, and space heals it.
//!
//! A limit on the size of files stands for the disk: it works everywhere, and as on a full disk the
//! write fails in the middle.

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use rangedb_client::Options;
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::{Processes, Shape, wait};
use std::time::Duration;

const SHAPE: Shape = Shape { placement: 1, nodes: 1, gateways: 1, node_settings: String::new() };
/// Reached by the Raft log first: it holds everything once more.
const SPACE_BYTES: u64 = 4 << 20;
const VALUE_BYTES: usize = 64 << 10;
const WRITES_A_ROUND: usize = 16;
const ROUNDS_MAX: usize = 64;
const LIMIT: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing_and_says_what_to_do() -> Result<()> {
    let mut cluster = Processes::start(SHAPE).await?;
    let options = Options { timeout: Duration::from_secs(2), ..Options::default() };
    let client = rangedb_client::Client::connect_with(cluster.endpoints(), options).await?;
    client.put("before", "v").await?;
    cluster.nodes[0].child()?.limit_files(Some(SPACE_BYTES))?;

    let mut acknowledged = vec![];
    let mut refused = None;
    for round in 0..ROUNDS_MAX {
        let writes = (0..WRITES_A_ROUND).map(|number| {
            let client = &client;
            async move {
                let key = format!("{round}/{number}");
                let put = client.put(key.clone(), vec![round as u8; VALUE_BYTES]).await;
                (key, put)
            }
        });
        for (key, put) in join_all(writes).await {
            match put {
                Ok(version) => acknowledged.push((key, round as u8, version)),
                Err(error) => refused = Some(error.to_string()),
            }
        }
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.context("the disk was never full")?;
    eprintln!("{} writes, then: {refused}", acknowledged.len());
    cluster.nodes[0].failed(LIMIT).await?;
    let line = last_words(&cluster)?;
    eprintln!("{line}");
    for words in ["raft log", &*cluster.nodes[0].data_dir.display().to_string(), "start"] {
        ensure!(line.contains(words), "`{words}` is not in: {line}");
    }

    // Space is back.
    cluster.nodes[0].start()?;
    cluster.ready().await?;
    wait::until("it serves again", LIMIT, async || Ok(client.put("after", "v").await?)).await?;
    ensure!(client.get("before").await?.is_some(), "lost");
    ensure!(!acknowledged.is_empty(), "there was space for something");
    for (key, byte, version) in acknowledged {
        let found = client.get(key.clone()).await?.with_context(|| format!("{key} is lost"))?;
        ensure!(found.version == version, "{key}");
        ensure!(found.value.len() == VALUE_BYTES && found.value.iter().all(|found| *found == byte));
    }
    let allowed = ["raft log", "rangedb-storage-node: ", "fatal", "log file allocation failed"];
    cluster.finish(&[PEER_LOST, &allowed].concat()).await
}

fn last_words(cluster: &Processes) -> Result<String> {
    let log = std::fs::read_to_string(&cluster.nodes[0].log)?;
    ensure!(!log.contains("panicked"), "it panicked: {log}");
    let mut lines = log.lines().filter(|line| line.starts_with("rangedb-storage-node: "));
    Ok(lines.next_back().context("no last words")?.to_owned())
}
