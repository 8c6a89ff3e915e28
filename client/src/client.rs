//! The client: one call at a time, over whichever gateway answers.

use crate::attempts::{Attempts, Patience};
use crate::endpoints::{Endpoints, Gateway};
use crate::error::{Error, Verdict, judge_status};
use crate::pipeline::Pipeline;
use crate::seen::Seen;
use crate::write::{Condition, WriteId};
use crate::{Value, Version};
use bytes::Bytes;
use rangedb_proto::v1::admin_client::AdminClient;
use rangedb_proto::v1::key_value_client::KeyValueClient;
use rangedb_proto::v1::{
    BatchGetRequest, CommitStatusRequest, DeleteRangeRequest, DeleteRequest, GetRequest,
    GetResponse, PutRequest, RequestContext,
};
use rangedb_types::limits::MESSAGE_BYTES_MAX;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// Metadata of a gateway's BatchGet answer: a version that lies before any write begun from now on.
const SEEN_VERSION_METADATA: &str = "rangedb-seen-version";
/// Where a read says at which version it was made, if it was not the latest.
const READ_VERSION_METADATA: &str = "rangedb-read-version";
/// How long renewing the seen version may hold up a write.
const RENEW_TIMEOUT: Duration = Duration::from_millis(500);
/// Largest answer accepted. A page may have an entry of the largest value beside 4 MiB of others.
pub(crate) const ANSWER_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;

pub(crate) type KeyValueRpc = KeyValueClient<Channel>;

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Time of one call, over all its attempts. For a range read, time of a page.
    pub timeout: Duration,
    /// Operations of one [`Pipeline`] that are under way; more wait.
    pub pipeline_operations_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5), pipeline_operations_max: 4096 }
    }
}

/// A client of a RangeDB cluster. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    options: Options,
}

/// The end of a call without an answer.
pub(crate) struct End {
    pub(crate) error: Error,
    pub(crate) maybe_applied: bool,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) endpoints: Endpoints,
    pub(crate) seen: Seen,
}

impl Client {
    /// Connects to the first of these gateways (`HOST:PORT`) that answers.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), rangedb_client::Error> {
    /// let client = rangedb_client::Client::connect(["10.0.0.1:8081", "10.0.0.2:8081"]).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `InvalidEndpoint`, or `Unavailable` if none answers.
    pub async fn connect<E>(endpoints: E) -> Result<Self, Error>
    where
        E: IntoIterator,
        E::Item: Into<String>,
    {
        Self::connect_with(endpoints, Options::default()).await
    }

    /// As [`Self::connect`], with options.
    ///
    /// # Errors
    /// As for [`Self::connect`].
    pub async fn connect_with<E>(endpoints: E, options: Options) -> Result<Self, Error>
    where
        E: IntoIterator,
        E::Item: Into<String>,
    {
        let endpoints = Endpoints::new(endpoints.into_iter().map(Into::into).collect())?;
        let shared = Arc::new(Shared { endpoints, seen: Seen::default() });
        let client = Self { shared, options };
        client.batch_get(Vec::<Bytes>::new()).await?;
        Ok(client)
    }

    /// The same client with another time for each call.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        let options = Options { timeout, ..self.options };
        Self { shared: Arc::clone(&self.shared), options }
    }

    /// How this client behaves.
    #[must_use]
    pub const fn options(&self) -> Options {
        self.options
    }

    /// The gateway used now.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.shared.endpoints.current().address
    }

    /// The newest version this client has seen.
    #[must_use]
    pub fn seen_version(&self) -> Version {
        self.shared.seen.newest()
    }

    /// Reads one key. Linearizable: it sees every write acknowledged before the call began.
    ///
    /// # Errors
    /// See [`Error`]; an absent key is none.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Value>, Error> {
        self.get_in(key.into(), None).await
    }

    /// Reads one key as it was at a version, for as long as old versions are kept (`gc_retention`).
    ///
    /// # Errors
    /// `Invalid` for a version that is too old, or lies in the future; see [`Error`].
    pub async fn get_at(
        &self,
        key: impl Into<Bytes>,
        version: Version,
    ) -> Result<Option<Value>, Error> {
        let context = RequestContext { at_version: version.0, ..RequestContext::default() };
        self.get_in(key.into(), Some(context)).await
    }

    pub(crate) async fn get_in(
        &self,
        key: Bytes,
        context: Option<RequestContext>,
    ) -> Result<Option<Value>, Error> {
        let request = GetRequest { key, context };
        let answer =
            self.read_unary(|mut rpc, call| async move { rpc.get(call).await }, &request).await?;
        self.observe_read(&answer);
        let value = value_of(answer.into_inner());
        if let Some(value) = &value {
            self.observed(value.version);
        }
        Ok(value)
    }

    /// The version that a read was made at, if the gateway says it.
    fn observe_read<T>(&self, answer: &tonic::Response<T>) {
        if let Some(version) = version_in(answer, READ_VERSION_METADATA) {
            self.observed(version);
        }
    }

    /// Reads many keys, all as of one moment after the call began; answers in the order of the keys.
    ///
    /// ```no_run
    /// # async fn run(client: rangedb_client::Client) -> Result<(), rangedb_client::Error> {
    /// let values = client.batch_get(["a", "b"]).await?;
    /// assert_eq!(values.len(), 2);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// See [`Error`]; absent keys are none. One key that cannot be read fails the call.
    pub async fn batch_get<K>(&self, keys: K) -> Result<Vec<Option<Value>>, Error>
    where
        K: IntoIterator,
        K::Item: Into<Bytes>,
    {
        self.batch_get_in(keys.into_iter().map(Into::into).collect(), None).await
    }

    pub(crate) async fn batch_get_in(
        &self,
        keys: Vec<Bytes>,
        context: Option<RequestContext>,
    ) -> Result<Vec<Option<Value>>, Error> {
        let count = keys.len();
        let request = BatchGetRequest { keys, context };
        let answer = self
            .read_unary(|mut rpc, call| async move { rpc.batch_get(call).await }, &request)
            .await?;
        if let Some(seen) = version_in(&answer, SEEN_VERSION_METADATA) {
            self.saw(seen);
        }
        self.observe_read(&answer);
        let values = answer.into_inner().values;
        if let Some(newest) = values.iter().map(|value| value.version).max() {
            self.observed(Version(newest));
        }
        if values.len() != count {
            return Err(Error::Protocol("another number of values than keys"));
        }
        Ok(values.into_iter().map(value_of).collect())
    }

    /// Writes one key; gives the version of the write.
    ///
    /// # Errors
    /// See [`Error`]; mind `OutcomeUnknown`.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Version, Error> {
        self.do_put(key.into(), value.into(), None).await
    }

    /// Writes one key if a condition holds.
    ///
    /// ```no_run
    /// # async fn run(client: rangedb_client::Client) -> Result<(), rangedb_client::Error> {
    /// use rangedb_client::{Condition, Error};
    ///
    /// match client.put_if("lock", "mine", Condition::Absent).await {
    ///     Ok(version) => println!("taken at {version}"),
    ///     Err(Error::ConditionFailed { current }) => println!("held: {current:?}"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `ConditionFailed` with what the key holds instead; see [`Error`].
    pub async fn put_if(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        condition: Condition,
    ) -> Result<Version, Error> {
        self.do_put(key.into(), value.into(), Some(condition)).await
    }

    async fn do_put(
        &self,
        key: Bytes,
        value: Bytes,
        condition: Option<Condition>,
    ) -> Result<Version, Error> {
        let request =
            PutRequest { key, value, condition: condition.map(Into::into), context: None };
        self.write(|mut rpc, write, repeated, time| {
            let context = Some(write.context(repeated));
            let call = timed(PutRequest { context, ..request.clone() }, time);
            async move { rpc.put(call).await.map(|answer| answer.into_inner().version) }
        })
        .await
    }

    /// Removes one key; removing an absent key succeeds.
    ///
    /// # Errors
    /// See [`Error`]; mind `OutcomeUnknown`.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Version, Error> {
        self.do_delete(key.into(), None).await
    }

    /// Removes one key if a condition holds.
    ///
    /// # Errors
    /// `ConditionFailed` with what the key holds instead; see [`Error`].
    pub async fn delete_if(
        &self,
        key: impl Into<Bytes>,
        condition: Condition,
    ) -> Result<Version, Error> {
        self.do_delete(key.into(), Some(condition)).await
    }

    async fn do_delete(&self, key: Bytes, condition: Option<Condition>) -> Result<Version, Error> {
        let request = DeleteRequest { key, condition: condition.map(Into::into), context: None };
        self.write(|mut rpc, write, repeated, time| {
            let context = Some(write.context(repeated));
            let call = timed(DeleteRequest { context, ..request.clone() }, time);
            async move { rpc.delete(call).await.map(|answer| answer.into_inner().version) }
        })
        .await
    }

    /// Removes every key from `start` to `end` (exclusive; empty: unbounded): range by range in key
    /// order, atomically inside each.
    ///
    /// # Errors
    /// See [`Error`]. After any, a part of the span may be gone; repeat it.
    pub async fn delete_range(
        &self,
        start: impl Into<Bytes>,
        end: impl Into<Bytes>,
    ) -> Result<Version, Error> {
        let request = DeleteRangeRequest { start: start.into(), end: end.into(), context: None };
        self.write(|mut rpc, write, repeated, time| {
            let context = Some(write.context(repeated));
            let call = timed(DeleteRangeRequest { context, ..request.clone() }, time);
            async move { rpc.delete_range(call).await.map(|answer| answer.into_inner().version) }
        })
        .await
    }

    /// Tells, for good, whether a write took effect: its version, or `None` if it did not and never
    /// will.
    ///
    /// ```no_run
    /// # async fn run(client: rangedb_client::Client) -> Result<(), rangedb_client::Error> {
    /// use rangedb_client::Error;
    ///
    /// if let Err(Error::OutcomeUnknown { id }) = client.put("k", "v").await {
    ///     match client.commit_status("k", id).await? {
    ///         Some(version) => println!("written at {version}"),
    ///         None => println!("not written"),
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn commit_status(
        &self,
        key: impl Into<Bytes>,
        write: WriteId,
    ) -> Result<Option<Version>, Error> {
        let request = CommitStatusRequest {
            key: key.into(),
            request_id: Bytes::copy_from_slice(&write.request_id.to_bytes()),
            seen_version: write.seen.0,
            transaction_id: 0,
        };
        let call = |mut rpc: KeyValueRpc, call| async move { rpc.commit_status(call).await };
        let status = self.read_unary(call, &request).await?.into_inner();
        Ok(status.committed.then_some(Version(status.version)))
    }

    /// Opens a stream for many operations at once.
    #[must_use]
    pub fn pipeline(&self) -> Pipeline {
        Pipeline::open(self.clone())
    }

    /// The operator's interface of the gateway used now, as generated.
    ///
    /// ```no_run
    /// # async fn run(client: rangedb_client::Client) -> Result<(), tonic::Status> {
    /// use rangedb_client::proto::ListNodesRequest;
    ///
    /// let nodes = client.admin().list_nodes(ListNodesRequest {}).await?.into_inner().nodes;
    /// # let _ = nodes; Ok(()) }
    /// ```
    #[must_use]
    pub fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.shared.endpoints.current().channel)
            .max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The data interface of the gateway used now, as generated: no retries, no failover.
    #[must_use]
    pub fn key_value(&self) -> KeyValueClient<Channel> {
        key_value(&self.shared.endpoints.current())
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(crate) fn saw(&self, version: Version) {
        self.shared.seen.saw(version);
    }

    // Attempts are closures that give futures of their own, not async closures: the futures of
    // those are not known to be `Send`, and then callers could not spawn a call on a task.
    async fn read_unary<M, T, F, A>(&self, attempt: F, message: &M) -> Result<Response<T>, Error>
    where
        M: Clone,
        F: Fn(KeyValueRpc, Request<M>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        self.read(move |rpc, time| {
            let answer = attempt(rpc, timed(message.clone(), time));
            async move { answer.await.map_err(judge_status) }
        })
        .await
    }

    /// Attempts of a call that may run any number of times.
    pub(crate) async fn read<T, F, A>(&self, attempt: F) -> Result<T, Error>
    where
        F: Fn(KeyValueRpc, Duration) -> A,
        A: Future<Output = Result<T, Verdict>>,
    {
        self.repeat(|gateway, time| attempt(key_value(gateway), time))
            .await
            .map_err(|end| end.error)
    }

    /// Attempts of a call that may run any number of times, at one gateway after the other.
    pub(crate) async fn repeat<T, F, A>(&self, attempt: F) -> Result<T, End>
    where
        F: Fn(&Gateway, Duration) -> A,
        A: Future<Output = Result<T, Verdict>>,
    {
        self.repeat_with(Patience::Short, attempt).await
    }

    /// The same with another share of the time for each.
    pub(crate) async fn repeat_with<T, F, A>(
        &self,
        patience: Patience,
        attempt: F,
    ) -> Result<T, End>
    where
        F: Fn(&Gateway, Duration) -> A,
        A: Future<Output = Result<T, Verdict>>,
    {
        let endpoints = &self.shared.endpoints;
        let mut attempts = Attempts::new(self.options.timeout, None).with(patience);
        loop {
            let gateway = endpoints.current();
            let time = attempts.attempt_time(endpoints.len());
            match attempt(&gateway, time).await {
                Ok(answer) => return Ok(answer),
                Err(verdict) => {
                    let moved = self.move_on(&gateway, &mut attempts, verdict).await;
                    // Even a definite answer may speak of its own attempt only.
                    let maybe_applied = attempts.repeated();
                    moved.map_err(|error| End { error, maybe_applied })?;
                }
            }
        }
    }

    /// Attempts of a write, all under one request id.
    async fn write<F, A>(&self, attempt: F) -> Result<Version, Error>
    where
        F: Fn(KeyValueRpc, WriteId, bool, Duration) -> A,
        A: Future<Output = Result<u64, Status>>,
    {
        self.renew_seen().await;
        let endpoints = &self.shared.endpoints;
        let write = WriteId::new(self.seen_version());
        let mut attempts = Attempts::new(self.options.timeout, Some(write));
        loop {
            let gateway = endpoints.current();
            let time = attempts.attempt_time(endpoints.len());
            match attempt(key_value(&gateway), write, attempts.repeated(), time).await {
                Ok(version) => {
                    self.saw(Version(version));
                    self.observed(Version(version));
                    return Ok(Version(version));
                }
                Err(status) => {
                    self.move_on(&gateway, &mut attempts, judge_status(status)).await?;
                }
            }
        }
    }

    async fn move_on(
        &self,
        gateway: &Gateway,
        attempts: &mut Attempts,
        verdict: Verdict,
    ) -> Result<(), Error> {
        if !matches!(verdict, Verdict::Final(_)) {
            self.shared.endpoints.failed(gateway);
        }
        attempts.failed(verdict).await
    }

    /// A client that was idle fetches a recent version before it writes, so that the write can be
    /// repeated if its answer is lost. Without one it still writes.
    pub(crate) async fn renew_seen(&self) {
        if self.shared.seen.is_old() {
            let timeout = RENEW_TIMEOUT.min(self.options.timeout / 2);
            let renewed = self.with_timeout(timeout).batch_get(Vec::<Bytes>::new()).await;
            if let Err(error) = renewed {
                tracing::debug!(%error, "could not renew the seen version");
            }
        }
    }
}

/// A call that carries its time in the `grpc-timeout` header.
pub(crate) fn timed<M>(message: M, time: Duration) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(time);
    request
}

pub(crate) fn key_value(gateway: &Gateway) -> KeyValueRpc {
    KeyValueClient::new(gateway.channel.clone())
        .max_decoding_message_size(ANSWER_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn version_in<T>(answer: &tonic::Response<T>, name: &str) -> Option<Version> {
    let text = answer.metadata().get(name)?.to_str().ok()?;
    text.parse().ok().map(Version)
}

pub(crate) fn value_of(response: GetResponse) -> Option<Value> {
    response.found.then(|| Value { value: response.value, version: Version(response.version) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent<F: Future + Send + 'static>(_: F) {}

    /// Callers spawn calls on tasks; this must compile.
    #[test]
    fn calls_can_be_spawned() {
        let _ = |client: Client| {
            sent(async move {
                let pipeline = client.pipeline();
                let _ = client.batch_get(["k"]).await;
                let _ = client.get("k").await;
                let _ = client.put("k", "v").await;
                let _ = client.delete("k").await;
                let _ = client.delete_range("k", "l").await;
                let _ = client.range(crate::RangeQuery::all()).await;
                let _ = Client::connect(["h:1"]).await;
                let _ = pipeline.put("k", "v").await;
                let _ = pipeline.get("k").await;
            });
        };
    }
}
