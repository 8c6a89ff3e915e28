//! What waits for locks, and how such waits end.

use anyhow::{Context as _, Result, ensure};
use rangedb_client::proto::PutRequest;
use rangedb_client::proto::RequestContext;
use rangedb_client::proto::error_detail::Kind;
use rangedb_client::proto::key_value_client::KeyValueClient;
use rangedb_client::{Client, Error, PessimisticTransaction, TransactionOptions};
use rangedb_proto::error::detail_of;
use rangedb_tests::{InProcess, wait};
use std::time::{Duration, Instant};
use tonic::{Request, Status};

/// Longer than the lifetime that a lock gets. Of each transaction only the first lock is renewed.
const OLD: Duration = Duration::from_secs(12);
/// How long two wait for each other at most: far less than either would alone.
const FOUND_LIMIT: Duration = Duration::from_secs(5);
/// What either would wait alone is half of it.
const CALL_LIMIT: Duration = Duration::from_secs(30);

async fn two(client: &Client) -> Result<[PessimisticTransaction; 2]> {
    let options = TransactionOptions::default();
    Ok([client.begin_pessimistic(options).await?, client.begin_pessimistic(options).await?])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_is_found_through_old_locks_and_its_victim_holds_nothing() -> Result<()> {
    let (cluster, client) = InProcess::cut_at(2, &["m"]).await?;
    let [older, younger] = two(&client.with_timeout(CALL_LIMIT)).await?;
    for key in ["b", "a"] {
        older.put(key, "older").await?;
    }
    for key in ["y", "z"] {
        younger.put(key, "younger").await?;
    }
    wait::let_run(OLD).await;
    let begun = Instant::now();
    // The victim's client does nothing about it.
    let (taken, lost) = tokio::join!(older.put("z", "older"), younger.put("a", "younger"));
    let took = begun.elapsed();
    println!("found after {took:?}: {taken:?}, {lost:?}");
    taken.context("the older one goes on")?;
    ensure!(matches!(lost, Err(Error::Conflict { .. })), "{lost:?}");
    ensure!(took < FOUND_LIMIT, "{took:?}");
    let version = older.commit().await?;
    for key in ["a", "b", "z"] {
        let found = client.get(key).await?.context("it was committed")?;
        ensure!(found.version == version && &found.value[..] == b"older", "{found:?}");
    }
    cluster.finish(&[]).await
}

/// The one wants what the other has taken, and the other what the one is about to commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_and_a_transaction_that_holds_keys_do_not_wait_for_each_other() -> Result<()> {
    let (cluster, client) = InProcess::cut_at(2, &["m"]).await?;
    let client = client.with_timeout(CALL_LIMIT);
    let options = TransactionOptions::default();
    for holder_is_older in [true, false] {
        let (holder, other) = if holder_is_older {
            let holder = client.begin_pessimistic(options).await?;
            (holder, client.begin(options).await?)
        } else {
            let other = client.begin(options).await?;
            (client.begin_pessimistic(options).await?, other)
        };
        holder.put("a", "holder").await?;
        other.put("a", "other");
        other.put("z", "other");
        let committing = tokio::spawn(async move { other.commit().await });
        // If it is the older one, it has its intent at one key by now and waits for the other; else it gave way.
        wait::let_run(Duration::from_millis(300)).await;
        let begun = Instant::now();
        let taken = holder.put("z", "holder").await;
        let held = match taken {
            Ok(()) => holder.commit().await,
            Err(error) => Err(error),
        };
        let committed = committing.await?;
        let took = begun.elapsed();
        println!("older: {holder_is_older}; {took:?}: {held:?}, {committed:?}");
        ensure!(held.is_ok() == holder_is_older, "{held:?}");
        ensure!(committed.is_ok() != holder_is_older, "{committed:?}");
        ensure!(took < FOUND_LIMIT, "{took:?}");
        let winner: &[u8] = if held.is_ok() { b"holder" } else { b"other" };
        for key in ["a", "z"] {
            let found = client.get(key).await?.context("it was committed")?;
            ensure!(found.value == winner, "{key}: {found:?}");
        }
    }
    cluster.finish(&[]).await
}

/// A first attempt that waited in vain did nothing. A repeated one cannot know what an earlier one did.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_put_that_meets_a_lock_is_not_called_undone() -> Result<()> {
    let (cluster, client) = InProcess::cut_at(2, &["m"]).await?;
    let holder = client.begin_pessimistic(TransactionOptions::default()).await?;
    holder.put("a", "held").await?;
    let address = format!("http://{}", cluster.endpoints()[0]);
    let keys = KeyValueClient::connect(address).await?;
    let put = async |retry: bool| -> Result<Status> {
        let context = RequestContext {
            request_id: vec![7; 16].into(),
            retry,
            seen_version: holder.id().0,
            ..RequestContext::default()
        };
        let (key, value) = ("a".into(), "late".into());
        let mut request = Request::new(PutRequest {
            key,
            value,
            context: Some(context),
            ..PutRequest::default()
        });
        request.set_timeout(Duration::from_secs(2));
        keys.clone().put(request).await.err().context("it is locked")
    };
    let kind = |status: &Status| detail_of(status).and_then(|detail| detail.kind);
    let first = put(false).await?;
    ensure!(!matches!(kind(&first), None | Some(Kind::OutcomeUnknown(_))), "{first:?}");
    let second = put(true).await?;
    ensure!(matches!(kind(&second), Some(Kind::OutcomeUnknown(_))), "{second:?}");
    holder.commit().await?;
    let found = client.get("a").await?.context("it was committed")?;
    ensure!(&found.value[..] == b"held", "{found:?}");
    cluster.finish(&[]).await
}
