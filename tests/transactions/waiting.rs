//! Pessimistic transactions: they wait their turn, and deadlocks are found.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::future::join_all;
use futures::stream;
use rangedb_client::proto::transaction_write::{Check, Want};
use rangedb_client::proto::transactions_client::TransactionsClient;
use rangedb_client::proto::{
    AcquireRequest, AcquiredValue, BeginRequest, CommitRequest, RollbackRequest, TransactionWrite,
    error_detail::Kind,
};
use rangedb_client::{Client, Error, Isolation, Options, TransactionOptions};
use rangedb_proto::error::detail_of;
use rangedb_tests::{InProcess, rounds};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tonic::Status;
use tonic::transport::Channel;

/// Clients that increment one counter; the full figure is 100.
const CLIENTS: usize = 20;
const INCREMENTS: usize = 5;
/// How long an optimistic increment may be repeated.
const OPTIMISTIC_LIMIT: Duration = Duration::from_secs(60);

/// A transaction by its raw calls, each on another gateway.
struct Txn {
    rpc: Vec<TransactionsClient<Channel>>,
    calls: usize,
    token: Bytes,
    id: u64,
}

impl Txn {
    async fn begin(rpc: &[TransactionsClient<Channel>], turn: usize) -> Result<Self> {
        let mut rpc = rpc.to_vec();
        let turn = turn % rpc.len();
        rpc.rotate_left(turn);
        let request = BeginRequest { pessimistic: true, ..Default::default() };
        let begun = rpc[0].begin(request).await?.into_inner();
        Ok(Self { rpc, calls: 0, token: begun.token, id: begun.id })
    }

    fn next(&mut self) -> TransactionsClient<Channel> {
        self.calls += 1;
        self.rpc[self.calls % self.rpc.len()].clone()
    }

    async fn acquire(&mut self, key: &str, want: Want) -> Result<AcquiredValue, Status> {
        let write = TransactionWrite { key: key.to_owned().into(), want: Some(want) };
        let request = AcquireRequest { token: self.token.clone(), writes: vec![write], read: true };
        let mut taken = self.next().acquire(request).await?.into_inner();
        self.token = taken.token;
        taken.values.pop().ok_or_else(|| Status::internal("no value"))
    }

    async fn lock(&mut self, key: &str) -> Result<AcquiredValue, Status> {
        self.acquire(key, Want::Check(Check {})).await
    }

    async fn commit(mut self) -> Result<u64, Status> {
        let message = CommitRequest { token: self.token.clone(), ..Default::default() };
        Ok(self.next().commit(stream::iter([message])).await?.into_inner().version)
    }

    async fn roll_back(mut self) -> Result<(), Status> {
        let request = RollbackRequest { token: self.token.clone(), key: Bytes::new() };
        self.next().rollback(request).await.map(|_| ())
    }
}

struct Cluster {
    cluster: InProcess,
    client: Client,
    rpc: Vec<TransactionsClient<Channel>>,
}

/// Three gateways, and three ranges that meet at `h` and `p`.
async fn start() -> Result<Cluster> {
    let (cluster, client) = InProcess::cut_at(3, &["h", "p"]).await?;
    let mut rpc = Vec::new();
    for address in cluster.endpoints() {
        rpc.push(TransactionsClient::connect(format!("http://{address}")).await?);
    }
    Ok(Cluster { cluster, client, rpc })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_increment_is_lost_and_nobody_starves() -> Result<()> {
    let cluster = start().await?;
    let clients = rounds(CLIENTS);
    let increments = (0..clients).map(|number| {
        let rpc = &cluster.rpc;
        async move {
            let mut worst = Duration::ZERO;
            for turn in 0..INCREMENTS {
                let begun = Instant::now();
                let mut txn = Txn::begin(rpc, number + turn).await?;
                let found = txn.lock("counter").await?;
                let count: u64 =
                    if found.found { std::str::from_utf8(&found.value)?.parse()? } else { 0 };
                txn.acquire("counter", Want::Put((count + 1).to_string().into())).await?;
                txn.commit().await?;
                worst = worst.max(begun.elapsed());
            }
            anyhow::Ok(worst)
        }
    });
    let begun = Instant::now();
    let waits: Vec<Duration> = join_all(increments).await.into_iter().collect::<Result<_>>()?;
    let worst = waits.iter().max().context("somebody")?;
    let total = clients * INCREMENTS;
    println!(
        "{total} increments by {clients} clients in {:?}, the slowest took {worst:?}",
        begun.elapsed()
    );
    let found = cluster.client.get("counter").await?.context("it was counted")?;
    ensure!(found.value == total.to_string(), "{found:?} of {total}");
    cluster.cluster.finish(&[]).await
}

/// The same without locks: who loses begins again, after a pause that grows, and everybody gets through.
#[tokio::test(flavor = "multi_thread")]
async fn optimistic_increments_are_repeated_a_bounded_number_of_times() -> Result<()> {
    let cluster = start().await?;
    let clients = rounds(CLIENTS);
    let options = Options { timeout: OPTIMISTIC_LIMIT, ..Options::default() };
    let client = Client::connect_with(cluster.cluster.endpoints(), options).await?;
    let increments = (0..clients).map(|_| {
        let client = client.clone();
        async move {
            let (runs, mut most) = (AtomicUsize::new(0), 0);
            for _ in 0..INCREMENTS {
                let before = runs.load(Ordering::Relaxed);
                let options = TransactionOptions::default();
                let counted = client.transact(options, |txn| {
                    runs.fetch_add(1, Ordering::Relaxed);
                    async move {
                        let found = txn.get("counter").await?;
                        let text = found.map(|it| String::from_utf8_lossy(&it).into_owned());
                        let count: u64 = text.and_then(|it| it.parse().ok()).unwrap_or(0);
                        txn.put("counter", (count + 1).to_string());
                        Ok::<_, Error>(())
                    }
                });
                counted.await?;
                most = most.max(runs.load(Ordering::Relaxed) - before);
            }
            anyhow::Ok((runs.load(Ordering::Relaxed), most))
        }
    });
    let begun = Instant::now();
    let all: Vec<_> = join_all(increments).await.into_iter().collect::<Result<_>>()?;
    let total = clients * INCREMENTS;
    let runs: usize = all.iter().map(|(runs, _)| runs).sum();
    let most = all.iter().map(|(_, most)| most).max().context("somebody")?;
    println!("{total} optimistic increments in {:?}: {runs} runs, {most} for one", begun.elapsed());
    let found = cluster.client.get("counter").await?.context("it was counted")?;
    ensure!(found.value == total.to_string(), "{found:?} of {total}");
    ensure!(*most <= 20 * clients, "{most} runs of one transaction");
    cluster.cluster.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlocks_are_found_and_the_youngest_gives_way() -> Result<()> {
    let cluster = start().await?;
    let keys = ["a", "m", "z"];
    for size in [2, 3] {
        let mut all = Vec::new();
        for (number, key) in keys.iter().take(size).enumerate() {
            let mut txn = Txn::begin(&cluster.rpc, number).await?;
            txn.lock(key).await?;
            all.push(txn);
        }
        let ids: Vec<u64> = all.iter().map(|txn| txn.id).collect();
        let begun = Instant::now();
        let waits = all.into_iter().enumerate().map(|(number, mut txn)| async move {
            let wanted = keys[(number + 1) % size];
            let taken = txn.lock(wanted).await;
            let took = begun.elapsed();
            if taken.is_err() {
                txn.roll_back().await?
            } else {
                txn.commit().await.map(|_| ())?
            }
            anyhow::Ok((taken, took))
        });
        let ended: Vec<_> = join_all(waits).await.into_iter().collect::<Result<_>>()?;
        let victims: Vec<usize> = (0..size).filter(|at| ended[*at].0.is_err()).collect();
        ensure!(victims == [size - 1], "the youngest and nobody else: {ended:?}");
        let (status, took) = &ended[size - 1];
        let status = status.as_ref().err().context("it is the victim")?;
        let Some(Kind::Deadlock(deadlock)) = detail_of(status).and_then(|detail| detail.kind)
        else {
            anyhow::bail!("no deadlock: {status}");
        };
        let mut cycle = deadlock.cycle.clone();
        ensure!(cycle.first() == Some(&ids[size - 1]), "{cycle:?} of {ids:?}");
        cycle.sort_unstable();
        ensure!(cycle == ids, "{cycle:?} of {ids:?}");
        println!("a deadlock of {size} was found after {took:?}");
    }
    cluster.cluster.finish(&[]).await
}

/// Both hold what the other has read: the younger gives way at its commit, and the other need not wait long.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_read_what_the_other_writes_one_gives_way_at_once() -> Result<()> {
    let cluster = start().await?;
    let client = &cluster.client;
    client.put("a", "1").await?;
    client.put("z", "1").await?;
    let isolation = Isolation::Serializable;
    let options = TransactionOptions { isolation, ..TransactionOptions::default() };
    let (first, second) =
        (client.begin_pessimistic(options).await?, client.begin_pessimistic(options).await?);
    for txn in [&first, &second] {
        txn.get("a").await?;
        txn.get("z").await?;
    }
    first.put("a", "0").await?;
    second.put("z", "0").await?;
    let begun = Instant::now();
    let (older, younger) = tokio::join!(first.commit(), second.commit());
    let took = begun.elapsed();
    println!("decided after {took:?}: {older:?}, {younger:?}");
    ensure!(older.is_ok() != younger.is_ok(), "{older:?} and {younger:?}");
    ensure!(took < Duration::from_secs(2), "{took:?}");
    let again = client.batch(["a", "z"].map(|key| (Bytes::from(key), None)));
    tokio::time::timeout(Duration::from_secs(2), again).await.context("nothing is held")??;
    cluster.cluster.finish(&[]).await
}
