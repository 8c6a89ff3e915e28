//! The public `KeyValue` service.
//!
//! Owns: the translation between public calls and operations. Must not know: routes, links, retries.

use crate::batch_get::{batch_get, unexpected};
use crate::conditional;
use crate::consistency::read_at;
use crate::deadline;
use crate::delete_range::delete_range;
use crate::dispatch::{Call, Dispatcher};
use crate::errors::Failure;
use crate::metrics::Method;
use crate::operation::{Identity, Operation, ReadAt};
use crate::pipeline::{PipelineLimits, PipelineStream};
use crate::range_read::{Patience, RangeReader, Wanted};
use crate::transaction::{Tokens, fate_of, write_all};
use crate::transactions::Writes;
use crate::validation;
use futures::Stream;
use futures::stream::{self, BoxStream, StreamExt as _};
use rangedb_proto::internal::v1::NodeValue;
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_proto::v1::key_value_server::KeyValue;
use rangedb_proto::v1::{
    BatchGetRequest, BatchGetResponse, BatchRequest, BatchResponse, CommitStatusRequest,
    CommitStatusResponse, ConditionalRequest, ConditionalResponse, DeleteRangeRequest,
    DeleteRangeResponse, DeleteRequest, DeleteResponse, GetRequest, GetResponse, PipelineRequest,
    PipelineResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestContext,
};
use rangedb_types::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

/// Metadata of a BatchGet's answer: a timestamp that lies before any write the caller starts from
/// now on, for the `seen_version` of later retries.
pub const SEEN_VERSION_METADATA: &str = "rangedb-seen-version";
/// Metadata of a Get's or BatchGet's answer: the version it shows, if that was not simply the latest.
pub const READ_VERSION_METADATA: &str = "rangedb-read-version";

/// The service's settings.
#[derive(Clone, Copy, Debug)]
pub struct ServiceLimits {
    pub request_timeout: Duration,
    pub page_bytes: u64,
    pub pipeline: PipelineLimits,
}

/// Serves applications.
pub struct KeyValueService {
    dispatcher: Arc<Dispatcher>,
    tokens: Arc<Tokens>,
    limits: ServiceLimits,
    /// Owns the tasks of Pipeline operations that need more than one attempt.
    tasks: TaskTracker,
    /// Ends the open streams when the gateway stops.
    stop: CancellationToken,
}

impl KeyValueService {
    #[must_use]
    pub const fn new(
        dispatcher: Arc<Dispatcher>,
        tokens: Arc<Tokens>,
        limits: ServiceLimits,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { dispatcher, tokens, limits, tasks, stop }
    }

    fn deadline(&self, metadata: &MetadataMap) -> Result<Instant, Failure> {
        deadline::of_call(metadata, self.limits.request_timeout)
    }

    async fn identity(
        &self,
        context: Option<&RequestContext>,
        deadline: Instant,
    ) -> Result<Identity, Failure> {
        let recent = self.dispatcher.timestamps.latest_seen();
        let mut identity = validation::write_context(context, recent)?;
        if recent.is_zero() && !identity.retry {
            identity.seen = self.dispatcher.timestamp(deadline).await?;
        }
        Ok(identity)
    }

    async fn read_at(
        &self,
        context: Option<&RequestContext>,
        deadline: Instant,
    ) -> Result<ReadAt, Failure> {
        read_at(&self.dispatcher, &self.tokens, context, deadline).await
    }

    async fn execute(&self, operation: &Operation, deadline: Instant) -> Result<Answer, Failure> {
        let call = Call::new(Instant::now(), deadline, false);
        Ok(self.dispatcher.execute(operation, call).await?.answer)
    }

    async fn write(&self, operation: &Operation, deadline: Instant) -> Result<u64, Failure> {
        match self.execute(operation, deadline).await? {
            Answer::Write(written) => Ok(written.version),
            _ => Err(unexpected()),
        }
    }

    async fn do_get(
        &self,
        request: Request<GetRequest>,
    ) -> Result<(GetResponse, Timestamp), Failure> {
        let deadline = self.deadline(request.metadata())?;
        let request = request.into_inner();
        validation::key("key", &request.key)?;
        let at = self.read_at(request.context.as_ref(), deadline).await?;
        let version = at.version;
        let operation = Operation::Get { keys: vec![request.key], at };
        match self.execute(&operation, deadline).await? {
            Answer::Get(mut page) => {
                let value = page.values.pop().map(get_response).ok_or_else(unexpected)?;
                Ok((value, version))
            }
            _ => Err(unexpected()),
        }
    }

    async fn do_put(&self, request: Request<PutRequest>) -> Result<PutResponse, Failure> {
        let deadline = self.deadline(request.metadata())?;
        let request = request.into_inner();
        validation::key("key", &request.key)?;
        validation::value(&request.value)?;
        let condition = validation::condition(request.condition)?;
        let identity = self.identity(request.context.as_ref(), deadline).await?;
        let (key, value) = (request.key, request.value);
        let operation = Operation::Put { key, value, condition, identity };
        Ok(PutResponse { version: self.write(&operation, deadline).await? })
    }

    async fn do_delete(&self, request: Request<DeleteRequest>) -> Result<DeleteResponse, Failure> {
        let deadline = self.deadline(request.metadata())?;
        let request = request.into_inner();
        validation::key("key", &request.key)?;
        let condition = validation::condition(request.condition)?;
        let identity = self.identity(request.context.as_ref(), deadline).await?;
        let operation = Operation::Delete { key: request.key, condition, identity };
        Ok(DeleteResponse { version: self.write(&operation, deadline).await? })
    }

    async fn do_delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<DeleteRangeResponse, Failure> {
        let deadline = self.deadline(request.metadata())?;
        let request = request.into_inner();
        validation::span(&request.start, &request.end)?;
        let identity = self.identity(request.context.as_ref(), deadline).await?;
        let (start, end) = (request.start, request.end);
        let version = delete_range(&self.dispatcher, start, end, identity, deadline).await?;
        Ok(DeleteRangeResponse { version })
    }

    async fn do_batch_get(
        &self,
        request: Request<BatchGetRequest>,
    ) -> Result<(BatchGetResponse, Timestamp), Failure> {
        let deadline = self.deadline(request.metadata())?;
        let request = request.into_inner();
        validation::batch_get(&request)?;
        let at = self.read_at(request.context.as_ref(), deadline).await?;
        let version = at.version;
        let values = batch_get(&self.dispatcher, &request.keys, at, deadline, false).await?;
        Ok((BatchGetResponse { values }, version))
    }

    async fn do_batch(&self, request: Request<BatchRequest>) -> Result<BatchResponse, Failure> {
        let deadline = self.deadline(request.metadata())?;
        let mut writes = Writes::default();
        for write in request.into_inner().writes {
            writes.add(write)?;
        }
        let writes = writes.all_in_order().await?;
        if writes.is_empty() {
            return Err(Failure::invalid("writes", "the batch writes nothing"));
        }
        let dispatcher = Arc::clone(&self.dispatcher);
        let writing = async move { write_all(&dispatcher, writes, deadline).await };
        let version = self.dispatcher.do_whole(writing).await?;
        Ok(BatchResponse { version: version.0 })
    }

    async fn do_conditional(
        &self,
        request: Request<ConditionalRequest>,
    ) -> Result<ConditionalResponse, Failure> {
        let deadline = self.deadline(request.metadata())?;
        let conditional = conditional::from_wire(request.into_inner())?;
        let dispatcher = Arc::clone(&self.dispatcher);
        let done = async move { conditional.run(&dispatcher, deadline).await };
        Ok(conditional::to_wire(self.dispatcher.do_whole(done).await?))
    }

    async fn do_commit_status(
        &self,
        request: Request<CommitStatusRequest>,
    ) -> Result<CommitStatusResponse, Failure> {
        let deadline = self.deadline(request.metadata())?;
        let request = request.into_inner();
        validation::key("key", &request.key)?;
        if request.transaction_id != 0 {
            let id = Timestamp(request.transaction_id);
            let version = fate_of(&self.dispatcher, id, &request.key, deadline).await?;
            let (committed, version) = (version.is_some(), version.unwrap_or_default().0);
            return Ok(CommitStatusResponse { committed, version });
        }
        let request_id = validation::request_id("request_id", &request.request_id)?;
        let seen = validation::seen("seen_version", request.seen_version)?;
        let operation = Operation::CommitStatus { key: request.key, request_id, seen };
        match self.execute(&operation, deadline).await? {
            Answer::CommitStatus(status) => {
                Ok(CommitStatusResponse { committed: status.committed, version: status.version })
            }
            _ => Err(unexpected()),
        }
    }

    async fn reader(&self, request: Request<RangeRequest>) -> Result<RangeReader, Failure> {
        let patience = if deadline::is_given(request.metadata()) {
            Patience::Until(self.deadline(request.metadata())?)
        } else {
            Patience::PerPage(self.limits.request_timeout)
        };
        let request = request.into_inner();
        validation::span(&request.start, &request.end)?;
        let limit = validation::entry_limit(request.limit)?;
        let wanted = Wanted {
            start: request.start,
            end: request.end,
            limit: (limit > 0).then_some(limit),
            reverse: request.reverse,
            keys_only: request.keys_only,
            page_bytes: self.limits.page_bytes,
        };
        let at = self.read_at(request.context.as_ref(), patience.deadline()).await?;
        Ok(RangeReader::new(Arc::clone(&self.dispatcher), wanted, at, patience))
    }

    /// Counts a finished call and turns its failure into a status.
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

    /// The pages after the first, as they are asked for.
    fn pages(
        &self,
        began: Instant,
        first: RangeResponse,
        reader: RangeReader,
    ) -> impl Stream<Item = Result<RangeResponse, Status>> + Send + 'static {
        let metrics = Arc::clone(&self.dispatcher.metrics);
        let rest = stream::unfold(Some(reader), move |reader| {
            let metrics = Arc::clone(&metrics);
            async move {
                let mut reader = reader?;
                match reader.next_page().await {
                    Ok(Some(page)) => {
                        metrics.range_pages.inc();
                        Some((Ok(page), Some(reader)))
                    }
                    Ok(None) => {
                        metrics.finished(Method::Range, Code::Ok, began.elapsed());
                        None
                    }
                    Err(failure) => {
                        metrics.finished(Method::Range, failure.code(), began.elapsed());
                        Some((Err(failure.into()), None))
                    }
                }
            }
        });
        stream::once(async move { Ok(first) }).chain(rest)
    }
}

/// An answer, and the version it was read at.
fn split<T>(read: Result<(T, Timestamp), Failure>) -> (Result<T, Failure>, Timestamp) {
    match read {
        Ok((answer, version)) => (Ok(answer), version),
        Err(failure) => (Err(failure), Timestamp::ZERO),
    }
}

fn tell<T>(response: &mut Response<T>, name: &'static str, version: Timestamp) {
    if !version.is_zero() {
        response.metadata_mut().insert(name, version.0.into());
    }
}

/// A value as applications get it.
pub fn get_response(value: NodeValue) -> GetResponse {
    GetResponse { found: value.found, value: value.value, version: value.version }
}

#[tonic::async_trait]
impl KeyValue for KeyValueService {
    type RangeStream = BoxStream<'static, Result<RangeResponse, Status>>;
    type PipelineStream = BoxStream<'static, Result<PipelineResponse, Status>>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let began = Instant::now();
        let (result, version) = split(self.do_get(request).await);
        let mut response = self.finish(Method::Get, began, result)?;
        tell(&mut response, READ_VERSION_METADATA, version);
        Ok(response)
    }

    async fn batch_get(
        &self,
        request: Request<BatchGetRequest>,
    ) -> Result<Response<BatchGetResponse>, Status> {
        let began = Instant::now();
        let seen = self.dispatcher.timestamps.latest_seen();
        let (result, version) = split(self.do_batch_get(request).await);
        let mut response = self.finish(Method::BatchGet, began, result)?;
        tell(&mut response, SEEN_VERSION_METADATA, seen);
        tell(&mut response, READ_VERSION_METADATA, version);
        Ok(response)
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let began = Instant::now();
        let result = self.do_put(request).await;
        self.finish(Method::Put, began, result)
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let began = Instant::now();
        let result = self.do_delete(request).await;
        self.finish(Method::Delete, began, result)
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let began = Instant::now();
        let result = self.do_delete_range(request).await;
        self.finish(Method::DeleteRange, began, result)
    }

    async fn batch(
        &self,
        request: Request<BatchRequest>,
    ) -> Result<Response<BatchResponse>, Status> {
        let began = Instant::now();
        let result = self.do_batch(request).await;
        self.finish(Method::Batch, began, result)
    }

    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStream>, Status> {
        let began = Instant::now();
        let first = async {
            let mut reader = self.reader(request).await?;
            let page = reader.next_page().await?.ok_or_else(unexpected)?;
            Ok((page, reader))
        };
        match first.await {
            Ok((page, reader)) => {
                self.dispatcher.metrics.range_pages.inc();
                Ok(Response::new(self.pages(began, page, reader).boxed()))
            }
            Err(failure) => self.finish(Method::Range, began, Err(failure)),
        }
    }

    async fn conditional(
        &self,
        request: Request<ConditionalRequest>,
    ) -> Result<Response<ConditionalResponse>, Status> {
        let began = Instant::now();
        let result = self.do_conditional(request).await;
        self.finish(Method::Conditional, began, result)
    }

    async fn commit_status(
        &self,
        request: Request<CommitStatusRequest>,
    ) -> Result<Response<CommitStatusResponse>, Status> {
        let began = Instant::now();
        let result = self.do_commit_status(request).await;
        self.finish(Method::CommitStatus, began, result)
    }

    async fn pipeline(
        &self,
        request: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let stream = PipelineStream::new(
            request.into_inner(),
            Arc::clone(&self.dispatcher),
            self.limits.pipeline,
            self.tasks.clone(),
            self.stop.clone(),
        );
        Ok(Response::new(stream.boxed()))
    }
}
