//! Many ranges that nobody uses cost next to nothing, and are there at once when somebody does.

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, stream};
use rangedb_client::Client;
use rangedb_client::proto::{RangeStatus, SplitRangeRequest, split_range_request::At};
use rangedb_tests::admin::split_at;
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::{Processes, Shape, admin, http, rounds, usage, wait};
use std::time::{Duration, Instant};

/// Ranges that continuous integration has time for; the full figure is 10,000.
const RANGES: usize = 200;
/// Splits that are asked for at a time.
const AT_A_TIME: usize = 64;
const LIMIT: Duration = Duration::from_secs(600);
const AWAKE: &str = "rangedb_store_awake_replicas_count";
const REPLICAS: &str = "rangedb_store_replicas_count";

fn key(number: usize) -> Vec<u8> {
    format!("key-{number:06}").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_ranges_sleep_and_wake() -> Result<()> {
    let mut cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    admin::set_config(&client, "range_merge_size", "0B").await?;
    let wanted = rounds(RANGES);
    all_sleep(&cluster, 1).await?;
    let window = if wanted > RANGES { Duration::from_secs(30) } else { Duration::from_secs(2) };
    let empty = Cost::of(&mut cluster, window).await?;
    let begun = Instant::now();
    split_into(&client, wanted).await?;
    println!("{wanted} ranges after {:?}", begun.elapsed());
    for number in (0..wanted).step_by(wanted.div_ceil(100)) {
        client.put(key(number), b"value".to_vec()).await?;
    }
    let begun = Instant::now();
    all_sleep(&cluster, wanted).await?;
    println!("all asleep after {:?}", begun.elapsed());
    let idle = Cost::of(&mut cluster, window).await?;
    println!("nodes {} with one range, {} with {wanted}", empty.nodes, idle.nodes);
    println!("placement {} and {}", empty.placement, idle.placement);
    println!("gateways {} and {}", empty.gateways, idle.gateways);
    let replicas = 3 * wanted as u64;
    let more = idle.nodes.bytes.saturating_sub(empty.nodes.bytes) / replicas;
    println!("{:.1} KiB of the nodes' memory a replica", more as f64 / 1024.0);

    // Their leaders' node goes: who is asked for finds a leader, however many sleep.
    let begun = Instant::now();
    cluster.nodes[0].kill()?;
    let mut worst = Duration::ZERO;
    for number in (0..wanted).step_by(wanted.div_ceil(100)) {
        let asked = Instant::now();
        let value = client.get(key(number)).await?;
        let found = value.as_ref().map(|value| &*value.value);
        ensure!(found == Some(b"value".as_slice()), "key {number} has {value:?}");
        client.put(key(number), b"later".to_vec()).await?;
        worst = worst.max(asked.elapsed());
    }
    println!("read and written within {:?}, the slowest took {worst:?}", begun.elapsed());
    cluster.nodes[0].start()?;
    cluster.nodes[0].ready().await?;
    all_sleep(&cluster, wanted).await?;
    println!("all asleep again {:?} after the node went", begun.elapsed());
    admin::consistent(&client).await?;
    cluster.finish(PEER_LOST).await
}

/// What some processes take together.
struct Share {
    bytes: u64,
    cores: f64,
}

impl std::fmt::Display for Share {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:.4} cores and {} MiB", self.cores, self.bytes >> 20)
    }
}

struct Cost {
    placement: Share,
    nodes: Share,
    gateways: Share,
}

impl Cost {
    async fn of(cluster: &mut Processes, window: Duration) -> Result<Self> {
        let mut ids = [Vec::new(), Vec::new(), Vec::new()];
        for (ids, parts) in
            ids.iter_mut().zip([&mut cluster.placement, &mut cluster.nodes, &mut cluster.gateways])
        {
            for part in parts {
                ids.push(part.child()?.id());
            }
        }
        let time = |ids: &[u32]| -> Result<Duration> {
            ids.iter().map(|id| usage::processor_time(*id)).sum()
        };
        let before = [time(&ids[0])?, time(&ids[1])?, time(&ids[2])?];
        wait::let_run(window).await;
        let share = |kind: usize| -> Result<Share> {
            let spent = time(&ids[kind])?.saturating_sub(before[kind]);
            let bytes = ids[kind].iter().map(|id| usage::resident_bytes(*id)).sum::<Result<_>>()?;
            Ok(Share { bytes, cores: spent.as_secs_f64() / window.as_secs_f64() })
        };
        Ok(Self { placement: share(0)?, nodes: share(1)?, gateways: share(2)? })
    }
}

/// Cuts at keys until there are so many ranges: each in its middle, all at once, again and again.
async fn split_into(client: &Client, wanted: usize) -> Result<()> {
    wait::until("the ranges are split", LIMIT, async || {
        let ranges = admin::ranges(client).await?;
        let middles: Vec<_> = ranges.iter().filter_map(|range| middle(range, wanted)).collect();
        stream::iter(middles)
            .for_each_concurrent(AT_A_TIME, |(range_id, at)| async move {
                let at = Some(At::AtKey(at.into()));
                let request = SplitRangeRequest { range_id, at, ..Default::default() };
                // One whose leadership is just handed over is asked for again.
                let _refused = client.admin().split_range(request).await;
            })
            .await;
        ensure!(ranges.len() >= wanted, "{} ranges of {wanted}", ranges.len());
        Ok(())
    })
    .await
}

/// The range and the middle one of the keys to cut it at.
fn middle(range: &RangeStatus, wanted: usize) -> Option<(u64, Vec<u8>)> {
    // The bounds are keys of this test, or open.
    let number = |key: &[u8]| std::str::from_utf8(key).ok()?.strip_prefix("key-")?.parse().ok();
    let (start, end) = (number(&range.start).unwrap_or(0), number(&range.end).unwrap_or(wanted));
    let at = start + end.saturating_sub(start) / 2;
    (at > start).then(|| (range.range_id, key(at)))
}

/// Waits until the nodes hold all replicas, and none is awake.
async fn all_sleep(cluster: &Processes, ranges: usize) -> Result<()> {
    wait::until("all replicas sleep", LIMIT, async || {
        let (mut replicas, mut awake) = (0.0, 0.0);
        for node in &cluster.nodes {
            replicas += http::metric(&node.http, REPLICAS).await.context("a node")?;
            awake += http::metric(&node.http, AWAKE).await.context("a node")?;
        }
        let all = 3 * ranges;
        ensure!(replicas >= all as f64, "{replicas} replicas of {all}");
        ensure!(awake == 0.0, "{awake} of {replicas} are awake");
        Ok(())
    })
    .await
}

/// Ranges that are written to.
const ACTIVE: usize = 10;
const PUTS_AT_A_TIME: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn idle_ranges_do_not_slow_those_in_use() -> Result<()> {
    let idle = rounds(RANGES);
    let (turns, turn) = if idle > RANGES { (10, 5) } else { (2, 1) };
    let alone = active(0).await?;
    let among = active(idle).await?;
    let clusters = [&alone, &among];
    let mut rates = [Vec::new(), Vec::new()];
    for number in 0..2 * turns {
        let which = number % 2;
        let client = clusters[which].client().await?;
        rates[which].push(puts(&client, Duration::from_secs(turn)).await?);
    }
    let medians = rates.map(|mut rates| {
        println!("{rates:.0?} puts/s");
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    let [without, with] = medians;
    let ratio = with / without;
    println!("{without:.0} puts/s alone, {with:.0} beside {idle} idle ranges: {ratio:.3}");
    ensure!(idle == RANGES || ratio >= 0.9, "idle ranges cost {:.0} %", (1.0 - ratio) * 100.0);
    alone.finish(PEER_LOST).await?;
    among.finish(PEER_LOST).await
}

/// A cluster with the active ranges and so many others.
async fn active(idle: usize) -> Result<Processes> {
    let cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    admin::set_config(&client, "range_merge_size", "0B").await?;
    admin::set_config(&client, "range_split_requests_per_second", "0").await?;
    for number in 1..ACTIVE {
        split_at(&client, &active_key(number, 0)).await?;
    }
    if idle > 0 {
        split_into(&client, idle + ACTIVE).await?;
    }
    wait::until("the active ranges are there", LIMIT, async || {
        let ranges = admin::ranges(&client).await?.len();
        ensure!(ranges >= ACTIVE + idle, "{ranges} ranges");
        Ok(())
    })
    .await?;
    all_sleep(&cluster, idle + ACTIVE).await?;
    Ok(cluster)
}

fn active_key(range: usize, key: usize) -> Vec<u8> {
    format!("active-{range}-{key:04}").into_bytes()
}

/// How many puts of 100 bytes a second there are.
async fn puts(client: &Client, time: Duration) -> Result<f64> {
    let pipeline = client.pipeline();
    let begun = Instant::now();
    let counts = (0..PUTS_AT_A_TIME).map(async |writer| {
        let mut count = 0_usize;
        while begun.elapsed() < time {
            let key = active_key((writer + count) % ACTIVE, writer * 10 + count % 10);
            pipeline.put(key, vec![7; 100]).await?;
            count += 1;
        }
        anyhow::Ok(count)
    });
    let total: usize = futures::future::try_join_all(counts).await?.into_iter().sum();
    Ok(total as f64 / begun.elapsed().as_secs_f64())
}
