//! What one data stream may have under way, and its way back.
//!
//! Requests count from their receipt until they are settled, answers until they are taken by the
//! transport. While either is too much, nothing more is read from the stream, and the gateway feels
//! it by HTTP/2's flow control.

use super::metrics;
use futures::Stream;
use prost::Message as _;
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_proto::internal::v1::{DataResponse, DataResponses};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use tokio::sync::{Notify, mpsc};
use tonic::Status;

/// Requests of one stream under way.
const REQUESTS_MAX: usize = 16_384;
/// Their bytes.
const REQUEST_BYTES_MAX: usize = 64 << 20;
/// Bytes of answers of one stream that wait for the transport.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Answers, and about how many bytes of them, that go into one message.
const MESSAGE_ANSWERS_MAX: usize = 1024;
const MESSAGE_BYTES_TARGET: usize = 1 << 20;

/// Counts what a stream has under way.
#[derive(Default)]
struct Flow {
    requests: AtomicUsize,
    request_bytes: AtomicUsize,
    answer_bytes: AtomicUsize,
    lower: Notify,
}

impl Flow {
    fn is_full(&self) -> bool {
        self.requests.load(Ordering::Acquire) >= REQUESTS_MAX
            || self.request_bytes.load(Ordering::Acquire) >= REQUEST_BYTES_MAX
            || self.answer_bytes.load(Ordering::Acquire) >= ANSWER_BYTES_MAX
    }
}

/// The requests of one message, until the last of them is settled.
pub(super) struct UnderWay {
    flow: Arc<Flow>,
    requests: usize,
    bytes: usize,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.flow.requests.fetch_sub(self.requests, Ordering::AcqRel);
        self.flow.request_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        metrics::UNDER_WAY.sub(i64::try_from(self.requests).unwrap_or(i64::MAX));
        self.flow.lower.notify_one();
    }
}

/// Where the answers of one stream go.
#[derive(Clone)]
pub(super) struct Answers {
    flow: Arc<Flow>,
    queue: mpsc::UnboundedSender<Vec<DataResponse>>,
}

impl Answers {
    /// Sends answers, if anybody still waits for them.
    pub(super) fn send(&self, answers: Vec<DataResponse>) {
        let bytes: usize = answers.iter().map(DataResponse::encoded_len).sum();
        self.flow.answer_bytes.fetch_add(bytes, Ordering::AcqRel);
        // The gateway may have gone away. The queue is bounded by what the stream may have under
        // way, so its channel needs no bound of its own.
        let _ = self.queue.send(answers);
    }

    /// Counts a message's requests.
    pub(super) fn begin(&self, requests: usize, bytes: usize) -> Arc<UnderWay> {
        self.flow.requests.fetch_add(requests, Ordering::AcqRel);
        self.flow.request_bytes.fetch_add(bytes, Ordering::AcqRel);
        metrics::UNDER_WAY.add(i64::try_from(requests).unwrap_or(i64::MAX));
        Arc::new(UnderWay { flow: Arc::clone(&self.flow), requests, bytes })
    }

    /// Resolves when another message may be read.
    pub(super) async fn room(&self) {
        while self.flow.is_full() {
            // One permit is kept if the notice comes between the check and the wait.
            self.flow.lower.notified().await;
        }
    }

    /// Resolves when nobody waits for answers any more.
    pub(super) async fn abandoned(&self) {
        self.queue.closed().await;
    }
}

/// Makes the two ends of a stream's way back.
pub(super) fn channel() -> (Answers, ResponseStream) {
    let (queue, answers) = mpsc::unbounded_channel();
    let flow = Arc::new(Flow::default());
    let stream = ResponseStream { flow: Arc::clone(&flow), answers, taken: VecDeque::new() };
    (Answers { flow, queue }, stream)
}

/// The answers of a data stream, as many in a message as there are and fit.
pub struct ResponseStream {
    flow: Arc<Flow>,
    answers: mpsc::UnboundedReceiver<Vec<DataResponse>>,
    /// Taken from the queue and not sent yet.
    taken: VecDeque<DataResponse>,
}

impl ResponseStream {
    /// The next message: stops at the first answer that makes it large enough, so that a message is
    /// never much larger than one answer.
    fn message(&mut self) -> DataResponses {
        let mut responses = Vec::with_capacity(self.taken.len().min(MESSAGE_ANSWERS_MAX));
        let mut bytes = 0;
        while responses.len() < MESSAGE_ANSWERS_MAX && bytes < MESSAGE_BYTES_TARGET {
            if self.taken.is_empty() {
                match self.answers.try_recv() {
                    Ok(more) => self.taken.extend(more),
                    Err(_) => break,
                }
            }
            if let Some(answer) = self.taken.pop_front() {
                bytes += answer.encoded_len();
                responses.push(answer);
            }
        }
        self.flow.answer_bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.flow.lower.notify_one();
        metrics::ANSWERS_PER_MESSAGE.observe(responses.len() as f64);
        DataResponses { responses }
    }
}

impl Stream for ResponseStream {
    type Item = Result<DataResponses, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while self.taken.is_empty() {
            match ready!(self.answers.poll_recv(context)) {
                Some(answers) => self.taken.extend(answers),
                None => return Poll::Ready(None),
            }
        }
        Poll::Ready(Some(Ok(self.message())))
    }
}

/// An answer with its tag.
pub(super) fn response(tag: u64, result: Answer) -> DataResponse {
    DataResponse { tag, result: Some(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::{FutureExt as _, StreamExt as _};
    use rangedb_proto::internal::v1::{NodeGetResult, NodeValue, NodeWriteResult};

    fn written(tag: u64) -> DataResponse {
        response(tag, Answer::Write(NodeWriteResult { version: tag }))
    }

    #[tokio::test]
    async fn waiting_answers_share_a_message() {
        let (answers, mut stream) = channel();
        answers.send(vec![written(1)]);
        answers.send(vec![written(2), written(3)]);
        let message = stream.next().await.unwrap().unwrap();
        let tags: Vec<_> = message.responses.iter().map(|response| response.tag).collect();
        assert_eq!(tags, [1, 2, 3]);
        drop(answers);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn large_answers_do_not_share_a_message() {
        let (answers, mut stream) = channel();
        let large = |tag| {
            let value = Bytes::from(vec![0; MESSAGE_BYTES_TARGET]);
            let values = vec![NodeValue { found: true, value, version: 1 }];
            response(tag, Answer::Get(NodeGetResult { values }))
        };
        answers.send(vec![written(1), large(2), large(3), written(4)]);
        let mut tags = Vec::new();
        for _ in 0..3 {
            let message = stream.next().await.unwrap().unwrap();
            tags.push(message.responses.iter().map(|response| response.tag).collect::<Vec<_>>());
        }
        assert_eq!(tags, [vec![1, 2], vec![3], vec![4]]);
        assert_eq!(stream.flow.answer_bytes.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn a_full_stream_waits_until_requests_are_settled() {
        let (answers, _stream) = channel();
        answers.room().await;
        let (first, second) = (answers.begin(REQUESTS_MAX - 1, 10), answers.begin(1, 10));
        assert!(answers.room().now_or_never().is_none());
        drop(second);
        answers.room().await;
        drop(first);
        let _large = answers.begin(1, REQUEST_BYTES_MAX);
        assert!(answers.room().now_or_never().is_none());
    }

    #[tokio::test]
    async fn answers_that_are_not_read_stop_the_stream() {
        let (answers, mut stream) = channel();
        let value = Bytes::from(vec![0; ANSWER_BYTES_MAX]);
        let values = vec![NodeValue { found: true, value, version: 1 }];
        answers.send(vec![response(1, Answer::Get(NodeGetResult { values }))]);
        assert!(answers.room().now_or_never().is_none());
        stream.next().await.unwrap().unwrap();
        answers.room().await;
    }
}
