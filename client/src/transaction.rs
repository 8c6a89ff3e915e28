//! Transactions: reads of one moment, writes that all come about or none.

use crate::client::{ANSWER_BYTES_MAX, timed};
use crate::commit::{CommitMessages, write_size};
use crate::endpoints::Gateway;
use crate::error::{Error, judge_status};
use crate::overlay::{OwnWrites, asked, span_read, with_own};
use crate::range::{Entry, RangeQuery};
use crate::{Client, Value, Version};
use bytes::Bytes;
use futures::TryStreamExt as _;
use parking_lot::Mutex;
use rangedb_proto::v1::transaction_write::{self, Want};
use rangedb_proto::v1::transactions_client::TransactionsClient;
use rangedb_proto::v1::{self, BeginRequest, CommitStatusRequest, RequestContext, RollbackRequest};
use rangedb_types::limits::BATCH_BYTES_MAX;
use rangedb_types::{Random as _, SystemRandom};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

/// Pauses of [`Client::transact`] before it runs a transaction again.
const AGAIN_FIRST: Duration = Duration::from_millis(2);
const AGAIN_LONGEST: Duration = Duration::from_millis(200);

/// How transactions are kept apart. `docs/consistency.md` says what each level promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Every read sees what was committed before it began; nothing is checked at the commit.
    ReadCommitted,
    /// All reads see the moment of the beginning; of two that write one key the first to commit wins.
    #[default]
    Snapshot,
    /// As if transactions had run one after the other.
    Serializable,
}

/// How a transaction is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionOptions {
    pub isolation: Isolation,
    /// How long it may take to its commit; zero: a minute.
    pub timeout: Duration,
}

/// A transaction under way. Cheap to clone; clones are the same transaction. Dropping it without
/// [`Transaction::commit`] leaves nothing behind.
#[derive(Clone, Debug)]
pub struct Transaction {
    client: Client,
    token: Bytes,
    id: Version,
    isolation: Isolation,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    writes: BTreeMap<Bytes, Want>,
    keys_read: BTreeSet<Bytes>,
    spans_read: Vec<(Bytes, Bytes)>,
    over: bool,
}

/// A transaction as it can be put away, and gone on with elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedTransaction {
    pub token: Bytes,
    pub id: Version,
    pub isolation: Isolation,
    /// `None`: the key is deleted.
    pub writes: Vec<(Bytes, Option<Bytes>)>,
    pub checks: Vec<Bytes>,
    pub keys_read: Vec<Bytes>,
    /// Start and exclusive end; an empty end is unbounded.
    pub spans_read: Vec<(Bytes, Bytes)>,
    /// Of a pessimistic one.
    pub held: Option<SavedKeys>,
}

/// What a pessimistic transaction has taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedKeys {
    pub has_snapshot: bool,
    /// The first key it ever took.
    pub first: Option<Bytes>,
    /// A call that failed and may have taken its key (a `TransactionWrite`).
    pub unfinished: Option<Bytes>,
}

impl Client {
    /// Goes on with a transaction that was put away.
    #[must_use]
    pub fn resume(&self, saved: SavedTransaction) -> Transaction {
        let state = State {
            keys_read: saved.keys_read.into_iter().collect(),
            spans_read: saved.spans_read,
            ..State::default()
        };
        let transaction = Transaction {
            client: self.clone(),
            token: saved.token,
            id: saved.id,
            isolation: saved.isolation,
            state: Arc::new(Mutex::new(state)),
        };
        for (key, value) in saved.writes {
            match value {
                Some(value) => transaction.put(key, value),
                None => transaction.delete(key),
            }
        }
        saved.checks.into_iter().for_each(|key| transaction.check(key));
        transaction
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn begin(&self, options: TransactionOptions) -> Result<Transaction, Error> {
        let (token, id) = self.begin_token(options, false).await?;
        Ok(Transaction {
            client: self.clone(),
            token,
            id,
            isolation: options.isolation,
            state: Arc::default(),
        })
    }

    pub(crate) async fn begin_token(
        &self,
        options: TransactionOptions,
        pessimistic: bool,
    ) -> Result<(Bytes, Version), Error> {
        let request = BeginRequest {
            isolation: match options.isolation {
                Isolation::ReadCommitted => v1::Isolation::ReadCommitted,
                Isolation::Snapshot => v1::Isolation::Snapshot,
                Isolation::Serializable => v1::Isolation::Serializable,
            }
            .into(),
            pessimistic,
            timeout_ms: u64::try_from(options.timeout.as_millis()).unwrap_or(u64::MAX),
        };
        let begun = self.repeat(|gateway, time| {
            let (mut rpc, request) = (transactions(gateway), timed(request, time));
            async move { rpc.begin(request).await.map_err(judge_status) }
        });
        let begun = begun.await.map_err(|end| end.error)?.into_inner();
        let id = Version(begun.id);
        self.saw(id);
        Ok((begun.token, id))
    }

    /// Runs a transaction, and again if it lost against another, for as long as a call may take. What
    /// `run` does must be fit to be done more than once.
    ///
    /// ```no_run
    /// # async fn run(client: rangedb_client::Client) -> Result<(), rangedb_client::Error> {
    /// use rangedb_client::{Error, TransactionOptions};
    ///
    /// // From Alice to Bob.
    /// let amount = 10_i64;
    /// client
    ///     .transact(TransactionOptions::default(), |txn| async move {
    ///         for (who, change) in [("alice", -amount), ("bob", amount)] {
    ///             let key = format!("balance/{who}");
    ///             let found = txn.get(key.clone()).await?;
    ///             let balance = found
    ///                 .and_then(|value| String::from_utf8_lossy(&value).parse::<i64>().ok())
    ///                 .unwrap_or(0);
    ///             txn.put(key, (balance + change).to_string());
    ///         }
    ///         Ok::<_, Error>(())
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// A queue of jobs, of which every worker takes the first that is left:
    ///
    /// ```no_run
    /// # async fn run(client: rangedb_client::Client) -> Result<(), rangedb_client::Error> {
    /// use rangedb_client::{Error, RangeQuery, TransactionOptions};
    ///
    /// let job = client
    ///     .transact(TransactionOptions::default(), |txn| async move {
    ///         let first = txn.range(RangeQuery::prefix("jobs/").limit(1)).await?.pop();
    ///         if let Some(job) = &first {
    ///             txn.delete(job.key.clone());
    ///         }
    ///         Ok::<_, Error>(first)
    ///     })
    ///     .await?;
    /// # let _ = job; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What `run` returns, unless it is a conflict; [`Error::Conflict`] once the time is over;
    /// [`Error::TransactionUnknown`]. See [`Error`].
    pub async fn transact<T, E, F, R>(&self, options: TransactionOptions, run: F) -> Result<T, E>
    where
        F: Fn(Transaction) -> R,
        R: Future<Output = Result<T, E>>,
        E: From<Error> + MayBeConflict,
    {
        self.again(options, |txn| {
            let running = run(txn.clone());
            async move {
                let value = running.await?;
                txn.commit().await?;
                Ok(value)
            }
        })
        .await
    }

    /// Runs what begins, reads, writes and commits, and again if it lost.
    pub(crate) async fn again<T, E, F, R>(
        &self,
        options: TransactionOptions,
        run: F,
    ) -> Result<T, E>
    where
        F: Fn(Transaction) -> R,
        R: Future<Output = Result<T, E>>,
        E: From<Error> + MayBeConflict,
    {
        let deadline = Instant::now() + self.options().timeout;
        let mut pause = AGAIN_FIRST;
        loop {
            let conflict = match run(self.begin(options).await?).await {
                Err(error) if error.is_conflict() => error,
                done => return done,
            };
            let time = pause / 2 + SystemRandom.jitter(pause / 2);
            pause = (pause * 2).min(AGAIN_LONGEST);
            if Instant::now() + time >= deadline {
                return Err(conflict);
            }
            sleep(time).await;
        }
    }

    /// Writes many keys at one version, in any ranges: all or none, whatever stands there now. A value
    /// of `None` deletes the key. Of writes of one key the last counts.
    ///
    /// # Errors
    /// See [`Error`]; mind `TransactionUnknown`.
    pub async fn batch<K>(&self, writes: K) -> Result<Version, Error>
    where
        K: IntoIterator<Item = (Bytes, Option<Bytes>)>,
    {
        let writes: Vec<_> = writes.into_iter().collect();
        let isolation = Isolation::ReadCommitted;
        let options = TransactionOptions { isolation, ..TransactionOptions::default() };
        self.again(options, |txn| {
            for (key, value) in writes.iter().cloned() {
                match value {
                    Some(value) => txn.put(key, value),
                    None => txn.delete(key),
                }
            }
            async move { txn.commit().await }
        })
        .await
    }

    /// Tells, for good, whether a transaction was committed: its version, or `None` if it was not and
    /// never will be.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn transaction_status(
        &self,
        id: Version,
        key: impl Into<Bytes>,
    ) -> Result<Option<Version>, Error> {
        let request = CommitStatusRequest {
            key: key.into(),
            transaction_id: id.0,
            ..CommitStatusRequest::default()
        };
        let status = self.read(|mut rpc, time| {
            let request = timed(request.clone(), time);
            async move { rpc.commit_status(request).await.map_err(judge_status) }
        });
        let status = status.await?.into_inner();
        Ok(status.committed.then_some(Version(status.version)))
    }
}

/// Errors of the closures of [`Client::transact`].
pub trait MayBeConflict {
    /// Another transaction was faster: the whole may be run again.
    fn is_conflict(&self) -> bool;
}

impl MayBeConflict for Error {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

pub(crate) fn transactions(gateway: &Gateway) -> TransactionsClient<Channel> {
    TransactionsClient::new(gateway.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
}

impl Transaction {
    /// Its id, which is also the version that a snapshot is of.
    #[must_use]
    pub const fn id(&self) -> Version {
        self.id
    }

    fn context(&self) -> Option<RequestContext> {
        Some(RequestContext { transaction: self.token.clone(), ..RequestContext::default() })
    }

    /// Reads one key: what this transaction wrote, or what it sees.
    ///
    /// # Errors
    /// See [`Error`]; an absent key is none.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, Error> {
        let key = key.into();
        match self.state.lock().writes.get(&key) {
            Some(Want::Put(value)) => return Ok(Some(value.clone())),
            Some(Want::Delete(_)) => return Ok(None),
            Some(Want::Check(_)) | None => {}
        }
        let found = self.client.get_in(key.clone(), self.context()).await?;
        self.state.lock().keys_read.insert(key);
        Ok(found.map(|value| value.value))
    }

    /// Reads many keys; answers in their order.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_many<K>(&self, keys: K) -> Result<Vec<Option<Bytes>>, Error>
    where
        K: IntoIterator,
        K::Item: Into<Bytes>,
    {
        let keys: Vec<Bytes> = keys.into_iter().map(Into::into).collect();
        let found: Vec<Option<Value>> =
            self.client.batch_get_in(keys.clone(), self.context()).await?;
        let mut state = self.state.lock();
        let State { writes, keys_read, .. } = &mut *state;
        let values = keys.into_iter().zip(found).map(|(key, found)| match writes.get(&key) {
            Some(Want::Put(value)) => Some(value.clone()),
            Some(Want::Delete(_)) => None,
            Some(Want::Check(_)) | None => {
                keys_read.insert(key);
                found.map(|value| value.value)
            }
        });
        Ok(values.collect())
    }

    /// What is committed at some keys, with its versions, as this transaction sees it.
    pub(crate) async fn values(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Value>>, Error> {
        let found = self.client.batch_get_in(keys.clone(), self.context()).await?;
        self.state.lock().keys_read.extend(keys);
        Ok(found)
    }

    /// Reads a span of keys, with what this transaction wrote there (its version is zero).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn range(&self, query: RangeQuery) -> Result<Vec<Entry>, Error> {
        let (all, limit, reverse) = query.clone().split();
        let own: OwnWrites = {
            let state = self.state.lock();
            let inside = state.writes.iter().filter(|(key, _)| all.contains(key));
            let written = inside.filter_map(|(key, want)| match want {
                Want::Put(value) => Some((key.clone(), Some(value.clone()))),
                Want::Delete(_) => Some((key.clone(), None)),
                Want::Check(_) => None,
            });
            written.collect()
        };
        let query = asked(query, limit, &own);
        let found = self.client.range_in(query, self.context()).await?;
        let entries = with_own(found.try_collect().await?, own, limit, reverse);
        self.state.lock().spans_read.push(span_read(&all, &entries, limit, reverse));
        Ok(entries)
    }

    /// What it takes to go on with it elsewhere; not after its commit.
    #[must_use]
    pub fn save(&self) -> SavedTransaction {
        let state = self.state.lock();
        let mut saved = SavedTransaction {
            token: self.token.clone(),
            id: self.id,
            isolation: self.isolation,
            keys_read: state.keys_read.iter().cloned().collect(),
            spans_read: state.spans_read.clone(),
            ..SavedTransaction::default()
        };
        for (key, want) in &state.writes {
            match want {
                Want::Put(value) => saved.writes.push((key.clone(), Some(value.clone()))),
                Want::Delete(_) => saved.writes.push((key.clone(), None)),
                Want::Check(_) => saved.checks.push(key.clone()),
            }
        }
        saved
    }

    /// Writes a key at the commit.
    pub fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.state.lock().writes.insert(key.into(), Want::Put(value.into()));
    }

    /// Removes a key at the commit.
    pub fn delete(&self, key: impl Into<Bytes>) {
        let delete = Want::Delete(transaction_write::Delete {});
        self.state.lock().writes.insert(key.into(), delete);
    }

    /// Makes a conflict of every foreign write of a key that is only read.
    pub fn check(&self, key: impl Into<Bytes>) {
        let check = Want::Check(transaction_write::Check {});
        self.state.lock().writes.entry(key.into()).or_insert(check);
    }

    /// Commits; gives the version of all writes. If the answer is lost, it asks what became of it.
    ///
    /// # Errors
    /// [`Error::Conflict`]: nothing was applied. [`Error::TransactionUnknown`]: not even asking
    /// helped. See [`Error`].
    pub async fn commit(&self) -> Result<Version, Error> {
        let (commit, first_key) = self.messages()?;
        let Some(first_key) = first_key else { return Ok(self.id) };
        self.client.send_commit(commit, judge_status, (self.id, first_key)).await
    }

    /// What Commit sends, and the smallest key written.
    fn messages(&self) -> Result<(CommitMessages, Option<Bytes>), Error> {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.over, true) {
            let message = "the transaction was committed or rolled back before".to_owned();
            return Err(Error::Invalid { field: "transaction".to_owned(), message });
        }
        let size = |(key, want)| write_size(key, want);
        if state.writes.iter().map(size).sum::<usize>() > BATCH_BYTES_MAX {
            let most = BATCH_BYTES_MAX >> 20;
            let message = format!(
                "a transaction writes {most} MiB of keys and values at most; cut it in several"
            );
            return Err(Error::Invalid { field: "writes".to_owned(), message });
        }
        let mut commit = CommitMessages::new(self.token.clone());
        state.writes.iter().for_each(|(key, want)| commit.write(key, want));
        if self.isolation == Isolation::Serializable {
            commit.reads(state.keys_read.iter().cloned(), state.spans_read.iter().cloned());
        }
        Ok((commit, state.writes.keys().next().cloned()))
    }

    /// Gives the transaction up.
    ///
    /// # Errors
    /// `Invalid` if it is over already.
    pub async fn rollback(&self) -> Result<(), Error> {
        if std::mem::replace(&mut self.state.lock().over, true) {
            let message = "the transaction was committed or rolled back before".to_owned();
            return Err(Error::Invalid { field: "transaction".to_owned(), message });
        }
        let request = RollbackRequest { token: self.token.clone(), key: Bytes::new() };
        let rolled_back = self.client.repeat(|gateway, time| {
            let (mut rpc, request) = (transactions(gateway), timed(request.clone(), time));
            async move { rpc.rollback(request).await.map_err(judge_status) }
        });
        rolled_back.await.map(|_| ()).map_err(|end| end.error)
    }
}
