//! Pessimistic transactions: they take keys as they go, and wait instead of losing.

use crate::client::timed;
use crate::commit::CommitMessages;
use crate::error::{Error, Verdict, judge_status};
use crate::overlay::{OwnWrites, asked, span_read, with_own};
use crate::range::{Entry, RangeQuery};
use crate::transaction::{SavedKeys, SavedTransaction, TransactionOptions, transactions};
use crate::{Client, Isolation, Version};
use bytes::Bytes;
use futures::TryStreamExt as _;
use parking_lot::Mutex;
use prost::Message as _;
use rangedb_proto::v1::transaction_write::{self, Want};
use rangedb_proto::v1::{
    AcquireRequest, RenewRequest, RequestContext, RollbackRequest, TakeSnapshotRequest,
    TransactionWrite,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// A third of how long a transaction lives without being renewed.
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// A pessimistic transaction under way. It keeps its keys until it is committed or rolled back; dropped,
/// it loses them about ten seconds later. Calls that are made at the same time are done one after the other.
///
/// A call that takes a key and fails may have taken it: then that same call may be repeated, or the
/// transaction rolled back, and nothing else.
#[derive(Debug)]
pub struct PessimisticTransaction {
    client: Client,
    id: Version,
    isolation: Isolation,
    shared: Arc<Mutex<State>>,
    /// Of the calls that change the token: each needs the one before's.
    turn: tokio::sync::Mutex<()>,
    renewal: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    token: Bytes,
    has_snapshot: bool,
    /// The first key it ever took: the one that decides.
    first: Option<Bytes>,
    /// `None`: deleted.
    writes: BTreeMap<Bytes, Option<Bytes>>,
    keys_read: BTreeSet<Bytes>,
    spans_read: Vec<(Bytes, Bytes)>,
    /// What the last Acquire wanted, if it failed or was given up.
    unfinished: Option<TransactionWrite>,
    /// A Commit was begun: its keys are firm by now, perhaps.
    committing: bool,
    over: bool,
}

impl State {
    /// The token for a call that wants this.
    fn begin(&mut self, wanted: &TransactionWrite) -> Result<Bytes, Error> {
        if self.over || self.committing {
            return Err(self.ended());
        }
        if self.unfinished.as_ref().is_some_and(|unfinished| unfinished != wanted) {
            return Err(invalid(UNFINISHED));
        }
        self.unfinished = Some(wanted.clone());
        Ok(self.token.clone())
    }

    fn ended(&self) -> Error {
        invalid(if self.over {
            OVER
        } else {
            "its Commit was begun: commit it again, or roll it back"
        })
    }
}

const OVER: &str = "the transaction was committed or rolled back before";
const UNFINISHED: &str = "its last call failed and may have taken the key: repeat that call, or roll the transaction back";

fn invalid(message: &str) -> Error {
    Error::Invalid { field: "transaction".to_owned(), message: message.to_owned() }
}

impl Drop for PessimisticTransaction {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

impl Client {
    /// Begins a pessimistic transaction.
    ///
    /// ```no_run
    /// # async fn run(client: rangedb_client::Client) -> Result<(), rangedb_client::Error> {
    /// use rangedb_client::TransactionOptions;
    ///
    /// let txn = client.begin_pessimistic(TransactionOptions::default()).await?;
    /// // Nobody else changes it from now on.
    /// let count = txn.get_for_update("counter").await?;
    /// let count: u64 =
    ///     count.and_then(|text| String::from_utf8_lossy(&text).parse().ok()).unwrap_or(0);
    /// txn.put("counter", (count + 1).to_string()).await?;
    /// txn.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn begin_pessimistic(
        &self,
        options: TransactionOptions,
    ) -> Result<PessimisticTransaction, Error> {
        let (token, id) = self.begin_token(options, true).await?;
        let state = State { token, ..State::default() };
        Ok(self.pessimistic(id, options.isolation, state))
    }

    /// Goes on with a pessimistic transaction that was put away.
    #[must_use]
    pub fn resume_pessimistic(&self, saved: SavedTransaction) -> PessimisticTransaction {
        let SavedKeys { has_snapshot, first, unfinished } = saved.held.unwrap_or_default();
        let unfinished = unfinished.and_then(|write| TransactionWrite::decode(write).ok());
        let state = State {
            token: saved.token,
            has_snapshot,
            first,
            writes: saved.writes.into_iter().collect(),
            keys_read: saved.keys_read.into_iter().collect(),
            spans_read: saved.spans_read,
            unfinished,
            committing: false,
            over: false,
        };
        self.pessimistic(saved.id, saved.isolation, state)
    }

    fn pessimistic(
        &self,
        id: Version,
        isolation: Isolation,
        state: State,
    ) -> PessimisticTransaction {
        let shared = Arc::new(Mutex::new(state));
        let renewal = tokio::spawn(keep_alive(self.clone(), Arc::clone(&shared)));
        let turn = tokio::sync::Mutex::default();
        PessimisticTransaction { client: self.clone(), id, isolation, shared, turn, renewal }
    }
}

/// Keeps a transaction alive.
async fn keep_alive(client: Client, shared: Arc<Mutex<State>>) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        if let Err(error) = renew(&client, &shared).await {
            tracing::debug!(%error, "a transaction was not renewed");
        }
    }
}

async fn renew(client: &Client, shared: &Mutex<State>) -> Result<(), Error> {
    let request = {
        let state = shared.lock();
        if state.first.is_none() {
            return Ok(());
        }
        RenewRequest { token: state.token.clone() }
    };
    let renewed = client.repeat(|gateway, time| {
        let (mut rpc, request) = (transactions(gateway), timed(request.clone(), time));
        async move { rpc.renew(request).await.map_err(judge_status) }
    });
    renewed.await.map(|_| ()).map_err(|end| end.error)
}

impl PessimisticTransaction {
    /// Its id.
    #[must_use]
    pub const fn id(&self) -> Version {
        self.id
    }

    /// Takes a key, and reads it: nobody else writes it before this transaction is over. Waits for who has it.
    ///
    /// # Errors
    /// [`Error::Conflict`] for a deadlock, or if the key was written after what this transaction has
    /// read: roll it back and begin again. See [`Error`].
    pub async fn get_for_update(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, Error> {
        let key = key.into();
        let found = self.acquire(key.clone(), Want::Check(transaction_write::Check {})).await?;
        Ok(self.shared.lock().writes.get(&key).cloned().unwrap_or(found))
    }

    /// Takes a key and writes it; others see that after the commit.
    ///
    /// # Errors
    /// As [`Self::get_for_update`].
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<(), Error> {
        let (key, value) = (key.into(), value.into());
        self.acquire(key.clone(), Want::Put(value.clone())).await?;
        self.shared.lock().writes.insert(key, Some(value));
        Ok(())
    }

    /// Takes a key and removes it; others see that after the commit.
    ///
    /// # Errors
    /// As [`Self::get_for_update`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<(), Error> {
        let key = key.into();
        self.acquire(key.clone(), Want::Delete(transaction_write::Delete {})).await?;
        self.shared.lock().writes.insert(key, None);
        Ok(())
    }

    async fn acquire(&self, key: Bytes, want: Want) -> Result<Option<Bytes>, Error> {
        let read = matches!(want, Want::Check(_));
        let write = TransactionWrite { key: key.clone(), want: Some(want) };
        let _turn = self.turn.lock().await;
        let token = self.shared.lock().begin(&write)?;
        // Repeated with the same token it is the same call.
        let request = AcquireRequest { token, writes: vec![write], read };
        let taken = self.client.repeat(|gateway, time| {
            let (mut rpc, request) = (transactions(gateway), timed(request.clone(), time));
            async move { rpc.acquire(request).await.map_err(judge_status) }
        });
        let taken = taken.await.map_err(|end| end.error);
        let mut state = self.shared.lock();
        if matches!(taken, Ok(_) | Err(Error::Invalid { .. })) {
            state.unfinished = None;
        }
        let taken = taken?.into_inner();
        state.token = taken.token;
        state.has_snapshot |= read;
        state.first.get_or_insert(key);
        let value = taken.values.into_iter().next().filter(|value| value.found);
        Ok(value.map(|value| value.value))
    }

    /// Reads a key without taking it, as of this transaction's snapshot.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, Error> {
        let key = key.into();
        if let Some(own) = self.shared.lock().writes.get(&key) {
            return Ok(own.clone());
        }
        self.take_snapshot().await?;
        let token = self.shared.lock().token.clone();
        let context = RequestContext { transaction: token, ..RequestContext::default() };
        let found = self.client.get_in(key.clone(), Some(context)).await?;
        self.shared.lock().keys_read.insert(key);
        Ok(found.map(|value| value.value))
    }

    /// Reads a span of keys without taking them, as of this transaction's snapshot, with what it wrote there
    /// (of version zero).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn range(&self, query: RangeQuery) -> Result<Vec<Entry>, Error> {
        self.take_snapshot().await?;
        let (all, limit, reverse) = query.clone().split();
        let (token, own) = {
            let state = self.shared.lock();
            let inside = state.writes.iter().filter(|(key, _)| all.contains(key));
            let own: OwnWrites = inside.map(|(k, v)| (k.clone(), v.clone())).collect();
            (state.token.clone(), own)
        };
        let context = RequestContext { transaction: token, ..RequestContext::default() };
        let found = self.client.range_in(asked(query, limit, &own), Some(context)).await?;
        let entries = with_own(found.try_collect().await?, own, limit, reverse);
        self.shared.lock().spans_read.push(span_read(&all, &entries, limit, reverse));
        Ok(entries)
    }

    /// Holds its keys for about ten seconds from now on. While this value lives that is done by itself.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it is over. See [`Error`].
    pub async fn renew(&self) -> Result<(), Error> {
        renew(&self.client, &self.shared).await
    }

    /// What it takes to go on with it elsewhere, within ten seconds or so; not after its commit.
    #[must_use]
    pub fn save(&self) -> SavedTransaction {
        let state = self.shared.lock();
        SavedTransaction {
            token: state.token.clone(),
            id: self.id,
            isolation: self.isolation,
            writes: state.writes.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            checks: Vec::new(),
            keys_read: state.keys_read.iter().cloned().collect(),
            spans_read: state.spans_read.clone(),
            held: Some(SavedKeys {
                has_snapshot: state.has_snapshot,
                first: state.first.clone(),
                unfinished: state.unfinished.as_ref().map(|write| write.encode_to_vec().into()),
            }),
        }
    }

    async fn take_snapshot(&self) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let token = {
            let state = self.shared.lock();
            if state.has_snapshot || self.isolation == Isolation::ReadCommitted {
                return Ok(());
            }
            state.token.clone()
        };
        let request = TakeSnapshotRequest { token };
        let taken = self.client.repeat(|gateway, time| {
            let (mut rpc, request) = (transactions(gateway), timed(request.clone(), time));
            async move { rpc.take_snapshot(request).await.map_err(judge_status) }
        });
        let taken = taken.await.map_err(|end| end.error)?.into_inner();
        let mut state = self.shared.lock();
        state.token = taken.token;
        state.has_snapshot = true;
        Ok(())
    }

    /// What Commit sends, if the transaction is not over; it is over from then on.
    fn end(&self) -> Result<CommitMessages, Error> {
        let mut state = self.shared.lock();
        if !state.over && state.unfinished.is_some() {
            return Err(invalid(UNFINISHED));
        }
        if std::mem::replace(&mut state.over, true) {
            return Err(invalid(OVER));
        }
        state.committing = true;
        let mut commit = CommitMessages::new(state.token.clone());
        if self.isolation == Isolation::Serializable {
            commit.reads(state.keys_read.iter().cloned(), state.spans_read.iter().cloned());
        }
        Ok(commit)
    }

    /// Commits; gives the version of all writes. If the answer is lost, it asks what became of it.
    ///
    /// # Errors
    /// [`Error::Conflict`]: nothing was applied, and it is over. [`Error::Unavailable`] and the like: nothing was
    /// applied, and it may be tried again. See [`Error`].
    pub async fn commit(&self) -> Result<Version, Error> {
        let _turn = self.turn.lock().await;
        let commit = self.end()?;
        // Of two that wait for each other at their commits one gives way, and is rolled back.
        let judge = |status| match judge_status(status) {
            Verdict::NotApplied(error @ Error::Conflict { .. }) => Verdict::Final(error),
            verdict => verdict,
        };
        let key = self.shared.lock().first.clone().unwrap_or_default();
        let committed = self.client.send_commit(commit, judge, (self.id, key)).await;
        // After a conflict the gateway has rolled it back. After other refusals it holds what it held, and may be
        // committed again, or rolled back.
        let over = matches!(
            committed,
            Ok(_) | Err(Error::Conflict { .. } | Error::TransactionUnknown { .. })
        );
        self.shared.lock().over = over;
        committed
    }

    /// Gives the transaction up, and all it holds.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn rollback(&self) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let request = {
            let mut state = self.shared.lock();
            if std::mem::replace(&mut state.over, true) {
                return Err(invalid(OVER));
            }
            // What the call that failed may have taken is in no token.
            let key = state.unfinished.take().map(|write| write.key).unwrap_or_default();
            RollbackRequest { token: state.token.clone(), key }
        };
        let rolled_back = self.client.repeat(|gateway, time| {
            let (mut rpc, request) = (transactions(gateway), timed(request.clone(), time));
            async move { rpc.rollback(request).await.map_err(judge_status) }
        });
        rolled_back.await.map(|_| ()).map_err(|end| end.error)
    }
}
