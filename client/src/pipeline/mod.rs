//! Many operations at once over one stream.

mod driver;
mod state;

use crate::attempts::Attempts;
use crate::client::value_of;
use crate::error::{Error, Verdict, judge_pipeline};
use crate::write::{Condition, WriteId};
use crate::{Client, Value, Version};
use bytes::Bytes;
use rangedb_proto::v1::pipeline_operation::Operation;
use rangedb_proto::v1::pipeline_result::Result as Answer;
use rangedb_proto::v1::{BatchGetRequest, DeleteRequest, GetRequest, PutRequest};
use state::{Finished, State};
use std::sync::Arc;
use std::time::Duration;

/// A stream to a gateway that carries many operations at once: by far the fastest way to make many
/// small calls. Every operation is a future of its own; those that wait at the same moment travel
/// together. Operations are not ordered among each other.
///
/// If the stream breaks it is opened again, at another gateway if need be, and what was under way is
/// repeated (writes under their request ids). Cheap to clone; the stream closes with the last clone.
///
/// ```no_run
/// # async fn run(client: rangedb_client::Client) -> Result<(), rangedb_client::Error> {
/// let pipeline = client.pipeline();
/// let writes = (0..1000).map(|i| pipeline.put(format!("key/{i}"), "value"));
/// for written in futures::future::join_all(writes).await {
///     written?;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Pipeline {
    handle: Arc<Handle>,
    timeout: Duration,
}

/// Closes the stream when the last clone of the pipeline goes.
#[derive(Debug)]
struct Handle {
    state: Arc<State>,
    client: Client,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.state.close();
    }
}

impl Pipeline {
    pub(crate) fn open(client: Client) -> Self {
        let options = client.options();
        let state = State::new(options.pipeline_operations_max);
        // The task ends with the handle: `close` wakes it.
        tokio::spawn(driver::run(Arc::clone(&state), client.shared()));
        Self { handle: Arc::new(Handle { state, client }), timeout: options.timeout }
    }

    /// Reads one key.
    ///
    /// # Errors
    /// See [`Error`]; an absent key is none.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Value>, Error> {
        let request = GetRequest { key: key.into(), context: None };
        match self.call(None, |_| Operation::Get(request.clone())).await? {
            Answer::Get(get) => Ok(value_of(get)),
            _ => Err(MISMATCH),
        }
    }

    /// Reads many keys, in the order asked.
    ///
    /// # Errors
    /// See [`Error`]; absent keys are none.
    pub async fn batch_get<K>(&self, keys: K) -> Result<Vec<Option<Value>>, Error>
    where
        K: IntoIterator,
        K::Item: Into<Bytes>,
    {
        let keys = keys.into_iter().map(Into::into).collect();
        let request = BatchGetRequest { keys, context: None };
        match self.call(None, |_| Operation::BatchGet(request.clone())).await? {
            Answer::BatchGet(batch) => Ok(batch.values.into_iter().map(value_of).collect()),
            _ => Err(MISMATCH),
        }
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
        let write = self.new_write().await;
        let answer = self.call(Some(write), |repeated| {
            Operation::Put(PutRequest {
                key: key.clone(),
                value: value.clone(),
                condition: condition.map(Into::into),
                context: Some(write.context(repeated)),
            })
        });
        match answer.await? {
            Answer::Put(put) => Ok(self.saw(put.version)),
            _ => Err(MISMATCH),
        }
    }

    /// Removes one key; removing an absent key succeeds.
    ///
    /// # Errors
    /// See [`Error`]; mind `OutcomeUnknown`.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Version, Error> {
        let (key, write) = (key.into(), self.new_write().await);
        let answer = self.call(Some(write), |repeated| {
            Operation::Delete(DeleteRequest {
                key: key.clone(),
                condition: None,
                context: Some(write.context(repeated)),
            })
        });
        match answer.await? {
            Answer::Delete(delete) => Ok(self.saw(delete.version)),
            _ => Err(MISMATCH),
        }
    }

    async fn new_write(&self) -> WriteId {
        self.handle.client.renew_seen().await;
        WriteId::new(self.handle.client.seen_version())
    }

    fn saw(&self, version: u64) -> Version {
        self.handle.client.saw(Version(version));
        self.handle.client.observed(Version(version));
        Version(version)
    }

    /// Attempts of one operation; `build` gets whether it is a repetition.
    async fn call(
        &self,
        write: Option<WriteId>,
        build: impl Fn(bool) -> Operation,
    ) -> Result<Answer, Error> {
        let mut attempts = Attempts::new(self.timeout, write);
        loop {
            let operation = build(attempts.repeated());
            let finished = self.handle.state.submit(operation, attempts.deadline()).await;
            let verdict = match finished {
                Finished::Answered(Some(Answer::Error(error))) => judge_pipeline(error),
                Finished::Answered(Some(answer)) => return Ok(answer),
                Finished::Answered(None) => Verdict::MaybeApplied("an empty answer".to_owned()),
                Finished::NotSent => Verdict::NotApplied(Error::Unavailable {
                    message: "no gateway could be reached in time".to_owned(),
                }),
                Finished::Lost => Verdict::MaybeApplied("the stream broke".to_owned()),
                Finished::TimedOut => Verdict::MaybeApplied("no answer in time".to_owned()),
            };
            attempts.failed(verdict).await?;
        }
    }
}

const MISMATCH: Error = Error::Protocol("the answer belongs to another kind of operation");
