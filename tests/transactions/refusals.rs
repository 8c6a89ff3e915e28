//! What is refused, and what may be asked twice.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::stream;
use rangedb_client::proto::key_value_client::KeyValueClient;
use rangedb_client::proto::transaction_write::{Check, Want};
use rangedb_client::proto::transactions_client::TransactionsClient;
use rangedb_client::proto::{
    AcquireRequest, BatchRequest, BeginRequest, CommitRequest, Isolation as Level, RollbackRequest,
    TransactionReads, TransactionWrite, error_detail::Kind,
};
use rangedb_client::{Client, Error, Isolation, TransactionOptions};
use rangedb_proto::error::detail_of;
use rangedb_tests::{InProcess, wait};
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
    let (cluster, client) = InProcess::cut_at(2, &["m"]).await?;
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
    let unknown = BeginRequest { isolation: 9, ..Default::default() };
    let refused = cluster.rpc[0].clone().begin(unknown).await;
    ensure!(refused.as_ref().is_err_and(|s| s.code() == Code::InvalidArgument), "{refused:?}");
    let twice = vec![put("a", "1"), put("a", "2")];
    let mut keys =
        KeyValueClient::connect(format!("http://{}", cluster.cluster.endpoints()[0])).await?;
    let refused = keys.batch(BatchRequest { writes: twice }).await;
    ensure!(refused.as_ref().is_err_and(|s| s.code() == Code::InvalidArgument), "{refused:?}");
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

    // The gateway has limits of its own, for those who do without the SDK.
    let (token, _) = cluster.begin(Level::Snapshot).await?;
    let messages = (0..65).map(move |number| {
        let want = Some(Want::Put(value.clone()));
        let write = TransactionWrite { key: format!("large/{number:02}").into(), want };
        CommitRequest { token: token.clone(), writes: vec![write], reads: None }
    });
    let refused = cluster.rpc[0].clone().commit(stream::iter(messages)).await;
    ensure!(refused.as_ref().is_err_and(|s| s.code() == Code::OutOfRange), "{refused:?}");

    for key in ["a", "b", "z", "large/00"] {
        ensure!(cluster.client.get(key).await?.is_none(), "{key} was written");
    }
    cluster.cluster.finish(&[]).await
}

/// The first Commit's answer may have been lost, and time has passed.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_repeated_after_its_time_gives_the_first_ones_answer() -> Result<()> {
    let cluster = start().await?;
    let limit = Duration::from_secs(1);
    let begin = async |pessimistic| -> Result<Bytes> {
        let timeout_ms = u64::try_from(limit.as_millis())?;
        let request = BeginRequest { timeout_ms, pessimistic, ..Default::default() };
        Ok(cluster.rpc[0].clone().begin(request).await?.into_inner().token)
    };
    let writes = || vec![put("a", "1"), put("z", "1")];
    let (token, never, held) = (begin(false).await?, begin(false).await?, begin(true).await?);
    let first = cluster.commit(0, &token, writes(), None).await?;
    let acquire = AcquireRequest { token: held, writes: vec![put("h", "1")], read: false };
    let held = cluster.rpc[0].clone().acquire(acquire).await?.into_inner().token;
    let first_held = cluster.commit(0, &held, Vec::new(), None).await?;
    wait::let_run(limit + Duration::from_millis(200)).await;
    ensure!(cluster.commit(1, &token, writes(), None).await? == first, "another answer");
    ensure!(cluster.commit(1, &held, Vec::new(), None).await? == first_held, "another answer");
    let late = cluster.commit(1, &never, vec![put("b", "1")], None).await;
    let late = late.err().context("its time is over")?;
    ensure!(matches!(kind(&late), Some(Kind::TransactionExpired(_))), "{late}");
    let acquire = AcquireRequest { token: begin(true).await?, ..Default::default() };
    wait::let_run(limit + Duration::from_millis(200)).await;
    let acquire = AcquireRequest { writes: vec![put("c", "1")], ..acquire };
    let late = cluster.rpc[1].clone().acquire(acquire).await.err().context("its time is over")?;
    ensure!(matches!(kind(&late), Some(Kind::TransactionExpired(_))), "{late}");
    for key in ["b", "c"] {
        ensure!(cluster.client.get(key).await?.is_none(), "{key} was written");
    }
    cluster.cluster.finish(&[]).await
}

/// Of a pessimistic transaction whose calls come by hand.
#[tokio::test(flavor = "multi_thread")]
async fn a_pessimistic_transaction_ends_once() -> Result<()> {
    let cluster = start().await?;
    let begin = async || -> Result<Bytes> {
        let request = BeginRequest { pessimistic: true, ..Default::default() };
        Ok(cluster.rpc[0].clone().begin(request).await?.into_inner().token)
    };
    let acquire = async |token: &Bytes, write| {
        let request = AcquireRequest { token: token.clone(), writes: vec![write], read: false };
        cluster.rpc[1].clone().acquire(request).await.map(|answer| answer.into_inner().token)
    };
    let begun = begin().await?;
    let held = acquire(&begun, put("a", "1")).await?;
    // With the same token it is the same call, and must say the same.
    acquire(&begun, put("a", "1")).await?;
    let other = acquire(&begun, put("a", "2")).await.err().context("another call")?;
    ensure!(other.code() == Code::InvalidArgument, "{other}");
    let held = acquire(&held, put("z", "1")).await?;
    let version = cluster.commit(0, &held, Vec::new(), None).await?;
    ensure!(cluster.commit(1, &held, Vec::new(), None).await? == version, "another answer");
    let late = cluster.roll_back(&held, "").await.err().context("it is committed")?;
    ensure!(matches!(kind(&late), Some(Kind::TransactionCommitted(_))), "{late}");
    for key in ["a", "z"] {
        let found = cluster.client.get(key).await?.context("written")?;
        ensure!((&found.value[..], found.version.0) == (&b"1"[..], version), "{key}: {found:?}");
    }
    let held = acquire(&begin().await?, put("b", "1")).await?;
    cluster.roll_back(&held, "").await?;
    let late = cluster.commit(0, &held, Vec::new(), None).await.err().context("rolled back")?;
    ensure!(matches!(kind(&late), Some(Kind::TransactionAborted(_))), "{late}");
    ensure!(cluster.client.get("b").await?.is_none(), "it was written");
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
