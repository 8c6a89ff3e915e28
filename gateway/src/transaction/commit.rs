//! Commit, from the writes to the answer, and the clean-up behind it.

use super::fate::{Fate, Haste, Inquiry};
use super::ranges::{AtKey, first_step, is_large, on_each};
use super::reads::Check;
use super::steps::{act, at, commit_primary, finish, resolve};
use super::token::Token;
use crate::backoff::Backoff;
use crate::dispatch::Dispatcher;
use crate::errors::Failure;
use crate::operation::{Action, Reach};
use bytes::Bytes;
use rangedb_proto::internal::v1::node_action::{self, Kind, write};
use rangedb_types::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Keys that an async commit names in its primary's intent.
const ASYNC_KEYS_MAX: usize = 256;
/// How long, in oracle time, intents stand of which nobody hears anything.
pub(super) const LIFETIME: Duration = Duration::from_secs(3);
/// How long the clean-up behind a transaction is tried; whoever meets what it left goes on.
pub(super) const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// About how long a value is written again when its key is settled.
const INLINE_BYTES_MAX: usize = 1 << 10;
/// Pauses before a batch is tried again that gave way to another.
const AGAIN_FIRST: Duration = Duration::from_millis(4);
const AGAIN_LONGEST: Duration = Duration::from_millis(200);

/// What a transaction wants with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    Put(Bytes),
    Delete,
    /// That nobody else writes it.
    Check,
}

/// A key that a transaction writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub key: Bytes,
    pub want: Want,
}

impl Write {
    pub(super) fn to_wire(&self) -> node_action::Write {
        let want = match self.want.clone() {
            Want::Put(value) => write::Want::Put(value),
            Want::Delete => write::Want::Delete(node_action::Nothing {}),
            Want::Check => write::Want::Check(node_action::Nothing {}),
        };
        node_action::Write { key: self.key.clone(), want: Some(want) }
    }
}

impl AtKey for Write {
    fn key(&self) -> &Bytes {
        &self.key
    }

    fn byte_size(&self) -> usize {
        let value = match &self.want {
            Want::Put(value) => value.len(),
            Want::Delete | Want::Check => 0,
        };
        self.key.len() + value
    }
}

/// A write that is only to be settled: a long value lies where it stays.
struct Settled<'a>(&'a Write);

impl AtKey for Settled<'_> {
    fn key(&self) -> &Bytes {
        &self.0.key
    }

    fn byte_size(&self) -> usize {
        let bytes = self.0.byte_size();
        if bytes > INLINE_BYTES_MAX { self.0.key.len() } else { bytes }
    }
}

/// What a serializable transaction has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// In order, each once.
    pub keys: Vec<Bytes>,
    /// Start and exclusive end; an empty end is unbounded.
    pub spans: Vec<(Bytes, Bytes)>,
}

/// Writes all keys at one version, whatever stands there now. `writes` are in the order of their keys,
/// each key once, and at least one.
///
/// # Errors
/// `TransactionUnknown` if it may have been committed; anything else means that it surely was not.
pub async fn write_all(
    dispatcher: &Arc<Dispatcher>,
    writes: Vec<Write>,
    deadline: Instant,
) -> Result<Timestamp, Failure> {
    let writes = Arc::new(writes);
    let mut backoff = Backoff::new(AGAIN_FIRST, AGAIN_LONGEST);
    loop {
        let id = dispatcher.timestamp(deadline).await?;
        let commit = Commit {
            dispatcher: Arc::clone(dispatcher),
            id,
            snapshot: Timestamp::ZERO,
            lifetime: LIFETIME,
            reads: None,
            writes: Arc::clone(&writes),
            deadline,
        };
        match commit.run().await {
            // It waited for one that waits for it, or was taken for dead. Nothing depends on its id.
            Err(failure @ (Failure::KeyLocked { .. } | Failure::Aborted)) => {
                let pause = backoff.pause();
                if Instant::now() + pause >= deadline {
                    return Err(failure);
                }
                tokio::time::sleep(pause).await;
            }
            done => return done,
        }
    }
}

/// Commits, once, what depends on reads at `id`: that is also its version of them. `writes` are as for
/// [`write_all`].
///
/// # Errors
/// As there; also `WriteConflict`, `KeyLocked` or `Aborted`, and then it may be tried again.
pub async fn commit_read(
    dispatcher: &Arc<Dispatcher>,
    id: Timestamp,
    writes: Vec<Write>,
    deadline: Instant,
) -> Result<Timestamp, Failure> {
    let commit = Commit {
        dispatcher: Arc::clone(dispatcher),
        id,
        snapshot: id,
        lifetime: LIFETIME,
        reads: None,
        writes: Arc::new(writes),
        deadline,
    };
    commit.run().await
}

/// Commits what a transaction wants to write, in the order of the keys, each once, at least one.
/// `reads` are those of a serializable one, `now` is about the oracle's time.
///
/// # Errors
/// As [`write_all`].
pub async fn commit(
    dispatcher: &Arc<Dispatcher>,
    token: &Token,
    now: Timestamp,
    (writes, reads): (Vec<Write>, Option<Reads>),
    deadline: Instant,
) -> Result<Timestamp, Failure> {
    let commit = Commit {
        dispatcher: Arc::clone(dispatcher),
        id: token.id,
        snapshot: token.read_version(),
        lifetime: now.since(token.id) + LIFETIME,
        reads: reads.map(Arc::new),
        writes: Arc::new(writes),
        deadline,
    };
    commit.run().await
}

/// One transaction on its way.
#[derive(Clone)]
struct Commit {
    dispatcher: Arc<Dispatcher>,
    id: Timestamp,
    /// Foreign versions above it are conflicts; zero: none are.
    snapshot: Timestamp,
    /// Of its intents, after `id`.
    lifetime: Duration,
    /// To be checked at the commit timestamp.
    reads: Option<Arc<Reads>>,
    writes: Arc<Vec<Write>>,
    deadline: Instant,
}

impl Commit {
    fn primary(&self) -> &Bytes {
        &self.writes[0].key
    }

    fn all(&self) -> Vec<usize> {
        (0..self.writes.len()).collect()
    }

    async fn run(&self) -> Result<Timestamp, Failure> {
        if self.reads.is_some() {
            return self.in_two_rounds().await;
        }
        let first = first_step(&self.dispatcher, &self.writes, self.deadline).await?;
        if first == self.writes.len() {
            match self.at_once().await {
                Err(Failure::SeveralRanges) => {}
                done => return done,
            }
        }
        // Nobody renews an async commit, so it must not take long.
        if self.writes.len() <= ASYNC_KEYS_MAX && !is_large(&self.writes, &self.all()) {
            self.asynchronously().await
        } else {
            self.in_two_rounds().await
        }
    }

    fn transaction(&self) -> node_action::Transaction {
        node_action::Transaction {
            id: self.id.0,
            snapshot_version: self.snapshot.0,
            primary: self.primary().clone(),
            lifetime_ms: u64::try_from(self.lifetime.as_millis()).unwrap_or(u64::MAX),
            sequence: 1,
        }
    }

    fn wire(&self, part: &[usize]) -> Vec<node_action::Write> {
        part.iter().map(|at| self.writes[*at].to_wire()).collect()
    }

    /// One round of consensus.
    async fn at_once(&self) -> Result<Timestamp, Failure> {
        let kind = Kind::CommitAtOnce(node_action::CommitAtOnce {
            transaction: Some(self.transaction()),
            writes: self.wire(&self.all()),
        });
        let first = self.primary().clone();
        let last = self.writes[self.writes.len() - 1].key.clone();
        let action = Action { first, reach: Reach::Key(last), kind };
        match act(&self.dispatcher, action, self.deadline).await {
            Ok(result) => Ok(Timestamp(result.version)),
            Err(failure) => self.judge(failure),
        }
    }

    /// What a failed step means for the whole, where the whole may be decided by then.
    fn judge(&self, failure: Failure) -> Result<Timestamp, Failure> {
        match failure {
            Failure::Committed { version } => Ok(version),
            Failure::OutcomeUnknown { .. } => {
                Err(Failure::TransactionUnknown { id: self.id, primary: self.primary().clone() })
            }
            failure => Err(failure),
        }
    }

    /// Done once every intent is durable.
    async fn asynchronously(&self) -> Result<Timestamp, Failure> {
        let others: Vec<_> = self.writes[1..].iter().map(|write| write.key.clone()).collect();
        let others = Some(node_action::Keys { keys: others });
        match self.prewrite(self.all(), others.as_ref()).await {
            Ok(version) => {
                self.clean_up(End::AllPlaced(version));
                Ok(version)
            }
            Err(failure) => {
                self.clean_up(End::NotKnown);
                self.judge(failure)
            }
        }
    }

    /// Places intents; gives the greatest of their least commit timestamps.
    async fn prewrite(
        &self,
        wanted: Vec<usize>,
        secondaries: Option<&node_action::Keys>,
    ) -> Result<Timestamp, Failure> {
        let step = |part: &[usize]| {
            Kind::Prewrite(node_action::Prewrite {
                transaction: Some(self.transaction()),
                writes: self.wire(part),
                secondaries: secondaries.filter(|_| part[0] == 0).cloned(),
            })
        };
        let done = on_each(&self.dispatcher, &self.writes, wanted, self.deadline, &step).await;
        if let Some(failure) = done.failure {
            return Err(failure);
        }
        let versions = done.results.iter().map(|(_, result)| Timestamp(result.version));
        Ok(versions.max().unwrap_or_default())
    }

    /// Intents in pages, then the primary.
    async fn in_two_rounds(&self) -> Result<Timestamp, Failure> {
        let result = {
            let renewed = self.clone();
            // Ends with this call, however that ends.
            let _renewal =
                AbortOnDropHandle::new(tokio::spawn(async move { renewed.renew().await }));
            self.place_and_commit().await
        };
        self.clean_up(result.as_ref().map_or(End::NotKnown, |v| End::PrimaryCommitted(*v)));
        result.or_else(|failure| self.judge(failure))
    }

    async fn place_and_commit(&self) -> Result<Timestamp, Failure> {
        // The primary stands before any other, so that nobody who meets another finds nothing there.
        let first = first_step(&self.dispatcher, &self.writes, self.deadline).await?;
        let (first, rest) = ((0..first).collect(), (first..self.writes.len()).collect());
        // A step whose end is not known decides nothing yet: the primary does.
        let undecided = |failure| match failure {
            Failure::OutcomeUnknown { .. } => Failure::RangeUnavailable {
                range_id: rangedb_types::RangeId(0),
                why: "its writes could not be prepared in time".to_owned(),
            },
            failure => failure,
        };
        self.prewrite(first, None).await.map_err(undecided)?;
        self.prewrite(rest, None).await.map_err(undecided)?;
        loop {
            let version = self.dispatcher.timestamp(self.deadline).await?;
            if let Some(reads) = &self.reads {
                let check = Check {
                    dispatcher: &self.dispatcher,
                    id: self.id,
                    snapshot: self.snapshot,
                    version,
                    deadline: self.deadline,
                };
                check.all(reads).await.map_err(undecided)?;
            }
            let primary = self.primary();
            let committed =
                commit_primary(&self.dispatcher, self.id, primary, version, true, self.deadline)
                    .await;
            match committed {
                // A reader was promised something meanwhile.
                Err(Failure::CommitTooEarly { .. }) => {}
                done => return done,
            }
        }
    }

    /// Keeps the primary alive for as long as it runs.
    async fn renew(&self) {
        loop {
            tokio::time::sleep(LIFETIME / 3).await;
            let deadline = Instant::now() + LIFETIME;
            let Ok(now) = self.dispatcher.timestamp(deadline).await else { continue };
            let lifetime = now.since(self.id) + LIFETIME;
            let kind = Kind::Renew(node_action::Renew {
                id: self.id.0,
                primary: self.primary().clone(),
                lifetime_ms: u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX),
            });
            let action = at(self.primary(), kind);
            match act(&self.dispatcher, action, deadline).await {
                Ok(_) => {}
                Err(Failure::Committed { .. }) => return,
                // Its primary may not be there yet.
                Err(error) => {
                    tracing::debug!(%error, id = %self.id, "a transaction was not renewed")
                }
            }
        }
    }

    /// Settles all keys behind the answer.
    fn clean_up(&self, end: End) {
        let commit = Self { deadline: Instant::now() + CLEAN_UP_TIMEOUT, ..self.clone() };
        self.dispatcher.do_after(async move {
            if let Err(error) = commit.settle(end).await {
                tracing::debug!(%error, id = %commit.id, "a transaction was not cleaned up behind");
            }
        });
    }

    async fn settle(&self, end: End) -> Result<(), Failure> {
        let Self { dispatcher, id, deadline, .. } = self;
        match end {
            // The primary first, as always: once another key's version is there, garbage collection may remove it,
            // and then nothing but the primary tells that all intents were there.
            End::AllPlaced(version) => {
                let primary = self.primary();
                commit_primary(dispatcher, *id, primary, version, true, *deadline).await?;
                self.settle_behind(version).await
            }
            End::PrimaryCommitted(version) => self.settle_behind(version).await,
            End::NotKnown => {
                let inquiry = Inquiry {
                    dispatcher,
                    id: *id,
                    primary: self.primary(),
                    push_above: Timestamp::ZERO,
                    haste: Haste::Now,
                    out_of_interest: false,
                    deadline: *deadline,
                };
                match inquiry.fate().await? {
                    Fate::Committed(version) => self.settle_behind(version).await,
                    Fate::RolledBack => self.settle_others(None).await,
                    Fate::Undecided { .. } => Ok(()),
                }
            }
        }
    }

    /// Settles the others of a committed primary, whose version stays open until then, and is kept as long.
    async fn settle_behind(&self, version: Timestamp) -> Result<(), Failure> {
        self.settle_others(Some(version)).await?;
        finish(&self.dispatcher, self.id, self.primary(), version, self.deadline).await
    }

    async fn settle_others(&self, version: Option<Timestamp>) -> Result<(), Failure> {
        let others: Vec<_> = self.writes[1..].iter().map(Settled).collect();
        let step = |part: &[usize]| {
            let keys = part.iter().map(|at| others[*at].key().clone()).collect();
            resolve(self.id, keys, version)
        };
        let all = (0..others.len()).collect();
        let done = on_each(&self.dispatcher, &others, all, self.deadline, &step).await;
        done.failure.map_or(Ok(()), Err)
    }
}

/// How a transaction stands when its client has an answer.
#[derive(Clone, Copy, Debug)]
enum End {
    /// All of its intents are there, and its primary names them.
    AllPlaced(Timestamp),
    PrimaryCommitted(Timestamp),
    NotKnown,
}
