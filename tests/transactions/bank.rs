//! Transfers between accounts, on all gateways: no money comes or goes, whatever happens.

use crate::chaos;
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::TryStreamExt as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rangedb_client::{Client, Error, Isolation, Options, RangeQuery, TransactionOptions};
use rangedb_tests::admin::{split_at, whole};
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::{Processes, Shape, admin, rounds, seed};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const ACCOUNTS: usize = 1_000;
const CLIENTS: usize = 32;
const RANGES: usize = 20;
const BALANCE: i64 = 1_000;
/// Events that continuous integration has time for; the full figure is 240 (ten minutes).
const EVENTS: usize = 7;
/// How long one call may take in spite of all that happens.
const CALL_LIMIT: Duration = Duration::from_secs(30);

fn account(number: usize) -> String {
    format!("account/{number:04}")
}

/// What all clients count.
#[derive(Default)]
struct Counts {
    done: AtomicU64,
    unknown: AtomicU64,
    looks: AtomicU64,
}

#[tokio::test(flavor = "multi_thread")]
async fn no_money_comes_or_goes() -> Result<()> {
    let shape = Shape { nodes: 4, gateways: 3, ..Shape::default() };
    let mut cluster = Processes::start(shape).await?;
    cluster.replicated().await?;
    let options = Options { timeout: CALL_LIMIT, ..Options::default() };
    let client = Client::connect_with(cluster.endpoints(), options).await?;
    admin::set_config(&client, "range_merge_size", "0B").await?;
    // Old versions go while it runs.
    admin::set_config(&client, "gc_retention", "10s").await?;
    admin::set_config(&client, "transaction_lifetime_max", "10s").await?;
    let all: Vec<String> = (0..ACCOUNTS).map(account).collect();
    let opening = all.iter().map(|key| (Bytes::from(key.clone()), Some(encode(BALANCE))));
    client.batch(opening).await?;
    for number in (0..ACCOUNTS).step_by(ACCOUNTS / RANGES) {
        split_at(&client, account(number).as_bytes()).await?;
    }
    let seed = seed();
    let (counts, stop) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
    let mut tasks = Vec::new();
    for number in 0..CLIENTS {
        let mut endpoints = cluster.endpoints();
        let turn = number % endpoints.len();
        endpoints.rotate_left(turn);
        let client = Client::connect_with(endpoints, options).await?;
        let random = StdRng::seed_from_u64(seed ^ number as u64);
        let (counts, stop) = (Arc::clone(&counts), Arc::clone(&stop));
        tasks.push(tokio::spawn(transfers(client, number, random, counts, stop)));
    }
    let auditor = tokio::spawn(audits(client.clone(), Arc::clone(&counts), Arc::clone(&stop)));
    let mut random = StdRng::seed_from_u64(seed);
    chaos::strike(&mut cluster, &client, &mut random, rounds(EVENTS), &all).await?;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for task in tasks {
        acknowledged.extend(task.await??);
    }
    auditor.await??;
    let judged = judge(&client, &acknowledged).await?;
    println!(
        "{} transfers, {} of them found out later, {} looks at all accounts; {judged} in all",
        counts.done.load(Ordering::Relaxed),
        counts.unknown.load(Ordering::Relaxed),
        counts.looks.load(Ordering::Relaxed)
    );
    whole(&client).await?;
    admin::consistent(&client).await?;
    // A node that was killed while it installed a snapshot goes on where it was, and says so.
    let expected = [PEER_LOST, &["finishing an interrupted snapshot"]].concat();
    cluster.finish(&expected).await
}

fn encode(amount: i64) -> Bytes {
    Bytes::from(amount.to_string())
}

fn decode(value: &[u8]) -> Result<i64> {
    Ok(std::str::from_utf8(value)?.parse()?)
}

/// Moves money until told to stop; gives the names of the transfers that were acknowledged.
async fn transfers(
    client: Client,
    number: usize,
    mut random: StdRng,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
) -> Result<Vec<String>> {
    let mut done = Vec::new();
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (from, to) = (random.random_range(0..ACCOUNTS), random.random_range(0..ACCOUNTS));
        let amount = random.random_range(1..=10_i64);
        if from == to {
            continue;
        }
        let name = format!("transfer/{number:02}/{turn:08}");
        let (note, at) = (format!("{from} {to} {amount}"), name.clone());
        let serializable = random.random_range(0..8) == 0;
        let isolation = if serializable { Isolation::Serializable } else { Isolation::Snapshot };
        let options = TransactionOptions { isolation, ..TransactionOptions::default() };
        let moved = client.transact(options, |txn| {
            let (note, at) = (note.clone(), at.clone());
            async move {
                let found = txn.get_many([account(from), account(to)]).await?;
                for ((key, change), value) in
                    [(account(from), -amount), (account(to), amount)].into_iter().zip(found)
                {
                    let balance = value.as_deref().map_or(Ok(0), decode);
                    let balance = balance.map_err(|_| Error::Protocol("no number"))?;
                    txn.put(key, encode(balance + change));
                }
                txn.put(at, note);
                Ok::<_, Error>(())
            }
        });
        match moved.await {
            Ok(()) => {
                counts.done.fetch_add(1, Ordering::Relaxed);
                done.push(name);
            }
            Err(Error::TransactionUnknown { .. }) => {
                counts.unknown.fetch_add(1, Ordering::Relaxed);
            }
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error).context(name),
        }
    }
    Ok(done)
}

/// Looks at all accounts at once, again and again.
async fn audits(client: Client, counts: Arc<Counts>, stop: Arc<AtomicBool>) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let mut total = 0;
        let mut found = 0;
        let mut entries = client.range(RangeQuery::prefix("account/")).await?;
        loop {
            match entries.try_next().await {
                Ok(Some(entry)) => {
                    total += decode(&entry.value)?;
                    found += 1;
                }
                Ok(None) => break,
                // A part that was read cannot be gone on with: look again.
                Err(Error::Unavailable { .. }) => {
                    found = 0;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if found > 0 {
            ensure!(found == ACCOUNTS, "{found} accounts at version {}", entries.version());
            let expected = BALANCE * i64::try_from(ACCOUNTS)?;
            ensure!(total == expected, "{total} in all at version {}", entries.version());
            counts.looks.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// The balances are what the transfers that left a note make of them, and every acknowledged one did.
async fn judge(client: &Client, acknowledged: &[String]) -> Result<usize> {
    // All as of one version: what nobody knows the outcome of may still be decided.
    let accounts = client.range(RangeQuery::prefix("account/")).await?;
    let version = accounts.version();
    let accounts: Vec<_> = accounts.try_collect().await?;
    let notes = client.range(RangeQuery::prefix("transfer/").at(version)).await?;
    let notes: Vec<_> = notes.try_collect().await?;
    let mut balances: BTreeMap<usize, i64> = (0..ACCOUNTS).map(|at| (at, BALANCE)).collect();
    for note in &notes {
        let text = std::str::from_utf8(&note.value)?;
        let numbers: Vec<i64> =
            text.split(' ').map(str::parse).collect::<Result<_, _>>().context("a note")?;
        let [from, to, amount] = numbers[..] else { anyhow::bail!("a note: {text}") };
        *balances.entry(usize::try_from(from)?).or_default() -= amount;
        *balances.entry(usize::try_from(to)?).or_default() += amount;
    }
    let names: std::collections::BTreeSet<&[u8]> = notes.iter().map(|note| &note.key[..]).collect();
    let lost: Vec<_> =
        acknowledged.iter().filter(|name| !names.contains(name.as_bytes())).collect();
    ensure!(lost.is_empty(), "{} acknowledged transfers are lost, such as {}", lost.len(), lost[0]);
    for (entry, (number, balance)) in accounts.iter().zip(&balances) {
        let found = decode(&entry.value)?;
        ensure!(found == *balance, "account {number} has {found}, its transfers make {balance}");
    }
    Ok(notes.len())
}
