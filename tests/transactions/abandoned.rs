//! What dead clients and gateways leave is settled, though nobody meets it.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rangedb_client::{Client, TransactionOptions};
use rangedb_tests::admin::split_at;
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::{Processes, Shape, admin, http, rounds, wait};
use std::time::Duration;

const FOUND: &str = "rangedb_node_abandoned_found_total";
const SETTLED: &str = "rangedb_gateway_abandoned_settled_total";
/// Passes of all nodes and rounds of gateways in the time that nothing may be found in.
const QUIET: Duration = Duration::from_secs(8);
const LIMIT: Duration = Duration::from_secs(90);
/// Locks of clients that go away.
const LOCKS: usize = 12;
/// Keys of one of the transactions that a gateway is killed in: enough for two rounds.
const KEYS: usize = 600;
const AT_ONCE: usize = 6;
/// Small transactions at a time beside them, which are done once their intents are there.
const SMALL_AT_ONCE: usize = 4;
/// How long those go on before the large ones.
const SMALL_BEFORE: Duration = Duration::from_secs(2);
/// How long a commit may take; the gateway is dead by then.
const COMMIT_LIMIT: Duration = Duration::from_secs(5);

async fn sum_of_nodes(cluster: &Processes) -> Result<f64> {
    let mut sum = 0.0;
    for node in &cluster.nodes {
        sum += http::metric(&node.http, FOUND).await?;
    }
    Ok(sum)
}

fn key(transaction: usize, number: usize) -> String {
    format!("{}/{transaction}/{number:04}", ["b", "k", "z"][number % 3])
}

/// Locks keys in all ranges and forgets them.
async fn lock_and_forget(client: &Client) -> Result<()> {
    let txn = client.begin_pessimistic(TransactionOptions::default()).await?;
    for number in 0..LOCKS {
        txn.get_for_update(format!("{}/lock/{number}", ["b", "k", "z"][number % 3])).await?;
    }
    Ok(())
}

/// What was acknowledged.
#[derive(Default)]
struct Acknowledged {
    large: Vec<usize>,
    small: Vec<(usize, usize)>,
}

/// Small transactions one after the other, until one is not acknowledged: each writes a key of one range and
/// deletes one of another.
async fn small(client: &Client, task: usize) -> Vec<(usize, usize)> {
    for number in 0.. {
        let (written, deleted) = small_keys((task, number));
        let commit = async {
            client.put(deleted.clone(), "1").await?;
            client.batch([(written, Some("1".into())), (deleted, None)]).await
        };
        if !matches!(tokio::time::timeout(COMMIT_LIMIT, commit).await, Ok(Ok(_))) {
            return (0..number).map(|number| (task, number)).collect();
        }
    }
    unreachable!("the gateway is killed")
}

fn small_keys((task, number): (usize, usize)) -> (Bytes, Bytes) {
    let key = |range: &str| Bytes::from(format!("{range}/small/{task}/{number:04}"));
    (key("b"), key("z"))
}

/// Writes transactions by way of a gateway that is killed as soon as a large one is acknowledged: that one is
/// not cleaned up yet, and the others are somewhere between their beginning and that.
async fn commit_and_kill(cluster: &mut Processes) -> Result<Acknowledged> {
    let client = Client::connect(vec![cluster.gateways[0].grpc.clone()]).await?;
    let smalls: Vec<_> = (0..SMALL_AT_ONCE)
        .map(|task| {
            let client = client.clone();
            tokio::spawn(async move { small(&client, task).await })
        })
        .collect();
    wait::let_run(SMALL_BEFORE).await;
    let commit = async |transaction: usize| {
        let txn = client.begin(TransactionOptions::default()).await?;
        (0..KEYS).for_each(|number| txn.put(key(transaction, number), transaction.to_string()));
        // Whether it is heard of depends on when the gateway died.
        let committed = tokio::time::timeout(COMMIT_LIMIT, txn.commit()).await;
        anyhow::Ok(matches!(committed, Ok(Ok(_))).then_some(transaction))
    };
    let mut commits: FuturesUnordered<_> = (0..AT_ONCE).map(commit).collect();
    let mut acknowledged = Acknowledged::default();
    acknowledged.large.extend(commits.next().await.context("there are some")??);
    cluster.gateways[0].kill()?;
    while let Some(committed) = commits.next().await {
        acknowledged.large.extend(committed?);
    }
    for task in smalls {
        acknowledged.small.extend(task.await?);
    }
    Ok(acknowledged)
}

/// All or nothing of each, and all of what was acknowledged.
async fn judge(client: &Client, acknowledged: &Acknowledged) -> Result<()> {
    for transaction in 0..AT_ONCE {
        let mut there = 0;
        for number in (0..KEYS).step_by(37) {
            there += usize::from(client.get(key(transaction, number)).await?.is_some());
        }
        let all = (0..KEYS).step_by(37).count();
        ensure!(there == 0 || there == all, "{transaction}: {there} of {all} keys");
        let lost = there == 0 && acknowledged.large.contains(&transaction);
        ensure!(!lost, "{transaction} was acknowledged");
    }
    for small in &acknowledged.small {
        let (written, deleted) = small_keys(*small);
        ensure!(client.get(written).await?.is_some(), "{small:?}: its write is lost");
        ensure!(client.get(deleted).await?.is_none(), "{small:?}: its deletion is lost");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_dead_left_is_settled_though_nobody_meets_it() -> Result<()> {
    for _ in 0..rounds(1) {
        let mut cluster = Processes::start(Shape { gateways: 3, ..Shape::default() }).await?;
        cluster.replicated().await?;
        let client = Client::connect(vec![cluster.gateways[1].grpc.clone()]).await?;
        admin::set_config(&client, "range_merge_size", "0B").await?;
        for name in ["gc_retention", "transaction_lifetime_max"] {
            admin::set_config(&client, name, "10s").await?;
        }
        for at in ["h", "p"] {
            split_at(&client, at.as_bytes()).await?;
        }
        lock_and_forget(&client).await?;
        let acknowledged = commit_and_kill(&mut cluster).await?;
        wait::until("the locks are settled", LIMIT, async || {
            let found = sum_of_nodes(&cluster).await?;
            ensure!(found >= LOCKS as f64, "{found} found");
            wait::let_run(QUIET).await;
            let later = sum_of_nodes(&cluster).await?;
            ensure!(found == later, "{found}, then {later} found");
            Ok(())
        })
        .await?;
        let mut settled = 0.0;
        for gateway in &cluster.gateways[1..] {
            settled += http::metric(&gateway.http, SETTLED).await?;
        }
        let small = acknowledged.small.len();
        println!("{settled} intents and records were settled; {small} small ones acknowledged");
        ensure!(small > 10, "too few to tell anything");
        ensure!(settled > LOCKS as f64, "{settled}: nothing of the dead gateway");
        judge(&client, &acknowledged).await?;
        cluster.finish(PEER_LOST).await?;
    }
    Ok(())
}
