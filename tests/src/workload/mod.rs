//! A workload that remembers what it was promised: writers with keys and unique values of their own,
//! readers that look at all keys, and the judgement at the end.
//!
//! Every key has one writer, which writes it step after step. A write whose outcome is unknown is
//! settled by CommitStatus before the key's next step, so that at every moment it is known exactly
//! what a key may hold: the state after some step between the last one that was settled when the
//! read began and the last one that was begun when it ended.

mod history;
mod judge;
mod pauses;
mod reader;
mod writer;

pub use history::{Outcome, Step};
pub use judge::Judgement;
pub use pauses::{Resumption, percentile_ms, summary};

use anyhow::{Context as _, Result};
use history::Keys;
use pauses::Acknowledged;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rangedb_client::{Client, Options};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Time of one call. Longer than any pause that is allowed, so that most writes end known.
const CALL_TIMEOUT: Duration = Duration::from_secs(6);

/// What runs.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub writers: usize,
    pub keys_per_writer: usize,
    pub readers: usize,
    /// Of every writer's steps, in thousandths, how many are deletions.
    pub deletes_per_mille: u32,
    pub value_bytes: usize,
    /// Writers use a Pipeline stream instead of unary calls.
    pub pipeline: bool,
    pub seed: u64,
}

impl Plan {
    /// A plan for tests of faults.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            writers: 8,
            keys_per_writer: 12,
            readers: 2,
            deletes_per_mille: 150,
            value_bytes: 64,
            pipeline: false,
            seed,
        }
    }
}

/// A running workload.
pub struct Workload {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

struct Shared {
    plan: Plan,
    keys: Keys,
    acknowledged: Acknowledged,
    reads: AtomicUsize,
    reads_refused: AtomicUsize,
    stop: CancellationToken,
}

impl Workload {
    /// Starts it against these gateways; each writer prefers another one.
    ///
    /// # Errors
    /// No gateway answers.
    pub async fn start(endpoints: &[String], plan: Plan) -> Result<Self> {
        let shared = Arc::new(Shared {
            plan,
            keys: Keys::new(plan.writers * plan.keys_per_writer),
            acknowledged: Acknowledged::new(plan.writers),
            reads: AtomicUsize::new(0),
            reads_refused: AtomicUsize::new(0),
            stop: CancellationToken::new(),
        });
        let mut tasks = Vec::new();
        for number in 0..plan.writers + plan.readers {
            let client = client(endpoints, number).await?;
            let random = StdRng::seed_from_u64(plan.seed.wrapping_add(number as u64));
            let shared = Arc::clone(&shared);
            tasks.push(if number < plan.writers {
                tokio::spawn(writer::run(shared, client, number, random))
            } else {
                tokio::spawn(reader::run(shared, client, random))
            });
        }
        Ok(Self { shared, tasks })
    }

    /// Writes acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.shared.acknowledged.count()
    }

    /// Reads answered, and reads refused in spite of retries, so far.
    #[must_use]
    pub fn reads(&self) -> (usize, usize) {
        let read = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        (read(&self.shared.reads), read(&self.shared.reads_refused))
    }

    /// Waits until every writer had a write acknowledged that it began after `since`.
    ///
    /// # Errors
    /// Some writer had none in time.
    pub async fn resumed(&self, since: Instant, limit: Duration) -> Result<Resumption> {
        self.shared.acknowledged.resumed(since, limit).await
    }

    /// Latencies of the writes acknowledged between two moments.
    #[must_use]
    pub fn latencies(&self, from: Instant, to: Instant) -> Vec<Duration> {
        self.shared.acknowledged.latencies(from, to)
    }

    /// The longest time without any acknowledgement between two moments.
    #[must_use]
    pub fn longest_pause(&self, from: Instant, to: Instant) -> Duration {
        self.shared.acknowledged.longest_pause(from, to)
    }

    /// Ends the workload; every open write is settled first.
    ///
    /// # Errors
    /// A broken promise that a reader or writer met.
    pub async fn stop(self) -> Result<Judgement> {
        self.shared.stop.cancel();
        for task in self.tasks {
            task.await.context("a task of the workload panicked")??;
        }
        Ok(Judgement::new(self.shared))
    }
}

async fn client(endpoints: &[String], number: usize) -> Result<Client> {
    let mut endpoints = endpoints.to_vec();
    let preferred = number % endpoints.len();
    endpoints.rotate_left(preferred);
    let options = Options { timeout: CALL_TIMEOUT, ..Options::default() };
    Ok(Client::connect_with(endpoints, options).await?)
}
