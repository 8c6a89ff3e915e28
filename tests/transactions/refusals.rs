//! What is refused, and what may be asked twice.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::stream;
use rangedb_client::proto::transaction_write::{Check, Want};
use rangedb_client::proto::transactions_client::TransactionsClient;
use rangedb_client::proto::{
    BeginRequest, CommitRequest, Isolation as Level, RollbackRequest, TransactionReads,
    TransactionWrite, error_detail::Kind,
};
use rangedb_client::{Client, Error, Isolation, TransactionOptions};
use rangedb_proto::error::detail_of;
use rangedb_tests::admin::split_at;
use rangedb_tests::{InProcess, admin, wait};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};

struct Cluster {
    cluster: InProcess,
    client: Client,
    /// One for each gateway.
    rpc: [TransactionsClient<Channel>; 2],
}

/// Two gateways, and two ranges that meet at `m`.
async fn start() -> Result<Cluster> {
    let cluster = InProcess::start(1, 3, 2).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    admin::set_config(&client, "range_merge_size", "0B").await?;
    split_at(&client, b"m").await?;
    let [first, second] = &cluster.endpoints()[..] else { anyhow::bail!("two gateways") };
    let connect = async |address: &str| -> Result<_> {
        Ok(TransactionsClient::connect(format!("http://{address}")).await?)
    };
    let rpc = [connect(first).await?, connect(second).await?];
    Ok(Cluster { cluster, client, rpc })
}

fn put(key: &'static str, value: &'static str) -> TransactionWrite {
    let want = Some(Want::Put(Bytes::from_static(value.as_bytes())));
    TransactionWrite { key: Bytes::from_static(key.as_bytes()), want }
}

impl Cluster {
    async fn begin(&self, isolation: Level) -> Result<(Bytes, u64)> {
        let request = BeginRequest { isolation: isolation.into(), ..Default::default() };
        let begun = self.rpc[0].clone().begin(request).await?.into_inner();
        Ok((begun.token, begun.id))
    }

    async fn commit(
        &self,
        gateway: usize,
        token: &Bytes,
        writes: Vec<TransactionWrite>,
        reads: Option<TransactionReads>,
    ) -> Result<u64, Status> {
        let message = CommitRequest { token: token.clone(), writes, reads };
        let answer = self.rpc[gateway].clone().commit(stream::iter([message])).await?;
        Ok(answer.into_inner().version)
    }

    async fn roll_back(&self, token: &Bytes, key: &'static str) -> Result<(), Status> {
        let request =
            RollbackRequest { token: token.clone(), key: Bytes::from_static(key.as_bytes()) };
        self.rpc[1].clone().rollback(request).await.map(|_| ())
    }
}

fn kind(status: &Status) -> Option<Kind> {
    detail_of(status).and_then(|detail| detail.kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_repeated_elsewhere_gives_the_first_ones_answer() -> Result<()> {
    let cluster = start().await?;
    for (keys, what) in [(["a", "b"], "one range"), (["a", "z"], "two ranges")] {
        let (token, id) = cluster.begin(Level::Snapshot).await?;
        let writes = || keys.iter().map(|key| put(key, "1")).collect::<Vec<_>>();
        let first = cluster.commit(0, &token, writes(), None).await?;
        let again = cluster.commit(1, &token, writes(), None).await?;
        ensure!(first == again, "{what}: {first}, then {again}");
        let told = cluster.client.transaction_status(rangedb_client::Version(id), "a").await?;
        ensure!(told.map(|version| version.0) == Some(first), "{what}: {told:?}");
        let late = cluster.roll_back(&token, "a").await.err().context("it is committed")?;
        ensure!(matches!(kind(&late), Some(Kind::TransactionCommitted(_))), "{late}");
    }
    // Two at once agree, too.
    let (token, _) = cluster.begin(Level::Snapshot).await?;
    let writes = || vec![put("c", "2"), put("y", "2")];
    let (first, second) = tokio::join!(
        cluster.commit(0, &token, writes(), None),
        cluster.commit(1, &token, writes(), None)
    );
    let (first, second) = (first?, second?);
    ensure!(first == second, "{first} and {second}");
    let found = cluster.client.get("y").await?.context("written")?;
    ensure!(found.version.0 == first, "{found:?}");
    cluster.cluster.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_and_nothing_is_applied() -> Result<()> {
    let cluster = start().await?;
    let (token, _) = cluster.begin(Level::Snapshot).await?;
    let mut forged = token.to_vec();
    forged[2] ^= 1;
    let refused = cluster.commit(0, &forged.into(), vec![put("a", "1")], None).await;
    ensure!(refused.as_ref().is_err_and(|s| s.code() == Code::InvalidArgument), "{refused:?}");

    let twice = vec![put("a", "1"), put("b", "1"), put("a", "2")];
    let refused = cluster.commit(0, &token, twice, None).await;
    ensure!(
        refused.as_ref().is_err_and(|s| s.message().contains("`a` is written twice")),
        "{refused:?}"
    );
    let (serializable, _) = cluster.begin(Level::Serializable).await?;
    let refused = cluster.commit(0, &serializable, vec![put("a", "1")], None).await;
    ensure!(refused.as_ref().is_err_and(|s| s.code() == Code::InvalidArgument), "{refused:?}");

    cluster.roll_back(&token, "a").await?;
    let late = cluster.commit(0, &token, vec![put("a", "1"), put("z", "1")], None).await;
    let late = late.err().context("it was rolled back")?;
    ensure!(matches!(kind(&late), Some(Kind::TransactionAborted(_))), "{late}");

    let options =
        TransactionOptions { timeout: Duration::from_millis(20), ..TransactionOptions::default() };
    let slow = cluster.client.begin(options).await?;
    slow.put("a", "1");
    wait::let_run(Duration::from_millis(100)).await;
    let expired = slow.commit().await;
    ensure!(matches!(expired, Err(Error::Conflict { .. })), "{expired:?}");
    let again = slow.commit().await;
    ensure!(matches!(again, Err(Error::Invalid { .. })), "{again:?}");

    let large = cluster.client.begin(TransactionOptions::default()).await?;
    let value = Bytes::from(vec![7; 1 << 20]);
    (0..65).for_each(|number| large.put(format!("large/{number:02}"), value.clone()));
    let refused = large.commit().await;
    ensure!(
        refused.as_ref().is_err_and(|error| error.to_string().contains("64 MiB")),
        "{refused:?}"
    );

    for key in ["a", "b", "z", "large/00"] {
        ensure!(cluster.client.get(key).await?.is_none(), "{key} was written");
    }
    cluster.cluster.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_only_checked_may_decide() -> Result<()> {
    let cluster = start().await?;
    let client = &cluster.client;
    for (level, reads) in
        [(Level::Snapshot, None), (Level::Serializable, Some(TransactionReads::default()))]
    {
        let (token, id) = cluster.begin(level).await?;
        let check = TransactionWrite { key: "a".into(), want: Some(Want::Check(Check {})) };
        let writes = vec![check, put("z", "1")];
        let version = cluster.commit(0, &token, writes.clone(), reads.clone()).await?;
        ensure!(cluster.commit(1, &token, writes, reads).await? == version, "another answer");
        let found = client.get("z").await?.context("z is written")?;
        ensure!(found.version.0 == version, "{found:?}, committed at {version}");
        let told = client.transaction_status(rangedb_client::Version(id), "a").await?;
        ensure!(told.map(|version| version.0) == Some(version), "{told:?}");
        ensure!(client.get("a").await?.is_none(), "a check writes nothing");
        client.put("a", "free").await?;
        client.delete("a").await?;
    }
    cluster.cluster.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_keys_are_written_as_one() -> Result<()> {
    let cluster = start().await?;
    let client = &cluster.client;
    let keys: Vec<Bytes> = (0..3_000)
        .map(|n| Bytes::from(format!("{}/{n:04}", if n % 2 == 0 { "a" } else { "z" })))
        .collect();
    let value = Bytes::from(vec![5; 2_000]);
    let version = client.batch(keys.iter().map(|key| (key.clone(), Some(value.clone())))).await?;
    let found = client.batch_get(keys.clone()).await?;
    ensure!(found.iter().flatten().count() == keys.len(), "some are missing");
    ensure!(found.iter().flatten().all(|value| value.version == version), "two versions");
    let before = rangedb_client::Version(version.0 - 1);
    ensure!(client.get_at("a/0000", before).await?.is_none(), "it was there before");
    let deleted = client.batch(keys.iter().map(|key| (key.clone(), None))).await?;
    ensure!(client.batch_get(keys).await?.iter().flatten().next().is_none(), "some are left");
    let old = client.get_at("a/0000", rangedb_client::Version(deleted.0 - 1)).await?;
    ensure!(old.is_some_and(|old| old.version == version), "the old version can be read");
    cluster.cluster.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_sees_what_it_wrote_and_nothing_that_came_later() -> Result<()> {
    let cluster = start().await?;
    let client = &cluster.client;
    client.put("a", "old").await?;
    client.put("z", "old").await?;
    for isolation in [Isolation::Snapshot, Isolation::Serializable] {
        let txn = client.begin(TransactionOptions { isolation, ..Default::default() }).await?;
        client.put("z", "new").await?;
        ensure!(txn.get("z").await?.as_deref() == Some(b"old"), "a snapshot");
        txn.put("a", "mine");
        txn.put("b", "mine");
        txn.delete("z");
        ensure!(txn.get("a").await?.as_deref() == Some(b"mine"), "its own write");
        let all = txn.range(rangedb_client::RangeQuery::all()).await?;
        let keys: Vec<_> = all.iter().map(|entry| entry.key.clone()).collect();
        ensure!(keys == ["a", "b"], "{keys:?}");
        let lost = txn.commit().await;
        ensure!(matches!(lost, Err(Error::Conflict { .. })), "z was written since: {lost:?}");
        client.put("z", "old").await?;
    }
    let txn = client
        .begin(TransactionOptions { isolation: Isolation::ReadCommitted, ..Default::default() })
        .await?;
    client.put("z", "new").await?;
    ensure!(txn.get("z").await?.as_deref() == Some(b"new"), "what is committed");
    txn.put("z", "mine");
    txn.commit().await?;
    cluster.cluster.finish(&[]).await
}
