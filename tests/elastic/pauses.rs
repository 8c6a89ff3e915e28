//! How long writes wait for a split and for a transfer of leadership.

use anyhow::{Result, ensure};
use rand::seq::SliceRandom as _;
use rand::{SeedableRng as _, rngs::StdRng};
use rangedb_tests::admin::{move_first_leader, split_at, whole};
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::workload::{Plan, percentile_ms};
use rangedb_tests::{Processes, Shape, Workload, admin, full, rounds, seed, wait};
use std::time::{Duration, Instant};

/// How many splits and transfers; the full figure is 200.
const ROUNDS: usize = 10;
/// Before and after a change, so that what it delayed is acknowledged.
const AROUND: Duration = Duration::from_millis(150);
const SPLIT_MS_MAX: f64 = 50.0;
const TRANSFER_MS_MAX: f64 = 100.0;
/// Noise of a machine that runs everything else, too, when only few rounds are made.
const FEW_ROUNDS_FACTOR: f64 = 10.0;

#[tokio::test(flavor = "multi_thread")]
async fn splits_and_transfers_hardly_delay_writes() -> Result<()> {
    let cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    admin::set_config(&client, "range_merge_size", "0B").await?;
    let seed = seed();
    let plan = Plan { writers: 4, readers: 1, keys_per_writer: 256, ..Plan::new(seed) };
    let workload = Workload::start(&cluster.endpoints(), plan).await?;
    let rounds = rounds(ROUNDS);
    wait::let_run(Duration::from_secs(1)).await;

    let mut nothing = Delays::default();
    for _ in 0..rounds {
        let begun = Instant::now();
        wait::let_run(AROUND * 2).await;
        nothing.add(&workload, begun);
    }
    let mut transfers = Delays::default();
    for _ in 0..rounds {
        wait::let_run(AROUND).await;
        let begun = Instant::now();
        move_first_leader(&client).await?;
        wait::let_run(AROUND).await;
        transfers.add(&workload, begun);
    }
    let mut prefixes: Vec<u8> = (1..=u8::MAX).collect();
    prefixes.shuffle(&mut StdRng::seed_from_u64(seed));
    let mut splits = Delays::default();
    for prefix in prefixes.iter().take(rounds) {
        wait::let_run(AROUND).await;
        let begun = Instant::now();
        split_at(&client, format!("workload/{prefix:02x}").as_bytes()).await?;
        wait::let_run(AROUND).await;
        splits.add(&workload, begun);
    }
    nothing.print("nothing");
    let factor = if full() { 1.0 } else { FEW_ROUNDS_FACTOR };
    let judged = workload.stop().await?.verify(&client).await?;
    let (transfer_ms, split_ms) = (transfers.print("a transfer"), splits.print("a split"));
    println!("{judged:?}");
    whole(&client).await?;
    ensure!(judged.refused == 0, "{} writes failed in spite of retries", judged.refused);
    ensure!(split_ms <= SPLIT_MS_MAX * factor, "a split delays writes by {split_ms} ms");
    ensure!(transfer_ms <= TRANSFER_MS_MAX * factor, "a transfer takes {transfer_ms} ms");
    cluster.finish(PEER_LOST).await
}

/// What writes met around changes.
#[derive(Default)]
struct Delays {
    slowest: Vec<Duration>,
    pauses: Vec<Duration>,
}

impl Delays {
    fn add(&mut self, workload: &Workload, begun: Instant) {
        let now = Instant::now();
        self.slowest.extend(workload.latencies(begun, now).last());
        self.pauses.push(workload.longest_pause(begun, now));
    }

    /// Tells of them; returns the 99th percentile of each time's slowest write, in milliseconds.
    fn print(mut self, what: &str) -> f64 {
        self.slowest.sort();
        self.pauses.sort();
        let at = |times: &[Duration]| {
            [5000, 9000, 9900, 10_000].map(|hundredths| percentile_ms(times, hundredths))
        };
        println!(
            "{what}, {} times: slowest write p50, p90, p99, worst {:.1?} ms; longest pause {:.1?} ms",
            self.pauses.len(),
            at(&self.slowest),
            at(&self.pauses)
        );
        percentile_ms(&self.slowest, 9900)
    }
}
