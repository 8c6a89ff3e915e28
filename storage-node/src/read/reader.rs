//! How each kind of read is made.

use super::ReadPool;
use super::metrics;
use super::view::{Confirm, Counts, Generations, View};
use crate::access::{Refusal, Target, Timestamps};
use crate::store::ReadError;
use crate::write::{ReadStart, StampError};
use bytes::Bytes;
use rangedb_engine::Engine;
use rangedb_mvcc::state::{AppliedState, RangeRecord as _};
use rangedb_mvcc::{Page, ScanOptions, Seen, Value};
use rangedb_types::limits::MESSAGE_BYTES_MAX;
use rangedb_types::{Span, Timestamp};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

/// Keys that one job of the pool reads, unless a single request asks for more: a job that is too
/// long keeps others waiting.
const KEYS_PER_JOB_MAX: usize = 256;
/// Keys looked up at once for one request, so that their values fit in memory.
const KEYS_PER_LOOK: usize = 16;
/// Bytes of values that one answer may hold; the rest of a message is for its frame and for what
/// shares it.
const ANSWER_BYTES_MAX: usize = MESSAGE_BYTES_MAX - (4 << 20);

/// How often a scan of the latest state begins again because more was applied.
const LATEST_ATTEMPTS_MAX: usize = 4;

/// A last commit older than this is not what a scan reads at.
const COMMIT_AGE_MAX: std::time::Duration = std::time::Duration::from_secs(1);

pub(super) const DEADLINE: Refusal =
    Refusal::NotReady("the deadline passed before the read could begin");

/// A request for the latest state of some keys of one range.
pub struct Get {
    pub tag: u64,
    pub target: Target,
    pub keys: Vec<Bytes>,
    pub deadline: Instant,
}

/// The values, in the order of the keys.
pub type GetResult = Result<Vec<Option<Value>>, Refusal>;

/// What a read sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadAt {
    /// Zero: the latest.
    pub version: Timestamp,
    /// Transactions whose intents do not concern it.
    pub pass_over: Vec<Timestamp>,
}

/// A request for a page of a range.
pub struct Scan {
    pub target: Target,
    pub span: Span,
    pub options: ScanOptions,
    pub at: ReadAt,
    pub deadline: Instant,
}

/// A page, and the version it shows.
pub type ScanResult = Result<(Page, Timestamp), Refusal>;

/// Reads the engine for requests.
pub struct Reader {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) pool: Arc<ReadPool>,
    timestamps: Arc<dyn Timestamps>,
    /// Owns the few tasks of reads that the lease did not cover.
    tasks: TaskTracker,
    runtime: tokio::runtime::Handle,
}

impl Reader {
    /// Must be called on the runtime that serves requests.
    #[must_use]
    pub fn new(
        engine: Arc<dyn Engine>,
        pool: Arc<ReadPool>,
        timestamps: Arc<dyn Timestamps>,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        let runtime = tokio::runtime::Handle::current();
        Arc::new(Self { engine, pool, timestamps, tasks, runtime })
    }

    /// Reads many requests with as few jobs and snapshots as possible. `answer` gets every tag's
    /// result once, in one or more calls.
    pub fn get_batch<A>(self: &Arc<Self>, mut gets: Vec<Get>, answer: A)
    where
        A: Fn(Vec<(u64, GetResult)>) + Clone + Send + 'static,
    {
        while !gets.is_empty() {
            let mut keys = 0;
            let fits = gets.iter().take_while(|get| {
                keys += get.keys.len();
                keys <= KEYS_PER_JOB_MAX
            });
            let rest = gets.split_off(fits.count().max(1));
            let job = std::mem::replace(&mut gets, rest);
            let tags: Vec<u64> = job.iter().map(|get| get.tag).collect();
            let (reader, sink) = (Arc::clone(self), answer.clone());
            if let Err(refusal) = self.pool.submit(move || reader.get_leased(job, sink)) {
                answer(tags.into_iter().map(|tag| (tag, Err(refusal.clone()))).collect());
            }
        }
    }

    /// One job of `get_batch`: all of it on one snapshot.
    fn get_leased<A>(self: &Arc<Self>, gets: Vec<Get>, answer: A)
    where
        A: Fn(Vec<(u64, GetResult)>) + Clone + Send + 'static,
    {
        let now = Instant::now();
        let mut ranges: Vec<(&Target, Generations, bool)> = Vec::new();
        for get in &gets {
            let known = ranges.iter().any(|(target, ..)| same_range(target, &get.target));
            if !known {
                let before = Counts::of(get.target.access());
                let leased = get.target.access().lease_holds(get.target.term());
                ranges.push((&get.target, Generations { before, after: before }, leased));
            }
        }
        let snapshot = self.engine.snapshot();
        for (target, generations, leased) in &mut ranges {
            generations.after = Counts::of(target.access());
            *leased = *leased && target.access().lease_holds(target.term());
        }
        let views: Vec<Option<Result<View, Refusal>>> = ranges
            .iter()
            .map(|(target, generations, leased)| {
                leased.then(|| View::with(Arc::clone(&snapshot), target, *generations))
            })
            .collect();
        let at: Vec<usize> = gets
            .iter()
            .map(|get| {
                let found = ranges.iter().position(|(target, ..)| same_range(target, &get.target));
                found.expect("every target was added above")
            })
            .collect();
        drop(ranges);
        let mut answers = Vec::with_capacity(gets.len());
        let mut unconfirmed = Vec::new();
        for (get, at) in gets.into_iter().zip(at) {
            match &views[at] {
                _ if get.deadline <= now => answers.push((get.tag, Err(DEADLINE))),
                Some(Ok(view)) => answers.push((get.tag, values(view, &get.keys, Seen::LATEST))),
                Some(Err(refusal)) => answers.push((get.tag, Err(refusal.clone()))),
                None => unconfirmed.push(get),
            }
        }
        metrics::CONFIRMED.with_label_values(&["lease"]).inc_by(answers.len() as u64);
        if !answers.is_empty() {
            answer(answers);
        }
        self.get_by_read_index(unconfirmed, &answer);
    }

    /// Confirms each range by one ReadIndex round that its requests share.
    fn get_by_read_index<A>(self: &Arc<Self>, mut gets: Vec<Get>, answer: &A)
    where
        A: Fn(Vec<(u64, GetResult)>) + Clone + Send + 'static,
    {
        while let Some(first) = gets.first() {
            let target = first.target.clone();
            let (same, others) =
                gets.into_iter().partition(|get: &Get| same_range(&get.target, &target));
            gets = others;
            let same: Vec<Get> = same;
            let (reader, answer) = (Arc::clone(self), answer.clone());
            let read = async move {
                let deadline = same.iter().map(|get| get.deadline).max();
                let deadline = deadline.expect("a partition holds at least its first");
                let (tags, keys): (Vec<_>, Vec<_>) =
                    same.into_iter().map(|get| (get.tag, get.keys)).unzip();
                let read = reader
                    .after_read_index(&target, deadline, move |view| {
                        let each = keys.iter().map(|keys| values(view, keys, Seen::LATEST));
                        Ok(each.collect::<Vec<_>>())
                    })
                    .await;
                answer(match read {
                    Ok(results) => tags.into_iter().zip(results).collect(),
                    Err(refusal) => {
                        tags.into_iter().map(|tag| (tag, Err(refusal.clone()))).collect()
                    }
                });
            };
            self.tasks.spawn_on(read, &self.runtime);
        }
    }

    /// The state of some keys at a timestamp.
    ///
    /// # Errors
    /// Any refusal of a read.
    pub async fn get_at(&self, get: Get, at: ReadAt) -> GetResult {
        let Get { target, keys, deadline, .. } = get;
        self.await_writes(&target, at.version, deadline).await?;
        self.confirmed(&target, deadline, move |view| {
            view.check_version(at.version)?;
            values(view, &keys, Seen { read_ts: at.version, pass_over: &at.pass_over })
        })
        .await
    }

    /// One page of a range.
    ///
    /// # Errors
    /// Any refusal of a read.
    pub async fn scan(&self, scan: Scan) -> ScanResult {
        if !scan.at.version.is_zero() {
            let version = scan.at.version;
            return Ok((self.scan_at(&scan, version).await?, version));
        }
        // Everything acknowledged so far is applied here, at or below this; later pages are asked at the same
        // version and must show the same state, so this one must wait, too.
        let mut version = self.latest_version(&scan.target);
        for _ in 0..LATEST_ATTEMPTS_MAX {
            match self.scan_latest(&scan, version).await? {
                Ok(page) => return Ok((page, version)),
                Err(newer) => version = newer,
            }
        }
        let version = self.timestamps.get(scan.deadline).await?;
        Ok((self.scan_at(&scan, version).await?, version))
    }

    async fn scan_at(&self, scan: &Scan, version: Timestamp) -> Result<Page, Refusal> {
        let Scan { target, span, options, at, deadline } = scan;
        let (span, options, at) = (span.clone(), *options, at.clone());
        self.await_writes(target, version, *deadline).await?;
        self.confirmed(target, *deadline, move |view| {
            view.check_version(version)?;
            page(view, &span, version, &at.pass_over, &options)
        })
        .await
    }

    /// The latest state; or the version of what was applied meanwhile. The version of a transaction's commit
    /// may be one that is older than its application here, so it must be found in the snapshot.
    async fn scan_latest(
        &self,
        scan: &Scan,
        version: Timestamp,
    ) -> Result<Result<Page, Timestamp>, Refusal> {
        let Scan { target, span, options, at, deadline } = scan;
        let (span, options, at) = (span.clone(), *options, at.clone());
        let range_id = target.range_id();
        self.await_writes(target, version, *deadline).await?;
        self.confirmed(target, *deadline, move |view| {
            let snapshot = &*view.snapshot;
            // What an intent stands for may be acknowledged already, at a version above this one:
            // the caller must say which version it means.
            rangedb_mvcc::refuse_intents(snapshot, &span, &at.pass_over)?;
            let applied = AppliedState::load(snapshot, range_id)?.unwrap_or_default().max_version;
            if applied > version {
                return Ok(Err(applied));
            }
            page(view, &span, version, &at.pass_over, &options).map(Ok)
        })
        .await
    }

    /// A version that shows the latest state and will be kept for a while: in a range that was not
    /// written for long, its last commit may lie below the safe point.
    fn latest_version(&self, target: &Target) -> Timestamp {
        let (commit, seen) = (target.access().largest_commit(), self.timestamps.latest_seen());
        if seen > commit && seen.since(commit) > COMMIT_AGE_MAX { seen } else { commit }
    }

    /// Makes sure that no write at or below `version` can come any more.
    ///
    /// # Errors
    /// Any refusal of a read.
    pub async fn await_writes(
        &self,
        target: &Target,
        version: Timestamp,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        // A promise above the oracle's time would stop all writes until it gets there.
        if version > self.timestamps.latest_seen() && version > target.access().largest_commit() {
            let now = self.timestamps.get(deadline).await?;
            if version > now {
                let words = "the read version lies in the future; use one that was returned";
                return Err(Refusal::Invalid(words.to_owned()));
            }
        }
        let start = target.state().stamps.begin_read(target.term(), version);
        let ended = match start {
            Ok(ReadStart::Now) => return Ok(()),
            Ok(ReadStart::After(ended)) => ended,
            Err(StampError::Overloaded) => {
                return Err(Refusal::Overloaded("too many reads wait for writes"));
            }
            Err(StampError::Behind | StampError::OtherTerm) => return Err(target.outdated()),
        };
        let began = std::time::Instant::now();
        let outcome = timeout_at(deadline, ended).await;
        metrics::WRITES_AWAITED.observe(began.elapsed().as_secs_f64());
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(target.outdated()),
            Err(_) => Err(Refusal::NotReady("writes below the read version did not end in time")),
        }
    }

    /// Runs `read` on a view that is surely the range's latest state.
    ///
    /// # Errors
    /// Any refusal of a read, or what `read` returns.
    pub async fn confirmed<T, F>(
        &self,
        target: &Target,
        deadline: Instant,
        read: F,
    ) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&View) -> Result<T, Refusal> + Send + 'static,
    {
        let (engine, leased) = (Arc::clone(&self.engine), target.clone());
        let attempt = self.pool.run(move || match View::open(&*engine, &leased, Confirm::Lease) {
            Ok(Some(view)) => Ok(read(&view)),
            Ok(None) => Err(read),
            Err(refusal) => Ok(Err(refusal)),
        });
        match timeout_at(deadline, attempt).await.map_err(|_| DEADLINE)?? {
            Ok(result) => {
                metrics::CONFIRMED.with_label_values(&["lease"]).inc();
                result
            }
            Err(read) => self.after_read_index(target, deadline, read).await,
        }
    }

    /// Runs `read` on a view of this replica that nothing confirms: only for what decides nothing
    /// that consensus does not check again.
    ///
    /// # Errors
    /// Any refusal of a read, or what `read` returns.
    pub async fn unconfirmed<T, F>(
        &self,
        target: &Target,
        deadline: Instant,
        read: F,
    ) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&View) -> Result<T, Refusal> + Send + 'static,
    {
        self.run_on_view(target, deadline, Confirm::Unneeded, read).await
    }

    async fn after_read_index<T, F>(
        &self,
        target: &Target,
        deadline: Instant,
        read: F,
    ) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&View) -> Result<T, Refusal> + Send + 'static,
    {
        metrics::CONFIRMED.with_label_values(&["read_index"]).inc();
        match timeout_at(deadline, target.access().read_index()).await {
            Ok(Ok(())) => {}
            Ok(Err(ReadError::NotLeader)) => return Err(target.not_leader()),
            Ok(Err(ReadError::NotReady)) | Err(_) => {
                return Err(Refusal::NotReady("the leader could not confirm itself"));
            }
            Ok(Err(ReadError::Stopping)) => return Err(Refusal::NotReady("the node is stopping")),
        }
        self.run_on_view(target, deadline, Confirm::Done, read).await
    }

    async fn run_on_view<T, F>(
        &self,
        target: &Target,
        deadline: Instant,
        confirm: Confirm,
        read: F,
    ) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&View) -> Result<T, Refusal> + Send + 'static,
    {
        let (engine, target) = (Arc::clone(&self.engine), target.clone());
        let job = self.pool.run(move || {
            let view = View::open(&*engine, &target, confirm)?;
            read(&view.expect("only a lease can be missing, and none is asked for"))
        });
        timeout_at(deadline, job).await.map_err(|_| DEADLINE)??
    }
}

pub(super) fn page(
    view: &View,
    span: &Span,
    read_ts: Timestamp,
    pass_over: &[Timestamp],
    options: &ScanOptions,
) -> Result<Page, Refusal> {
    let seen = Seen { read_ts, pass_over };
    Ok(rangedb_mvcc::scan(&*view.snapshot, &view.specials.tombstones, span, seen, options)?)
}

fn same_range(a: &Target, b: &Target) -> bool {
    Arc::ptr_eq(a.state(), b.state()) && a.leadership == b.leadership
}

pub(super) fn values(view: &View, keys: &[Bytes], seen: Seen<'_>) -> GetResult {
    let tombstones = &view.specials.tombstones;
    if let [key] = keys {
        let value = rangedb_mvcc::get(&*view.snapshot, tombstones, key, seen)?;
        return Ok(vec![value]);
    }
    let mut answer = Vec::with_capacity(keys.len());
    let mut bytes = 0;
    for keys in keys.chunks(KEYS_PER_LOOK) {
        let keys: Vec<&[u8]> = keys.iter().map(Bytes::as_ref).collect();
        let values = rangedb_mvcc::multi_get(&*view.snapshot, tombstones, &keys, seen)?;
        if !add_within_limit(&mut answer, values, &mut bytes) {
            break;
        }
    }
    Ok(answer)
}

/// Adds values until the answer is full; it holds at least one, however large. False once it is full:
/// the gateway asks again for the keys that are missing at its end.
fn add_within_limit(
    answer: &mut Vec<Option<Value>>,
    values: Vec<Option<Value>>,
    bytes: &mut usize,
) -> bool {
    for value in values {
        *bytes += value.as_ref().map_or(0, |value| value.bytes.len());
        if *bytes > ANSWER_BYTES_MAX && !answer.is_empty() {
            return false;
        }
        answer.push(value);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_cut_at_its_limit_and_holds_at_least_one_value() {
        let value =
            |len: usize| Some(Value { bytes: Bytes::from(vec![0; len]), version: Timestamp(1) });
        let (mut answer, mut bytes) = (Vec::new(), 0);
        assert!(add_within_limit(&mut answer, vec![value(ANSWER_BYTES_MAX + 1)], &mut bytes));
        assert!(!add_within_limit(&mut answer, vec![value(1), None], &mut bytes));
        assert_eq!(answer.len(), 1);
        let (mut answer, mut bytes) = (Vec::new(), 0);
        let half = ANSWER_BYTES_MAX / 2;
        let values = vec![value(half), None, value(half), value(1), None];
        assert!(!add_within_limit(&mut answer, values, &mut bytes));
        assert_eq!(answer.len(), 3);
    }
}
