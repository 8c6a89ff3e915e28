//! Versions that are held are kept, and no longer.

use anyhow::{Context as _, Result, ensure};
use rangedb_client::{Client, Error, RangeQuery, Version};
use rangedb_tests::{InProcess, admin, wait};
use std::time::Duration;

const RETENTION: Duration = Duration::from_secs(10);
const REMOVED_LIMIT: Duration = Duration::from_secs(40);

/// Waits until a read at this version is refused; all the while `other` must be readable.
async fn gone(client: &Client, version: Version, other: Version) -> Result<()> {
    wait::until("the version is gone", REMOVED_LIMIT, async || {
        client.put("k", "again").await?;
        let kept = client.get_at("k", other).await?.context("what is held is there")?;
        ensure!(&kept.value[..] == b"held", "{kept:?}");
        match client.get_at("k", version).await {
            Err(Error::Invalid { .. }) => Ok(()),
            found => anyhow::bail!("{found:?}"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_version_is_read_long_after_the_retention() -> Result<()> {
    let cluster = InProcess::start(1, 3, 2).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    for name in ["gc_retention", "transaction_lifetime_max"] {
        admin::set_config(&client, name, &format!("{}s", RETENTION.as_secs())).await?;
    }
    let early = client.put("k", "early").await?;
    client.put("k", "held").await?;
    let held = client.hold_now("a test").await?;
    client.put("k", "later").await?;
    gone(&client, early, held.version()).await?;
    wait::let_run(RETENTION / 2).await;
    let entries = client.range(RangeQuery::all().at(held.version())).await?;
    let entries: Vec<_> = futures::TryStreamExt::try_collect(entries).await?;
    ensure!(entries.len() == 1 && &entries[0].value[..] == b"held", "{entries:?}");
    let late = client.hold_version(early, "too late").await;
    ensure!(matches!(late, Err(Error::Invalid { .. })), "{late:?}");
    let version = held.version();
    held.release().await?;
    wait::until("it is gone", REMOVED_LIMIT, async || {
        client.put("k", "again").await?;
        ensure!(matches!(client.get_at("k", version).await, Err(Error::Invalid { .. })));
        Ok(())
    })
    .await?;
    cluster.finish(&[]).await
}
