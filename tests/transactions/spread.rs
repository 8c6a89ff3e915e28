//! One transaction, each call on another gateway, while gateways die.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::stream;
use rangedb_client::proto::Isolation;
use rangedb_client::proto::key_value_client::KeyValueClient;
use rangedb_client::proto::transaction_write::{Check, Want};
use rangedb_client::proto::transactions_client::TransactionsClient;
use rangedb_client::proto::{
    AcquireRequest, BeginRequest, CommitRequest, GetRequest, RequestContext, TransactionReads,
    TransactionWrite,
};
use rangedb_tests::admin::split_at;
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::{Processes, Shape, admin, rounds};

fn put(key: &str, value: &str) -> TransactionWrite {
    let want = Some(Want::Put(value.to_owned().into()));
    TransactionWrite { key: key.to_owned().into(), want }
}

/// The transactions' and the keys' side of one gateway.
struct Gateway {
    transactions: TransactionsClient<tonic::transport::Channel>,
    keys: KeyValueClient<tonic::transport::Channel>,
}

async fn gateway(cluster: &Processes, number: usize) -> Result<Gateway> {
    let address = format!("http://{}", cluster.gateways[number].grpc);
    Ok(Gateway {
        transactions: TransactionsClient::connect(address.clone()).await?,
        keys: KeyValueClient::connect(address).await?,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_spread_over_three_gateways_commits_though_one_is_killed() -> Result<()> {
    let mut cluster = Processes::start(Shape { gateways: 3, ..Shape::default() }).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    admin::set_config(&client, "range_merge_size", "0B").await?;
    for key in ["h", "p"] {
        split_at(&client, key.as_bytes()).await?;
    }
    for round in 0..rounds(2) {
        let first = round % 3;
        let [second, third] = [(first + 1) % 3, (first + 2) % 3];
        let value = round.to_string();
        let committed = optimistic(&mut cluster, [first, second, third], &value).await?;
        again(&mut cluster, first).await?;
        let held = pessimistic(&mut cluster, [first, second, third], &value).await?;
        again(&mut cluster, second).await?;
        ensure!(held > committed, "{held} after {committed}");
        let client = cluster.client().await?;
        for (key, version) in [("a", committed), ("m", committed), ("b", held), ("z", held)] {
            let found = client.get(key).await?.context("it was committed")?;
            ensure!(found.version.0 == version && found.value == value, "{key}: {found:?}");
        }
    }
    cluster.finish(PEER_LOST).await
}

async fn again(cluster: &mut Processes, number: usize) -> Result<()> {
    cluster.gateways[number].start()?;
    cluster.gateways[number].ready().await
}

/// Begin here, a read there, here killed, Commit at the third, and once more at the second.
async fn optimistic(
    cluster: &mut Processes,
    [first, second, third]: [usize; 3],
    value: &str,
) -> Result<u64> {
    let request = BeginRequest { isolation: Isolation::Serializable.into(), ..Default::default() };
    let begun = gateway(cluster, first).await?.transactions.begin(request).await?.into_inner();
    let context = RequestContext { transaction: begun.token.clone(), ..Default::default() };
    let read = GetRequest { key: "c".into(), context: Some(context) };
    gateway(cluster, second).await?.keys.get(read).await?;
    cluster.gateways[first].kill()?;
    let reads = TransactionReads { keys: vec!["c".into()], spans: Vec::new() };
    let message = CommitRequest {
        token: begun.token,
        writes: vec![put("a", value), put("m", value)],
        reads: Some(reads),
    };
    let mut versions = Vec::new();
    for number in [third, second] {
        let mut rpc = gateway(cluster, number).await?.transactions;
        let committed = rpc.commit(stream::iter([message.clone()])).await?.into_inner();
        versions.push(committed.version);
    }
    ensure!(versions[0] == versions[1], "one answer: {versions:?}");
    Ok(versions[0])
}

/// Begin, a lock, a write, Commit: each elsewhere; where the write was made is killed before the Commit.
async fn pessimistic(
    cluster: &mut Processes,
    [first, second, third]: [usize; 3],
    value: &str,
) -> Result<u64> {
    let request = BeginRequest { pessimistic: true, ..Default::default() };
    let begun = gateway(cluster, first).await?.transactions.begin(request).await?.into_inner();
    let lock = TransactionWrite { key: "b".into(), want: Some(Want::Check(Check {})) };
    let steps = [(third, lock), (first, put("b", value)), (second, put("z", value))];
    let mut token: Bytes = begun.token;
    for (number, write) in steps {
        let request = AcquireRequest { token: token.clone(), writes: vec![write], read: true };
        let mut rpc = gateway(cluster, number).await?.transactions;
        token = rpc.acquire(request).await?.into_inner().token;
    }
    cluster.gateways[second].kill()?;
    let message = CommitRequest { token, ..Default::default() };
    let mut rpc = gateway(cluster, third).await?.transactions;
    Ok(rpc.commit(stream::iter([message])).await?.into_inner().version)
}
