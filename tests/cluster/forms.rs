//! Eight processes form a cluster, serve the whole interface, and keep everything over a restart.

use anyhow::{Context as _, Result, ensure};
use futures::TryStreamExt as _;
use futures::future::try_join_all;
use rangedb_client::{Client, Condition, Error, RangeQuery, Version, WriteId};
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::{Processes, Shape, admin};

const KEYS: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn eight_processes_serve_everything_and_keep_it_over_a_restart() -> Result<()> {
    let mut cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let (first, second) = (cluster.client_of(0).await?, cluster.client_of(1).await?);

    single_keys(&first, &second).await?;
    conditions(&first, &second).await?;
    let versions = many_keys_over_one_stream(&first, &second).await?;
    ranges(&second).await?;
    deleted_ranges(&first, &second).await?;
    commit_status(&first, &second).await?;
    let compared = admin::consistent(&first).await?;
    ensure!(compared >= 3, "{compared} replicas");

    for part in cluster.parts() {
        part.stop().await?;
    }
    for part in cluster.parts() {
        part.start()?;
    }
    cluster.ready().await?;
    let client = cluster.client().await?;
    for (number, version) in versions.iter().enumerate() {
        let found = client.get(key(number)).await?.with_context(|| key(number))?;
        ensure!(found.version == *version, "{}: {} is not {version}", key(number), found.version);
    }
    ensure!(client.get("deleted").await?.is_none(), "a deleted key is back");
    let version = client.put("after", "the restart").await?;
    ensure!(versions.iter().all(|old| *old < version), "time went back");
    ensure!(admin::consistent(&client).await? == 3, "three replicas");
    cluster.finish(PEER_LOST).await
}

fn key(number: usize) -> String {
    format!("key/{number:04}")
}

async fn single_keys(first: &Client, second: &Client) -> Result<()> {
    ensure!(first.get("a").await?.is_none());
    let written = first.put("a", "1").await?;
    let read = second.get("a").await?.context("just written")?;
    ensure!(read.value == "1" && read.version == written, "{read:?} is not of {written}");
    let again = second.put("a", "2").await?;
    ensure!(again > written);
    ensure!(first.get("a").await?.context("still there")?.value == "2");
    let deleted = first.delete("a").await?;
    ensure!(deleted > again);
    ensure!(second.get("a").await?.is_none());
    first.delete("never there").await?;
    first.put("deleted", "x").await?;
    second.delete("deleted").await?;
    let big = vec![7; 1 << 20];
    first.put("big", big.clone()).await?;
    ensure!(second.get("big").await?.context("written")?.value == big);
    first.put("empty", "").await?;
    ensure!(second.get("empty").await?.context("an empty value is one")?.value.is_empty());
    Ok(())
}

async fn conditions(first: &Client, second: &Client) -> Result<()> {
    let written = first.put_if("c", "1", Condition::Absent).await?;
    let Err(Error::ConditionFailed { current }) = second.put_if("c", "2", Condition::Absent).await
    else {
        anyhow::bail!("the key exists")
    };
    let current = current.context("the current value comes along")?;
    ensure!(current.value == "1" && current.version == written);
    let newer = second.put_if("c", "3", Condition::VersionIs(written)).await?;
    let stale = first.delete_if("c", Condition::VersionIs(written)).await;
    ensure!(matches!(stale, Err(Error::ConditionFailed { .. })), "{stale:?}");
    first.delete_if("c", Condition::VersionIs(newer)).await?;
    ensure!(second.get("c").await?.is_none());
    Ok(())
}

async fn many_keys_over_one_stream(first: &Client, second: &Client) -> Result<Vec<Version>> {
    let (writes, reads) = (first.pipeline(), second.pipeline());
    let written: Vec<Version> =
        try_join_all((0..KEYS).map(|number| writes.put(key(number), format!("v{number}")))).await?;
    let found = try_join_all((0..KEYS).map(|number| reads.get(key(number)))).await?;
    for (number, (version, found)) in written.iter().zip(found).enumerate() {
        let found = found.with_context(|| key(number))?;
        ensure!(found.value == format!("v{number}") && found.version == *version);
    }
    let few = reads.batch_get([key(3), "absent".to_owned(), key(1)]).await?;
    let values: Vec<_> = few.into_iter().map(|value| value.map(|value| value.value)).collect();
    ensure!(values == [Some("v3".into()), None, Some("v1".into())], "{values:?}");
    Ok(written)
}

async fn keys_of(client: &Client, query: RangeQuery) -> Result<Vec<String>> {
    let entries: Vec<_> = client.range(query).await?.try_collect().await?;
    let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    Ok(entries.iter().map(|entry| text(&entry.key)).collect())
}

async fn ranges(client: &Client) -> Result<()> {
    let all: Vec<String> = (0..KEYS).map(key).collect();
    ensure!(keys_of(client, RangeQuery::prefix("key/")).await? == all);
    let backwards: Vec<String> = all.iter().rev().take(10).cloned().collect();
    ensure!(keys_of(client, RangeQuery::prefix("key/").reverse().limit(10)).await? == backwards);
    let middle = RangeQuery::between(key(10), key(13));
    ensure!(keys_of(client, middle.clone()).await? == all[10..13]);
    let names: Vec<_> = client.range(middle.keys_only()).await?.try_collect().await?;
    ensure!(names.len() == 3 && names.iter().all(|entry| entry.value.is_empty()));
    Ok(())
}

async fn deleted_ranges(first: &Client, second: &Client) -> Result<()> {
    for number in 0..20 {
        first.put(format!("gone/{number}"), "x").await?;
    }
    second.delete_range("gone/", "gone0").await?;
    ensure!(keys_of(first, RangeQuery::prefix("gone/")).await?.is_empty());
    ensure!(first.get("gone/7").await?.is_none());
    first.put("gone/7", "back").await?;
    ensure!(keys_of(second, RangeQuery::prefix("gone/")).await? == ["gone/7"]);
    Ok(())
}

async fn commit_status(first: &Client, second: &Client) -> Result<()> {
    let never = WriteId::new(first.seen_version());
    ensure!(second.commit_status("status", never).await?.is_none());
    ensure!(first.commit_status("status", never).await?.is_none(), "the answer is for good");
    Ok(())
}
