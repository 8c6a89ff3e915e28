//! What each isolation level allows, and what it forbids.

use anyhow::{Result, ensure};
use rangedb_client::{Client, Error, Isolation, TransactionOptions};
use rangedb_tests::InProcess;

async fn cluster() -> Result<(InProcess, Client)> {
    // The two keys lie in different ranges.
    let (cluster, client) = InProcess::cut_at(2, &["m"]).await?;
    client.put("a", "1").await?;
    client.put("z", "1").await?;
    Ok((cluster, client))
}

fn at(isolation: Isolation) -> TransactionOptions {
    TransactionOptions { isolation, ..TransactionOptions::default() }
}

/// Both see that two are on call, and each goes off.
async fn both_leave(client: &Client, isolation: Isolation) -> Result<Vec<Result<(), Error>>> {
    let first = client.begin(at(isolation)).await?;
    let second = client.begin(at(isolation)).await?;
    for txn in [&first, &second] {
        let on_call = txn.get_many(["a", "z"]).await?;
        ensure!(on_call.iter().all(|value| value.as_deref() == Some(b"1")), "{on_call:?}");
    }
    first.put("a", "0");
    second.put("z", "0");
    Ok(vec![first.commit().await.map(|_| ()), second.commit().await.map(|_| ())])
}

#[tokio::test(flavor = "multi_thread")]
async fn write_skew_is_allowed_by_snapshots_and_forbidden_by_serializable() -> Result<()> {
    let (cluster, client) = cluster().await?;
    let ended = both_leave(&client, Isolation::Snapshot).await?;
    ensure!(ended.iter().all(Result::is_ok), "snapshots do not see it: {ended:?}");
    client.put("a", "1").await?;
    client.put("z", "1").await?;
    let ended = both_leave(&client, Isolation::Serializable).await?;
    ensure!(ended[0].is_ok(), "{ended:?}");
    ensure!(matches!(ended[1], Err(Error::Conflict { .. })), "{ended:?}");
    cluster.finish(&[]).await
}
