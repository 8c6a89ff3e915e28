//! What transactions cost: rounds of consensus, time beside plain puts, a large one beside small calls.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use rangedb_client::{Client, Error, Options, TransactionOptions};
use rangedb_tests::admin::split_at;
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::workload::percentile_ms;
use rangedb_tests::{Processes, Shape, admin, full, http, rounds, wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const PROPOSALS: &str = "rangedb_node_proposals_total";
const LARGE_LIMIT: Duration = Duration::from_secs(60);
const SETTLED_LIMIT: Duration = Duration::from_secs(10);
/// Transactions of each kind that are counted.
const COUNTED: usize = 20;
/// Operations of each kind that are timed.
const TIMED: usize = 60;

async fn start() -> Result<(Processes, Client)> {
    let cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let options = Options { timeout: Duration::from_secs(60), ..Options::default() };
    let client = Client::connect_with(cluster.endpoints(), options).await?;
    admin::set_config(&client, "range_merge_size", "0B").await?;
    for key in ["h", "p"] {
        split_at(&client, key.as_bytes()).await?;
    }
    Ok((cluster, client))
}

/// Writes that the nodes have handed to consensus, once it does not grow any more.
async fn proposals(cluster: &Processes) -> Result<u64> {
    let count = async || {
        let mut sum = 0.0;
        for node in &cluster.nodes {
            sum += http::metric(&node.http, PROPOSALS).await?;
        }
        anyhow::Ok(sum as u64)
    };
    wait::until("all is settled", SETTLED_LIMIT, async || {
        let before = count().await?;
        wait::let_run(Duration::from_millis(300)).await;
        let after = count().await?;
        ensure!(before == after, "{before} and {after}");
        Ok(after)
    })
    .await
}

async fn commit(client: &Client, keys: &[&str], value: String) -> Result<()> {
    let txn = client.begin(TransactionOptions::default()).await?;
    keys.iter().for_each(|key| txn.put((*key).to_owned(), value.clone()));
    txn.commit().await?;
    Ok(())
}

/// A transaction in one range is one write. One over three takes one of each, side by side, which are waited for; and
/// behind the answer another one of each, and a last one of the primary's.
#[tokio::test(flavor = "multi_thread")]
async fn rounds_of_consensus_are_as_few_as_promised() -> Result<()> {
    let (cluster, client) = start().await?;
    let kinds: [(&str, &[&str], u64); 3] = [
        ("one key", &["a"], 1),
        ("one range", &["a", "b", "c"], 1),
        ("three ranges", &["a", "m", "z"], 7),
    ];
    for (name, keys, wanted) in kinds {
        let before = proposals(&cluster).await?;
        for number in 0..COUNTED {
            commit(&client, keys, number.to_string()).await?;
        }
        let each = (proposals(&cluster).await? - before) as f64 / COUNTED as f64;
        println!("{name}: {each} writes handed to consensus for one transaction");
        ensure!((each - wanted as f64).abs() < 0.2, "{each} instead of {wanted}");
    }
    times(&client).await?;
    cluster.finish(&[]).await
}

/// Prints how long each takes, in turn.
async fn times(client: &Client) -> Result<()> {
    let mut times: [Vec<Duration>; 5] = Default::default();
    // Keys of their own, so that none waits for what another settles behind its answer.
    let (one, three) = (["b/1", "b/2", "b/3"], ["c", "m", "z"]);
    let (one_batch, three_batch) = (["d/1", "d/2", "d/3"], ["e", "n", "y"]);
    for number in 0..rounds(TIMED) {
        let value = number.to_string();
        let batch = |keys: [&'static str; 3]| {
            keys.map(|key| (Bytes::from(key), Some(Bytes::from(value.clone()))))
        };
        for (kind, times) in times.iter_mut().enumerate() {
            let begun = Instant::now();
            match kind {
                0 => drop(client.put("a", value.clone()).await?),
                1 => commit(client, &one, value.clone()).await?,
                2 => commit(client, &three, value.clone()).await?,
                3 => drop(client.batch(batch(one_batch)).await?),
                _ => drop(client.batch(batch(three_batch)).await?),
            }
            times.push(begun.elapsed());
        }
    }
    let names = ["put", "one range", "three ranges", "batch, one range", "batch, three ranges"];
    times.iter_mut().for_each(|times| times.sort());
    let put = percentile_ms(&times[0], 5000);
    for (name, times) in names.iter().zip(&times) {
        let [p50, p99] = [5000, 9900].map(|hundredths| percentile_ms(times, hundredths));
        println!("{name}: {p50:.2} ms ({:.2} of a put), 99th percentile {p99:.2} ms", p50 / put);
    }
    Ok(())
}

/// When calls began, and how long they took.
type Times = Vec<(Instant, Duration)>;

/// What others see of it while something large goes on.
struct Others {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Result<Times>>>,
}

impl Others {
    /// Clients that put small values, a hundred a second each.
    fn start(client: &Client, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let put = |number: usize| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut times = Times::new();
                for turn in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let begun = Instant::now();
                    client.put(format!("other/{number}/{}", turn % 100), vec![7; 100]).await?;
                    times.push((begun, begun.elapsed()));
                    wait::let_run(Duration::from_millis(10)).await;
                }
                Ok(times)
            })
        };
        Self { tasks: (0..count).map(put).collect(), stop }
    }

    /// All times, in the order of their beginnings.
    async fn stop(self) -> Result<Times> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await??);
        }
        all.sort();
        Ok(all)
    }
}

/// A stretch of time.
type Window = (Instant, Instant);

/// Of the times of what began within the windows.
fn percentile_within(times: &Times, windows: &[Window], hundredths: usize) -> f64 {
    let inside = |begun| windows.iter().any(|(from, to)| (from..to).contains(&begun));
    let inside = times.iter().filter(|(begun, _)| inside(begun));
    let mut inside: Vec<Duration> = inside.map(|(_, time)| *time).collect();
    inside.sort();
    percentile_ms(&inside, hundredths)
}

/// Something large, as it is committed again and again.
struct Large {
    keys: usize,
    value: Bytes,
}

impl Large {
    fn key(number: usize) -> String {
        format!("{}/{number:06}", ["b", "k", "z"][number % 3])
    }

    const fn bytes(&self) -> usize {
        self.keys * (self.value.len() + 8)
    }

    async fn commit(&self, cluster: &Processes, client: &Client) -> Result<()> {
        // As another application: what it takes to make and send it is not the database's.
        let (endpoints, value, keys) = (cluster.endpoints(), self.value.clone(), self.keys);
        let large = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let options = Options { timeout: LARGE_LIMIT, ..Options::default() };
                let client = Client::connect_with(endpoints, options).await?;
                let txn = client.begin(TransactionOptions::default()).await?;
                (0..keys).for_each(|number| txn.put(Self::key(number), value.clone()));
                anyhow::Ok(txn.commit().await?)
            })
        };
        let version = tokio::task::spawn_blocking(large).await??;
        let last = client.get(Self::key(keys - 1)).await?.context("it was written")?;
        ensure!(last.version == version, "{last:?}");
        Ok(())
    }
}

/// Nothing else, a large transaction, and what is done behind its answer follow one another several times: what this
/// machine does besides meets them alike.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_commits_and_a_larger_one_is_refused() -> Result<()> {
    let (cluster, client) = start().await?;
    let keys = if full() { 50_000 } else { 5_000 };
    let large = Large { keys, value: Bytes::from(vec![b'v'; 1_260]) };
    ensure!(
        !full() || large.bytes() >= 60 << 20,
        "{} bytes are not what is promised",
        large.bytes()
    );
    let (turns, quiet, behind) = if full() { (4, 20, 10) } else { (1, 3, 1) };
    let others = Others::start(&client, 8);
    let mut windows: [Vec<Window>; 3] = Default::default();
    for _ in 0..turns {
        let begun = Instant::now();
        wait::let_run(Duration::from_secs(quiet)).await;
        let sent = Instant::now();
        large.commit(&cluster, &client).await?;
        let answered = Instant::now();
        wait::let_run(Duration::from_secs(behind)).await;
        let ends = [begun, sent, answered, Instant::now()];
        windows
            .iter_mut()
            .zip(ends.windows(2))
            .for_each(|(all, ends)| all.push((ends[0], ends[1])));
    }
    let times = others.stop().await?;
    for (turn, (from, to)) in windows[1].iter().enumerate() {
        let [before, during, after] =
            [0, 1, 2].map(|kind| percentile_within(&times, &windows[kind][turn..=turn], 9900));
        println!(
            "{keys} keys, {:.1} MiB, in {:?}; others' 99th percentile {before:.1} ms before, {during:.1} ms meanwhile, \
             {after:.1} ms after",
            large.bytes() as f64 / f64::from(1 << 20),
            *to - *from
        );
    }
    let [before, during, after] = windows.map(|all| percentile_within(&times, &all, 9900));
    println!(
        "all together: {before:.1}, {during:.1} and {after:.1} ms; meanwhile {:.2} times before",
        during / before
    );
    let txn = client.begin(TransactionOptions::default()).await?;
    (0..70).for_each(|number| txn.put(Large::key(number), vec![0; 1 << 20]));
    let begun = Instant::now();
    let refused = txn.commit().await;
    let took = begun.elapsed();
    println!("70 MiB were refused after {took:?}: {refused:?}");
    ensure!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    cluster.finish(PEER_LOST).await
}

/// A key that is overwritten all the time: what is kept is a window, and reading it costs the same. What of that is the
/// machine's, its neighbour tells, which nobody writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_hot_key_costs_no_more_than_its_window() -> Result<()> {
    let (cluster, client) = start().await?;
    let (window, length) = if full() { (20, 200) } else { (10, 22) };
    admin::set_config(&client, "gc_retention", &format!("{window}s")).await?;
    admin::set_config(&client, "transaction_lifetime_max", &format!("{window}s")).await?;
    let value = Bytes::from(vec![b'v'; HOT_VALUE]);
    let stop = Arc::new(AtomicBool::new(false));
    let pause = Duration::from_secs(1) * HOT_WRITERS / if full() { 5_000 } else { 500 };
    let writers: Vec<_> = (0..HOT_WRITERS)
        .map(|_| tokio::spawn(overwrite(client.clone(), value.clone(), pause, Arc::clone(&stop))))
        .collect();
    let (begun, mut most, mut most_in_all) = (Instant::now(), 0, 0);
    // Of the hot key and of its neighbour: when, and how long.
    let mut reads: [Times; 2] = Default::default();
    client.put(NEIGHBOUR, value.clone()).await?;
    while begun.elapsed() < Duration::from_secs(length) {
        wait::let_run(Duration::from_millis(100)).await;
        for key in if reads[0].len().is_multiple_of(2) { [0, 1] } else { [1, 0] } {
            reads[key].push(read(&client, [HOT, NEIGHBOUR][key]).await?);
        }
        most = most.max(disk(&cluster, "engine")?);
        most_in_all = most_in_all.max(disk(&cluster, "")?);
    }
    stop.store(true, Ordering::Relaxed);
    let mut written = 0;
    for writer in writers {
        written += writer.await??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let per_second = written as f64 / seconds;
    // What one window writes on one node: key, version and value, in the log and in the data.
    let data = window as f64 * per_second * (HOT_VALUE + AROUND_VALUE) as f64;
    println!(
        "{per_second:.0} writes a second for {seconds:.0} s; a node's engine had {most} MiB on disk at most, \
         all of a node {most_in_all} MiB; a window's data is {:.1} MiB",
        data / f64::from(1 << 20)
    );
    for (name, reads) in ["it", "its neighbour"].iter().zip(&reads) {
        print_reads(name, reads, begun);
    }
    let limit = 2.0 * data + f64::from(64 << 20);
    ensure!((most << 20) as f64 <= limit, "{most} MiB, {limit} bytes are allowed");
    cluster.finish(PEER_LOST).await
}

/// Clients that overwrite it at the same time.
const HOT_WRITERS: u32 = 64;
const HOT: &str = "hot";
/// In the same range.
const NEIGHBOUR: &str = "hos";
const HOT_VALUE: usize = 100;
/// Key, version, request id and lengths of its record.
const AROUND_VALUE: usize = 60;

/// Overwrites the hot key at a pace, which it makes up for when it was held up; gives how often.
async fn overwrite(
    client: Client,
    value: Bytes,
    pause: Duration,
    stop: Arc<AtomicBool>,
) -> Result<u64> {
    let mut written = 0;
    let mut turns = tokio::time::interval(pause);
    while !stop.load(Ordering::Relaxed) {
        turns.tick().await;
        client.put(HOT, value.clone()).await?;
        written += 1;
    }
    Ok(written)
}

async fn read(client: &Client, key: &'static str) -> Result<(Instant, Duration)> {
    let begun = Instant::now();
    client.get(key).await?;
    Ok((begun, begun.elapsed()))
}

/// Medians of the first three seconds, of all that follows, and of every twenty seconds.
fn print_reads(name: &str, reads: &Times, begun: Instant) {
    let at = |seconds| begun + Duration::from_secs(seconds);
    let median = |from, to| percentile_within(reads, &[(from, to)], 5000);
    let now = Instant::now();
    let (first, later) = (median(begun, at(3)), median(at(3), now));
    let windows: Vec<String> = (0..(now - begun).as_secs() / 20)
        .map(|window| format!("{:.2}", median(at(window * 20), at(window * 20 + 20))))
        .collect();
    println!(
        "a read of {name} took {first:.2} ms at first, {later:.2} ms later, {:.2} times that; as it went {}",
        later / first,
        windows.join(", ")
    );
}

/// MiB on disk of a part of the fullest node.
fn disk(cluster: &Processes, part: &str) -> Result<u64> {
    let mut most = 0;
    for node in &cluster.nodes {
        most = most.max(rangedb_tests::usage::disk_bytes(&node.data_dir.join(part))?);
    }
    Ok(most >> 20)
}
