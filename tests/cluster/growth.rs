//! The first range is made once, and gets its copies as nodes join.

use anyhow::{Context as _, Result, ensure};
use rangedb_client::Client;
use rangedb_client::proto::WatchMetaRequest;
use rangedb_tests::{InProcess, admin, wait};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn five_nodes_that_start_together_make_one_first_range() -> Result<()> {
    let cluster = InProcess::start(3, 5, 1).await?;
    let client = cluster.client().await?;
    client.put("k", "v").await?;
    cluster.replicated().await?;
    let ranges = admin::ranges(&client).await?;
    ensure!(ranges.len() == 1, "{ranges:?}");
    ensure!(ranges[0].start.is_empty() && ranges[0].end.is_empty(), "{ranges:?}");
    let nodes = admin::nodes(&client).await?;
    ensure!(nodes.len() == 5, "{nodes:?}");
    wait::until("three of five nodes hold a replica", LIMIT, async || {
        let nodes = admin::nodes(&client).await?;
        let replicas: u64 = nodes.iter().map(|node| node.replicas).sum();
        ensure!(replicas == 3, "{nodes:?}");
        Ok(())
    })
    .await?;
    ensure!(admin::consistent(&client).await? == 3);
    cluster.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_copy_grows_to_three_through_learners_as_nodes_join() -> Result<()> {
    let mut cluster = InProcess::start(1, 1, 1).await?;
    let client = cluster.client().await?;
    for number in 0..500 {
        client.put(format!("before/{number}"), vec![1; 512]).await?;
    }
    admin::replicated(&client, 1).await?;
    let stop = CancellationToken::new();
    let watcher = tokio::spawn(watch_ranges(client.clone(), stop.clone()));
    cluster.add_node().await?;
    cluster.add_node().await?;
    admin::replicated(&client, 3).await?;
    stop.cancel();
    let seen = watcher.await??;
    for number in 0..500 {
        ensure!(client.get(format!("before/{number}")).await?.is_some(), "before/{number}");
    }
    ensure!(admin::consistent(&client).await? == 3, "three replicas");

    ensure!(seen.iter().any(|roles| count(roles, "learner") > 0), "no learner: {seen:?}");
    let grown = seen.iter().find(|roles| roles.len() > 1);
    ensure!(
        grown.is_some_and(|roles| count(roles, "learner") > 0),
        "not a learner first: {seen:?}"
    );
    ensure!(seen.iter().all(|roles| count(roles, "voter") >= 1), "no voter: {seen:?}");
    cluster.finish(&[]).await
}

/// The roles of the one range's replicas, at the start and after each change that placement notes.
async fn watch_ranges(client: Client, stop: CancellationToken) -> Result<Vec<Vec<String>>> {
    let request = WatchMetaRequest { prefix: "_/partitions/".to_owned(), from_revision: 0 };
    let mut events = client.admin().watch_meta(request).await?.into_inner();
    let mut seen = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(seen),
            event = events.message() => {
                let event = event?.context("the watch ended")?;
                let value = event.entry.context("an event has an entry")?.value;
                let range: serde_json::Value = serde_json::from_slice(&value)?;
                let replicas = range["replicas"].as_array().context("a range has replicas")?;
                let role = |replica: &serde_json::Value| replica["role"].to_string().to_lowercase();
                seen.push(replicas.iter().map(role).collect());
            }
        }
    }
}

fn count(roles: &[String], role: &str) -> usize {
    roles.iter().filter(|known| known.contains(role)).count()
}
