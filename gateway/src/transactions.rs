//! The public `Transactions` service.
//!
//! Owns: the translation between public calls and transactions. Must not know: steps, routes.

use crate::deadline;
use crate::dispatch::Dispatcher;
use crate::errors::Failure;
use crate::metrics::Method;
use crate::transaction::{
    AtKey as _, Held, Isolation, Reads, Token, Tokens, Want, Write, acquire, commit, commit_held,
    end, fate_of, renew, roll_back_held,
};
use crate::validation;
use bytes::Bytes;
use rangedb_proto::v1::transaction_write::Want as WireWant;
use rangedb_proto::v1::transactions_server::Transactions;
use rangedb_proto::v1::{
    self, AcquireRequest, AcquireResponse, AcquiredValue, BeginRequest, BeginResponse,
    CommitRequest, CommitResponse, RenewRequest, RenewResponse, RollbackRequest, RollbackResponse,
    TakeSnapshotRequest, TakeSnapshotResponse,
};
use rangedb_types::Timestamp;
use rangedb_types::limits::BATCH_BYTES_MAX;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status, Streaming};

/// How long a transaction may take if Begin does not say, and at most.
const TIMEOUT: Duration = Duration::from_secs(60);
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// Writes that take no noticeable time to be put in order.
const SORTED_HERE_MAX: usize = 2_048;

/// Serves applications.
pub struct TransactionsService {
    dispatcher: Arc<Dispatcher>,
    tokens: Arc<Tokens>,
    request_timeout: Duration,
}

/// What a Commit brought, over all of its messages.
#[derive(Default)]
struct Brought {
    token: Bytes,
    writes: Writes,
    reads: Option<Seen>,
}

/// Most writes, and most reads, of one transaction: even the smallest take some memory.
const ITEMS_MAX: usize = 1_000_000;

/// Writes as they come in.
#[derive(Default)]
pub struct Writes {
    writes: Vec<Write>,
    bytes: usize,
}

/// Reads as they come in.
#[derive(Default)]
struct Seen {
    reads: Reads,
    bytes: usize,
}

impl Seen {
    fn add(&mut self, reads: v1::TransactionReads) -> Result<(), Failure> {
        for key in &reads.keys {
            validation::key("reads.keys", key)?;
        }
        self.bytes += reads.keys.iter().map(Bytes::len).sum::<usize>();
        self.reads.keys.extend(reads.keys);
        for span in reads.spans {
            validation::span(&span.start, &span.end)?;
            self.bytes += span.start.len() + span.end.len();
            self.reads.spans.push((span.start, span.end));
        }
        let items = self.reads.keys.len() + self.reads.spans.len();
        if self.bytes > BATCH_BYTES_MAX || items > ITEMS_MAX {
            let words = format!(
                "a serializable transaction reads {ITEMS_MAX} keys and spans at most, of {} MiB together",
                BATCH_BYTES_MAX >> 20
            );
            return Err(Failure::TooLarge { message: words });
        }
        Ok(())
    }
}

impl Writes {
    /// Adds one.
    ///
    /// # Errors
    /// `Invalid`, or `TooLarge` once there is too much.
    pub fn add(&mut self, write: v1::TransactionWrite) -> Result<(), Failure> {
        let write = checked(write)?;
        self.bytes += write.byte_size();
        if self.bytes > BATCH_BYTES_MAX {
            let words = format!(
                "a transaction writes {} MiB of keys and values at most; cut it in several",
                BATCH_BYTES_MAX >> 20
            );
            return Err(Failure::TooLarge { message: words });
        }
        if self.writes.len() >= ITEMS_MAX {
            let message =
                format!("a transaction writes {ITEMS_MAX} keys at most; cut it in several");
            return Err(Failure::TooLarge { message });
        }
        self.writes.push(write);
        Ok(())
    }

    /// As [`Self::in_order`]; many of them are put in order elsewhere, so that nobody waits.
    ///
    /// # Errors
    /// As there.
    pub async fn all_in_order(self) -> Result<Vec<Write>, Failure> {
        if self.writes.len() <= SORTED_HERE_MAX {
            return self.in_order();
        }
        let sorting = tokio::task::spawn_blocking(move || self.in_order());
        sorting.await.map_err(|error| Failure::Internal { message: error.to_string() })?
    }

    /// All of them, in the order of their keys.
    ///
    /// # Errors
    /// `Invalid` for a key that is written twice.
    pub fn in_order(mut self) -> Result<Vec<Write>, Failure> {
        self.writes.sort_by(|a, b| a.key.cmp(&b.key));
        match self.writes.windows(2).find(|pair| pair[0].key == pair[1].key) {
            Some(pair) => {
                let key = pair[0].key.escape_ascii();
                Err(Failure::invalid("writes.key", format!("the key `{key}` is written twice")))
            }
            None => Ok(self.writes),
        }
    }
}

impl TransactionsService {
    #[must_use]
    pub const fn new(
        dispatcher: Arc<Dispatcher>,
        tokens: Arc<Tokens>,
        request_timeout: Duration,
    ) -> Self {
        Self { dispatcher, tokens, request_timeout }
    }

    async fn do_begin(&self, request: Request<BeginRequest>) -> Result<BeginResponse, Failure> {
        let deadline = deadline::of_call(request.metadata(), self.request_timeout)?;
        let request = request.into_inner();
        let known = v1::Isolation::try_from(request.isolation)
            .map_err(|_| Failure::invalid("isolation", "there is no such level of isolation"))?;
        let isolation = match known {
            v1::Isolation::Unspecified | v1::Isolation::Snapshot => Isolation::Snapshot,
            v1::Isolation::ReadCommitted => Isolation::ReadCommitted,
            v1::Isolation::Serializable => Isolation::Serializable,
        };
        let timeout = match request.timeout_ms {
            0 => TIMEOUT,
            millis => Duration::from_millis(millis),
        };
        if timeout > TIMEOUT_MAX {
            let words = format!("a transaction may take {} s at most", TIMEOUT_MAX.as_secs());
            return Err(Failure::invalid("timeout_ms", words));
        }
        let id = self.dispatcher.timestamp(deadline).await?;
        let held = request.pessimistic.then(Held::default);
        let token = Token { id, isolation, timeout, held };
        let token = self.tokens.sign(&token, deadline).await?;
        Ok(BeginResponse { token, id: id.0 })
    }

    async fn do_commit(
        &self,
        request: Request<Streaming<CommitRequest>>,
    ) -> Result<CommitResponse, Failure> {
        let deadline = deadline::of_call(request.metadata(), self.request_timeout)?;
        let brought = gather(request.into_inner()).await?;
        let token = self.tokens.read(&brought.token, deadline).await?;
        let reads = match (token.isolation, brought.reads) {
            (Isolation::Serializable, None) => {
                let words = "a serializable transaction commits with what it has read";
                return Err(Failure::invalid("reads", words));
            }
            (Isolation::Serializable, reads) => reads.map(|seen| sorted(seen.reads)),
            _ => None,
        };
        let writes = brought.writes.all_in_order().await?;
        if token.held.is_some() {
            return self.commit_held(token, writes, reads, deadline).await;
        }
        if writes.is_empty() {
            // A snapshot is as good as a serial place of its own.
            return Ok(CommitResponse { version: token.id.0 });
        }
        let now = self.about_now(deadline).await?;
        if token.is_expired(now) {
            return self.committed_before(token.id, &writes[0].key, deadline).await;
        }
        let dispatcher = Arc::clone(&self.dispatcher);
        let committing =
            async move { commit(&dispatcher, &token, now, (writes, reads), deadline).await };
        let version = self.dispatcher.do_whole(committing).await?;
        Ok(CommitResponse { version: version.0 })
    }

    async fn commit_held(
        &self,
        token: Token,
        writes: Vec<Write>,
        reads: Option<Reads>,
        deadline: Instant,
    ) -> Result<CommitResponse, Failure> {
        if !writes.is_empty() {
            let words = "a pessimistic transaction writes with Acquire, before its Commit";
            return Err(Failure::invalid("writes", words));
        }
        let now = self.about_now(deadline).await?;
        if token.is_expired(now) {
            return match token.held.map(|held| held.primary).filter(|key| !key.is_empty()) {
                Some(primary) => self.committed_before(token.id, &primary, deadline).await,
                None => Err(Failure::Expired),
            };
        }
        let dispatcher = Arc::clone(&self.dispatcher);
        let committing =
            async move { commit_held(&dispatcher, &token, now, reads, deadline).await };
        let version = self.dispatcher.do_whole(committing).await?;
        Ok(CommitResponse { version: version.0 })
    }

    /// What an earlier Commit of a transaction came to that has expired since. If there was none, there will be none.
    async fn committed_before(
        &self,
        id: Timestamp,
        primary: &Bytes,
        deadline: Instant,
    ) -> Result<CommitResponse, Failure> {
        match fate_of(&self.dispatcher, id, primary, deadline).await? {
            Some(version) => Ok(CommitResponse { version: version.0 }),
            None => Err(Failure::Expired),
        }
    }

    /// The oracle's time, or a little later, without asking it: for what counts in seconds.
    async fn about_now(&self, deadline: Instant) -> Result<Timestamp, Failure> {
        match self.dispatcher.timestamps.estimate() {
            Some(now) => Ok(now),
            None => self.dispatcher.timestamp(deadline).await,
        }
    }

    /// The same, if the transaction may still go on.
    async fn time_left(&self, token: &Token, deadline: Instant) -> Result<Timestamp, Failure> {
        let now = self.about_now(deadline).await?;
        if token.is_expired(now) { Err(Failure::Expired) } else { Ok(now) }
    }

    /// The oracle's time, if the transaction may still go on.
    async fn now(&self, token: &Token, deadline: Instant) -> Result<Timestamp, Failure> {
        let now = self.dispatcher.timestamp(deadline).await?;
        if token.is_expired(now) { Err(Failure::Expired) } else { Ok(now) }
    }

    async fn do_acquire(
        &self,
        request: Request<AcquireRequest>,
    ) -> Result<AcquireResponse, Failure> {
        let deadline = deadline::of_call(request.metadata(), self.request_timeout)?;
        let request = request.into_inner();
        let token = self.tokens.read(&request.token, deadline).await?;
        let asked: Vec<Bytes> = request.writes.iter().map(|write| write.key.clone()).collect();
        let mut writes = Writes::default();
        for write in request.writes {
            writes.add(write)?;
        }
        let writes = writes.in_order()?;
        if writes.is_empty() {
            return Err(Failure::invalid("writes", "no key is asked for"));
        }
        let keys: Vec<Bytes> = writes.iter().map(|write| write.key.clone()).collect();
        let now = self.time_left(&token, deadline).await?;
        let taken = (writes, request.read);
        let (values, token) = acquire(&self.dispatcher, &token, now, taken, deadline).await?;
        let values = asked.iter().filter_map(|key| keys.binary_search(key).ok()).map(|at| {
            let value = values[at].clone();
            AcquiredValue { found: value.found, value: value.value, version: value.version }
        });
        let values = values.collect();
        Ok(AcquireResponse { token: self.tokens.sign(&token, deadline).await?, values })
    }

    async fn do_take_snapshot(
        &self,
        request: Request<TakeSnapshotRequest>,
    ) -> Result<TakeSnapshotResponse, Failure> {
        let deadline = deadline::of_call(request.metadata(), self.request_timeout)?;
        let mut token = self.tokens.read(&request.into_inner().token, deadline).await?;
        let now = self.now(&token, deadline).await?;
        if let Some(held) = token.held.as_mut().filter(|held| held.snapshot.is_zero()) {
            held.snapshot = now;
        }
        let version = token.held.as_ref().map_or(token.id, |held| held.snapshot).0;
        Ok(TakeSnapshotResponse { token: self.tokens.sign(&token, deadline).await?, version })
    }

    async fn do_renew(&self, request: Request<RenewRequest>) -> Result<RenewResponse, Failure> {
        let deadline = deadline::of_call(request.metadata(), self.request_timeout)?;
        let token = self.tokens.read(&request.into_inner().token, deadline).await?;
        let now = self.time_left(&token, deadline).await?;
        renew(&self.dispatcher, &token, now, deadline).await?;
        Ok(RenewResponse {})
    }

    async fn do_rollback(
        &self,
        request: Request<RollbackRequest>,
    ) -> Result<RollbackResponse, Failure> {
        let deadline = deadline::of_call(request.metadata(), self.request_timeout)?;
        let request = request.into_inner();
        let mut token = self.tokens.read(&request.token, deadline).await?;
        if !request.key.is_empty() {
            validation::key("key", &request.key)?;
        }
        if let Some(held) = &mut token.held {
            if !request.key.is_empty() {
                held.add(&request.key);
            }
            roll_back_held(&self.dispatcher, &token, deadline).await?;
            return Ok(RollbackResponse {});
        }
        if !request.key.is_empty() {
            end(&self.dispatcher, token.id, &request.key, deadline).await?;
        }
        Ok(RollbackResponse {})
    }

    fn finish<T>(
        &self,
        method: Method,
        began: Instant,
        result: Result<T, Failure>,
    ) -> Result<Response<T>, Status> {
        let code = result.as_ref().map_or_else(Failure::code, |_| Code::Ok);
        self.dispatcher.metrics.finished(method, code, began.elapsed());
        Ok(Response::new(result?))
    }
}

/// Reads the messages of a Commit; refuses as soon as a limit is broken.
async fn gather(mut messages: Streaming<CommitRequest>) -> Result<Brought, Failure> {
    let mut brought = Brought::default();
    let mut first = true;
    while let Some(message) = messages.message().await.map_err(|status| Failure::Invalid {
        field: "writes",
        message: format!("the stream of writes broke: {}", status.message()),
    })? {
        if std::mem::take(&mut first) {
            brought.token = message.token;
        }
        for write in message.writes {
            brought.writes.add(write)?;
        }
        if let Some(reads) = message.reads {
            brought.reads.get_or_insert_default().add(reads)?;
        }
    }
    Ok(brought)
}

fn checked(write: v1::TransactionWrite) -> Result<Write, Failure> {
    validation::key("writes.key", &write.key)?;
    let want = match write.want {
        Some(WireWant::Put(value)) => {
            validation::value(&value)?;
            Want::Put(value)
        }
        Some(WireWant::Delete(_)) => Want::Delete,
        Some(WireWant::Check(_)) => Want::Check,
        None => {
            let words = "a write is a put, a delete or a check";
            return Err(Failure::invalid("writes.want", words));
        }
    };
    Ok(Write { key: write.key, want })
}

fn sorted(mut reads: Reads) -> Reads {
    reads.keys.sort_unstable();
    reads.keys.dedup();
    reads
}

#[tonic::async_trait]
impl Transactions for TransactionsService {
    async fn begin(
        &self,
        request: Request<BeginRequest>,
    ) -> Result<Response<BeginResponse>, Status> {
        let began = Instant::now();
        let result = self.do_begin(request).await;
        self.finish(Method::Begin, began, result)
    }

    async fn commit(
        &self,
        request: Request<Streaming<CommitRequest>>,
    ) -> Result<Response<CommitResponse>, Status> {
        let began = Instant::now();
        let result = self.do_commit(request).await;
        self.finish(Method::Commit, began, result)
    }

    async fn acquire(
        &self,
        request: Request<AcquireRequest>,
    ) -> Result<Response<AcquireResponse>, Status> {
        let began = Instant::now();
        let result = self.do_acquire(request).await;
        self.finish(Method::Acquire, began, result)
    }

    async fn take_snapshot(
        &self,
        request: Request<TakeSnapshotRequest>,
    ) -> Result<Response<TakeSnapshotResponse>, Status> {
        let began = Instant::now();
        let result = self.do_take_snapshot(request).await;
        self.finish(Method::TakeSnapshot, began, result)
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let began = Instant::now();
        let result = self.do_renew(request).await;
        self.finish(Method::Renew, began, result)
    }

    async fn rollback(
        &self,
        request: Request<RollbackRequest>,
    ) -> Result<Response<RollbackResponse>, Status> {
        let began = Instant::now();
        let result = self.do_rollback(request).await;
        self.finish(Method::Rollback, began, result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(added: Result<(), Failure>, words: &str) -> bool {
        matches!(added, Err(Failure::TooLarge { message }) if message.contains(words))
    }

    #[test]
    fn reads_are_limited_by_number_and_by_size() {
        let keys = |count: usize, length: usize| {
            let keys = (0..count).map(|_| Bytes::from(vec![7; length])).collect();
            v1::TransactionReads { keys, spans: Vec::new() }
        };
        let mut seen = Seen::default();
        seen.add(keys(ITEMS_MAX, 1)).unwrap();
        assert!(refused(seen.add(keys(1, 1)), "1000000 keys and spans"));
        let mut seen = Seen::default();
        seen.add(keys(BATCH_BYTES_MAX / 1024, 1024)).unwrap();
        assert!(refused(seen.add(keys(1, 1)), "64 MiB"));
    }

    #[test]
    fn writes_are_limited_by_number() {
        let write = |number: usize| v1::TransactionWrite {
            key: number.to_string().into(),
            want: Some(WireWant::Put(Bytes::new())),
        };
        let mut writes = Writes::default();
        (0..ITEMS_MAX).for_each(|number| writes.add(write(number)).unwrap());
        assert!(refused(writes.add(write(ITEMS_MAX)), "1000000 keys"));
    }
}
