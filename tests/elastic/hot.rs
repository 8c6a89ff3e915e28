//! A few keys get nearly all of the load: their range is split, and the parts are led by all nodes.

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rangedb_client::Client;
use rangedb_client::proto::RangeStatus;
use rangedb_tests::admin::whole;
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::{Processes, Shape, admin, full, seed, wait};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const KEYS: u32 = 10_000;
/// One key in a hundred.
const HOT: Range<u32> = 5_000..5_100;
/// Of a hundred operations, how many are for those.
const HOT_SHARE: u32 = 90;
const CLIENTS: usize = 64;
/// By when the load must be spread.
const LIMIT: Duration = Duration::from_secs(60);
/// The range is split when it gets this part of all the load.
const SPLIT_SHARE: usize = 8;
/// A node may do so much more than an even share of the hot span's load.
const EVEN_FACTOR: f64 = 1.5;

fn key(number: u32) -> Vec<u8> {
    format!("key-{number:06}").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_span_is_split_and_led_by_all_nodes() -> Result<()> {
    let cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    admin::set_config(&client, "range_merge_size", "0B").await?;
    admin::set_config(&client, "range_split_requests_per_second", "0").await?;
    let pipeline = client.pipeline();
    for part in (0..KEYS).collect::<Vec<_>>().chunks(CLIENTS) {
        try_join_all(part.iter().map(|number| pipeline.put(key(*number), vec![7; 100]))).await?;
    }
    let load = Load::start(&cluster).await?;
    wait::let_run(Duration::from_secs(1)).await;
    let window = Duration::from_secs(if full() { 10 } else { 2 });
    let before = load.rate(window).await;

    let threshold = (before as usize / SPLIT_SHARE).max(100);
    admin::set_config(&client, "range_split_requests_per_second", &threshold.to_string()).await?;
    let begun = Instant::now();
    let (parts, share) = wait::until("the hot span is spread", LIMIT, async || {
        let ranges = admin::ranges(&client).await?;
        let hot: Vec<_> = ranges.iter().filter(|range| hot_keys(range) > 0).collect();
        let mut led = BTreeMap::<u64, u32>::new();
        for range in &hot {
            *led.entry(range.leader_node_id).or_default() += hot_keys(range);
        }
        let most = led.values().max().copied().unwrap_or_default();
        let share = f64::from(most) / HOT.len() as f64;
        let told = || format!("{} ranges hold the hot keys, which are led so: {led:?}", hot.len());
        ensure!(led.len() == cluster.nodes.len(), "{}", told());
        ensure!(share * cluster.nodes.len() as f64 <= EVEN_FACTOR, "{}", told());
        Ok((hot.len(), share))
    })
    .await?;
    println!(
        "the hot span is {parts} ranges, led by all nodes, none more than {:.0} % of its keys, after {:?}",
        share * 100.0,
        begun.elapsed()
    );
    // It goes on until no part gets too much.
    wait::let_run(window * 2).await;
    let after = load.rate(window).await;
    println!("{before:.0} operations a second before, {after:.0} after: {:.2}", after / before);
    load.stop().await?;
    whole(&client).await?;
    admin::consistent(&client).await?;
    cluster.finish(PEER_LOST).await
}

/// How many of the hot keys a range holds. All of them get the same load.
fn hot_keys(range: &RangeStatus) -> u32 {
    let inside = |number: &u32| {
        let key = key(*number);
        key[..] >= range.start[..] && (range.end.is_empty() || key[..] < range.end[..])
    };
    u32::try_from(HOT.filter(inside).count()).unwrap_or(u32::MAX)
}

/// Clients that read and write, nearly always the hot keys.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    async fn start(cluster: &Processes) -> Result<Self> {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let seed = seed();
        let mut tasks = Vec::new();
        for gateway in 0..cluster.gateways.len() {
            let client = cluster.client_of(gateway).await?;
            for number in 0..CLIENTS / cluster.gateways.len() {
                let random = StdRng::seed_from_u64(seed ^ (gateway * CLIENTS + number) as u64);
                let (client, stop, done) = (client.clone(), Arc::clone(&stop), Arc::clone(&done));
                tasks.push(tokio::spawn(operate(client, random, stop, done)));
            }
        }
        Ok(Self { stop, done, tasks })
    }

    /// Operations a second from now on.
    async fn rate(&self, window: Duration) -> f64 {
        let (begun, before) = (Instant::now(), self.done.load(Ordering::Relaxed));
        wait::let_run(window).await;
        (self.done.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64()
    }

    async fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        Ok(())
    }
}

async fn operate(
    client: Client,
    mut random: StdRng,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
) -> Result<()> {
    let pipeline = client.pipeline();
    while !stop.load(Ordering::Relaxed) {
        let hot = random.random_range(0..100) < HOT_SHARE;
        let key = key(random.random_range(if hot { HOT } else { 0..KEYS }));
        if random.random_bool(0.5) {
            pipeline.put(key, vec![7; 100]).await?;
        } else {
            ensure!(pipeline.get(key).await?.is_some(), "a key is lost");
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
