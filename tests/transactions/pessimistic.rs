//! Pessimistic transactions by the SDK and by the program.

use anyhow::{Context as _, Result, ensure};
use rangedb_client::{Error, Isolation, Options, RangeQuery, TransactionOptions};
use rangedb_tests::InProcess;
use rangedb_tests::child::{Ended, run_with_state};
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);
/// Of what a pessimistic transaction holds, without a renewal.
const LIFETIME: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_holds_what_it_took_and_sees_what_it_wrote() -> Result<()> {
    let (cluster, client) = InProcess::cut_at(2, &["m"]).await?;
    client.put("a", "1").await?;
    client.put("z", "1").await?;
    let txn = client.begin_pessimistic(TransactionOptions::default()).await?;
    ensure!(txn.get_for_update("a").await?.as_deref() == Some(&b"1"[..]));
    txn.put("b", "new").await?;
    txn.delete("z").await?;
    ensure!(txn.get("z").await?.is_none(), "it sees that it removed it");
    let seen = txn.range(RangeQuery::all()).await?;
    let keys: Vec<_> = seen.iter().map(|entry| &entry.key[..]).collect();
    ensure!(keys == [b"a", b"b"], "{keys:?}");
    let last = txn.range(RangeQuery::all().reverse().limit(1)).await?;
    ensure!(&last[0].key[..] == b"b", "{last:?}");
    // Others pass over what is not committed, and wait to write.
    ensure!(client.get("z").await?.is_some() && client.get("b").await?.is_none());
    let other = client.clone();
    let waiting = tokio::spawn(async move { other.put("a", "2").await });
    // It goes on elsewhere.
    let saved = txn.save();
    drop(txn);
    let txn = client.resume_pessimistic(saved);
    let version = txn.commit().await?;
    let after = waiting.await??;
    ensure!(after > version, "{after} after {version}");
    ensure!(client.get("z").await?.is_none());
    ensure!(client.get("b").await?.context("it was committed")?.version == version);
    let again = txn.commit().await;
    ensure!(matches!(again, Err(Error::Invalid { .. })), "{again:?}");
    cluster.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_the_same_time_lose_nothing() -> Result<()> {
    let (cluster, client) = InProcess::cut_at(2, &["m"]).await?;
    client.put("r", "1").await?;
    let txn = client.begin_pessimistic(TransactionOptions::default()).await?;
    let (a, b, y, r) =
        tokio::join!(txn.put("a", "1"), txn.put("b", "1"), txn.put("y", "1"), txn.get("r"));
    a?;
    b?;
    y?;
    ensure!(r?.as_deref() == Some(&b"1"[..]));
    let version = txn.commit().await?;
    for key in ["a", "b", "y"] {
        let found = client.get(key).await?.context("it was acknowledged")?;
        ensure!(found.version == version, "{key}: {found:?}, committed at {version}");
    }
    cluster.finish(&[]).await
}

/// What a call that failed has taken is not known: it is repeated, or all is given up.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_call_that_failed_nothing_else_is_done() -> Result<()> {
    let (cluster, client) = InProcess::cut_at(2, &["m"]).await?;
    let hasty = Options { timeout: Duration::from_millis(400), ..Options::default() };
    let hasty = rangedb_client::Client::connect_with(cluster.endpoints(), hasty).await?;
    let holder = client.begin_pessimistic(TransactionOptions::default()).await?;
    holder.put("k", "1").await?;
    let txn = hasty.begin_pessimistic(TransactionOptions::default()).await?;
    txn.put("a", "2").await?;
    let failed = txn.put("k", "2").await;
    ensure!(failed.is_err(), "the key is taken");
    let (other, committed) = (txn.put("b", "2").await, txn.commit().await);
    ensure!(matches!(other, Err(Error::Invalid { .. })), "{other:?}");
    ensure!(matches!(committed, Err(Error::Invalid { .. })), "{committed:?}");
    holder.commit().await?;
    // Also elsewhere.
    let txn = hasty.resume_pessimistic(txn.save());
    let other = txn.delete("k").await;
    ensure!(matches!(other, Err(Error::Invalid { .. })), "{other:?}");
    txn.put("k", "2").await?;
    txn.put("b", "2").await?;
    let version = txn.commit().await?;
    for key in ["a", "b", "k"] {
        let found = client.get(key).await?.context("it was acknowledged")?;
        ensure!(found.version == version, "{key}: {found:?}, committed at {version}");
    }
    cluster.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_and_not_taken_is_checked_by_serializable() -> Result<()> {
    let (cluster, client) = InProcess::cut_at(2, &["m"]).await?;
    let options =
        TransactionOptions { isolation: Isolation::Serializable, ..TransactionOptions::default() };
    for read_a_span in [false, true] {
        client.put("a", "1").await?;
        let txn = client.begin_pessimistic(options).await?;
        if read_a_span {
            txn.range(RangeQuery::between("a", "c")).await?;
        } else {
            txn.get("a").await?;
        }
        txn.put("z", "1").await?;
        client.put("a", "2").await?;
        let committed = txn.commit().await;
        ensure!(matches!(committed, Err(Error::Conflict { .. })), "{committed:?}");
        ensure!(client.get("z").await?.is_none());
    }
    cluster.finish(&[]).await
}

/// Nobody commits it, nobody rolls it back, nobody renews it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_client_held_is_free_within_its_lifetime() -> Result<()> {
    let (cluster, client) = InProcess::cut_at(2, &["m"]).await?;
    let txn = client.begin_pessimistic(TransactionOptions::default()).await?;
    txn.put("a", "dead").await?;
    txn.put("z", "dead").await?;
    drop(txn);
    let begun = Instant::now();
    let patient = client.with_timeout(LIMIT);
    patient.put("z", "alive").await?;
    patient.put("a", "alive").await?;
    println!("free after {:?}", begun.elapsed());
    ensure!(begun.elapsed() < LIFETIME + Duration::from_secs(5), "{:?}", begun.elapsed());
    for key in ["a", "z"] {
        let found = client.get(key).await?.context("it was written")?;
        ensure!(&found.value[..] == b"alive", "{key}: {found:?}");
    }
    cluster.finish(&[]).await
}

async fn program(endpoints: &str, home: &Path, words: &str) -> Result<Ended> {
    let mut arguments = vec!["--endpoints".to_owned(), endpoints.to_owned()];
    arguments.extend(words.split(' ').map(str::to_owned));
    run_with_state("rangedb-cli", &arguments, home, LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_keeps_a_transaction_between_its_calls() -> Result<()> {
    let (cluster, client) = InProcess::cut_at(2, &["m"]).await?;
    let home = tempfile::tempdir()?;
    let endpoints = cluster.endpoints().join(",");
    client.put("a", "1").await?;
    for begin in ["txn begin", "txn begin --pessimistic"] {
        let call = async |words: &str| program(&endpoints, home.path(), words).await;
        let begun = call(begin).await?;
        ensure!(begun.code == Some(0), "{begun:?}");
        for words in ["txn put b new", "txn delete a"] {
            let done = call(words).await?;
            ensure!(done.code == Some(0), "{words}: {done:?}");
        }
        let found = call("txn get b").await?;
        ensure!(found.stdout == "new\n", "{found:?}");
        let range = call("txn range a c").await?;
        ensure!(range.stdout == "b\tnew\n", "{range:?}");
        ensure!(client.get("b").await?.is_none(), "not committed yet");
        let committed = call("txn commit").await?;
        ensure!(committed.code == Some(0), "{committed:?}");
        let found = client.get("b").await?.context("it is committed")?;
        ensure!(committed.stdout.trim() == found.version.0.to_string(), "{committed:?}");
        let over = call("txn commit").await?;
        ensure!(over.code == Some(2), "{over:?}");
        client.delete("b").await?;
        client.put("a", "1").await?;
    }
    cluster.finish(&[]).await
}
