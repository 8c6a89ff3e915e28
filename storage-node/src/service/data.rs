//! The data stream: from messages of requests to the modules that do them, and back.

use super::decode::{Decoded, Op, decode};
use super::flow::{Answers, ResponseStream, UnderWay, channel, response};
use super::held::{Held, LOOKS, LOOKS_FOR_PART, passes_soon};
use super::metrics::Kind;
use super::{actions, convert, metrics};
use crate::access::{RangeStates, Ranges, Refusal, Target, resolve};
use crate::read::{AtReplica, Get, GetResult, ReadAt, Reader, Scan};
use crate::txn::{Action, Actor};
use crate::write::{Batch, StatusQuery, Work, WorkResult, Write, Writer};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_proto::internal::v1::{DataRequests, DataResponse};
use rangedb_types::{Epoch, RangeId, Span, Timestamp};
use std::sync::Arc;
use std::time::Instant as Clock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

/// Does data requests.
pub struct DataPlane {
    ranges: Arc<dyn Ranges>,
    states: Arc<RangeStates>,
    reader: Arc<Reader>,
    writer: Arc<Writer>,
    actor: Arc<Actor>,
    /// Owns the streams and what they started.
    tasks: TaskTracker,
    /// Ends the streams; what they started goes on to its end.
    stop: CancellationToken,
}

/// One message on its way: what all of its requests share.
#[derive(Clone)]
struct Message {
    answers: Answers,
    received: Clock,
    /// Held until the last of the requests is settled.
    _under_way: Arc<UnderWay>,
}

/// The requests of one message by who does them.
#[derive(Default)]
struct Sorted {
    gets: Vec<Get>,
    /// By their places in `kinds`.
    work: Vec<(usize, Work)>,
    /// Tag and kind of each element of `work`.
    kinds: Vec<(u64, Kind)>,
    answers: Vec<DataResponse>,
    held: Vec<Held>,
    /// Ranges, with a version, of which a part was not found here. To look for it again for every other
    /// request would mean to look through all ranges.
    in_parts: Vec<(RangeId, u64)>,
    /// A message is usually for one or two ranges: each is looked up once.
    targets: Vec<(RangeId, Epoch, Target)>,
}

impl Sorted {
    fn add_work(&mut self, tag: u64, kind: Kind, work: Work) {
        self.work.push((self.kinds.len(), work));
        self.kinds.push((tag, kind));
    }
}

impl DataPlane {
    #[must_use]
    pub fn new(
        ranges: Arc<dyn Ranges>,
        states: Arc<RangeStates>,
        reader: Arc<Reader>,
        writer: Arc<Writer>,
        actor: Arc<Actor>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self { ranges, states, reader, writer, actor, tasks, stop })
    }

    /// Serves one stream in a task of its own.
    pub fn serve<S>(this: &Arc<Self>, requests: S) -> ResponseStream
    where
        S: Stream<Item = Result<DataRequests, Status>> + Send + Unpin + 'static,
    {
        let (answers, stream) = channel();
        this.tasks.spawn(Arc::clone(this).run(requests, answers));
        stream
    }

    async fn run<S>(self: Arc<Self>, mut requests: S, answers: Answers)
    where
        S: Stream<Item = Result<DataRequests, Status>> + Send + Unpin,
    {
        metrics::STREAMS.inc();
        loop {
            let next = async {
                answers.room().await;
                requests.next().await
            };
            let message = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = answers.abandoned() => break,
                message = next => message,
            };
            match message {
                Some(Ok(message)) => self.dispatch(message, &answers),
                Some(Err(status)) => {
                    tracing::debug!(%status, "a data stream broke");
                    break;
                }
                None => break,
            }
        }
        metrics::STREAMS.dec();
    }

    fn dispatch(self: &Arc<Self>, requests: DataRequests, answers: &Answers) {
        let under_way = answers.begin(requests.requests.len(), requests.encoded_len());
        let message =
            Message { answers: answers.clone(), received: Clock::now(), _under_way: under_way };
        metrics::REQUESTS_PER_MESSAGE.observe(requests.requests.len() as f64);
        let now = Instant::now();
        let mut sorted = Sorted::default();
        for request in requests.requests {
            let tag = request.tag;
            match decode(request) {
                Ok(decoded) => {
                    let deadline = now + decoded.timeout;
                    self.sort(Held { tag, decoded, deadline }, 0, &message, &mut sorted);
                }
                Err(refusal) => {
                    sorted.answers.push(message.answer(tag, Kind::Invalid, Err(refusal)));
                }
            }
        }
        let held = std::mem::take(&mut sorted.held);
        self.start(sorted, &message);
        if !held.is_empty() {
            self.tasks.spawn(Arc::clone(self).hold(held, message));
        }
    }

    /// Looks again and again whether requests can be done now, and refuses them in the end.
    async fn hold(self: Arc<Self>, mut held: Vec<Held>, message: Message) {
        for (number, pause) in LOOKS.into_iter().enumerate() {
            tokio::time::sleep(pause).await;
            let looks = number + 1;
            let now = Instant::now();
            let mut sorted = Sorted::default();
            for request in held.drain(..) {
                let looks = if now + pause * 2 < request.deadline { looks } else { LOOKS.len() };
                self.sort(request, looks, &message, &mut sorted);
            }
            held = std::mem::take(&mut sorted.held);
            self.start(sorted, &message);
            if held.is_empty() {
                return;
            }
        }
    }

    /// Begins what was sorted.
    fn start(&self, sorted: Sorted, message: &Message) {
        let Sorted { gets, work, kinds, answers: refused, .. } = sorted;
        if !refused.is_empty() {
            message.answers.send(refused);
        }
        if !gets.is_empty() {
            let message = message.clone();
            self.reader.get_batch(gets, move |results| message.answer_gets(results));
        }
        if !work.is_empty() {
            let (batch, message) = (Batch::new(&self.writer, work), message.clone());
            self.tasks.spawn(batch.run(move |results| message.answer_work(results, &kinds)));
        }
    }

    /// Finds a request's range, for which it was looked so many times before, and puts it where it
    /// belongs.
    fn sort(&self, request: Held, looks: usize, message: &Message, sorted: &mut Sorted) {
        let (tag, kind) = (request.tag, request.decoded.operation.kind());
        if let Some(index) = request.decoded.replica {
            self.read_replica(request, index, message.clone());
            return;
        }
        let of = (request.decoded.range_id, request.decoded.epoch.version);
        if sorted.in_parts.contains(&of) && looks < LOOKS_FOR_PART {
            sorted.held.push(request);
            return;
        }
        let result = match self.target(&request.decoded, sorted) {
            Ok(target) => self.place(request, target, message, sorted),
            Err(refusal) if passes_soon(&refusal, looks) => {
                if matches!(refusal, Refusal::EpochMismatch { .. }) {
                    sorted.in_parts.push(of);
                }
                sorted.held.push(request);
                return;
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = result {
            sorted.answers.push(message.answer(tag, kind, Err(refusal)));
        }
    }

    /// Checks a request and puts it where it belongs.
    fn place(
        &self,
        request: Held,
        target: Target,
        message: &Message,
        sorted: &mut Sorted,
    ) -> Result<(), Refusal> {
        let Held { tag, decoded, deadline } = request;
        let kind = decoded.operation.kind();
        match decoded.operation {
            Op::Get { keys, at } => {
                keys.iter().try_for_each(|key| target.check_key(key))?;
                keys.iter().for_each(|key| target.state().traffic.read(key));
                let get = Get { tag, target, keys, deadline };
                if at.version.is_zero() {
                    sorted.gets.push(get);
                } else {
                    self.get_at(get, at, message.clone());
                }
            }
            Op::Scan { span, options, at } => {
                let inside = target.span().intersect(&span);
                let span = inside.ok_or_else(|| target.epoch_mismatch(&span))?;
                target.state().traffic.read(&Bytes::copy_from_slice(&span.start));
                let scan = Scan { target, span, options, at, deadline };
                self.scan(tag, scan, message.clone());
            }
            Op::Write { change, identity } => {
                target.check_scope(&change.scope())?;
                let (key, bytes) = change.extent();
                target.state().traffic.write(&key, bytes);
                let write = Write { target, change, identity, deadline };
                sorted.add_work(tag, kind, Work::Write(write));
            }
            Op::Status { key, request_id, seen } => {
                target.check_key(&key)?;
                let query = StatusQuery { target, key, request_id, seen, deadline };
                sorted.add_work(tag, kind, Work::Status(query));
            }
            Op::Claim { version } => self.claim(tag, target, version, deadline, message.clone()),
            Op::Action(action) => {
                let action = self.inside(action, &target)?;
                let (key, bytes) = action.extent();
                target.state().traffic.write(&key, bytes);
                self.act(tag, target, action, deadline, message.clone());
            }
        }
        Ok(())
    }

    fn target(&self, request: &Decoded, sorted: &mut Sorted) -> Result<Target, Refusal> {
        let (range_id, epoch) = (request.range_id, request.epoch);
        let known = sorted
            .targets
            .iter()
            .find(|(id, of, _)| *id == range_id && of.version == epoch.version);
        if let Some((_, _, target)) = known {
            return Ok(target.clone());
        }
        let span = || request.operation.span();
        let target = resolve(&self.ranges, &self.states, range_id, epoch, span)?;
        sorted.targets.push((range_id, epoch, target.clone()));
        Ok(target)
    }

    /// An action all of whose keys are the range's, and whose spans are cut to it.
    fn inside(&self, action: Action, target: &Target) -> Result<Action, Refusal> {
        let cut =
            |span: &Span| target.span().intersect(span).ok_or_else(|| target.epoch_mismatch(span));
        Ok(match action {
            Action::Resolve { id, span, commit_ts } => {
                Action::Resolve { id, span: cut(&span)?, commit_ts }
            }
            Action::FirmUp { transaction, span } => {
                Action::FirmUp { transaction, span: cut(&span)? }
            }
            Action::CheckReads { id, snapshot_ts, commit_ts, keys, spans } => {
                keys.iter().try_for_each(|key| target.check_key(key))?;
                let spans = spans.iter().map(cut).collect::<Result<_, _>>()?;
                Action::CheckReads { id, snapshot_ts, commit_ts, keys, spans }
            }
            action => {
                target.check_span(&action.span())?;
                action
            }
        })
    }

    fn act(&self, tag: u64, target: Target, action: Action, deadline: Instant, message: Message) {
        let actor = Arc::clone(&self.actor);
        self.tasks.spawn(async move {
            let answer = actor.act(target, action, deadline).await.map(actions::done);
            message.answers.send(vec![message.answer(tag, Kind::Action, answer)]);
        });
    }

    fn get_at(&self, get: Get, at: ReadAt, message: Message) {
        let reader = Arc::clone(&self.reader);
        self.tasks.spawn(async move {
            let tag = get.tag;
            let result = reader.get_at(get, at).await;
            message.answer_gets(vec![(tag, result)]);
        });
    }

    /// A read that this replica may answer, though it does not lead.
    fn read_replica(&self, request: Held, index: u64, message: Message) {
        let Held { tag, decoded, deadline } = request;
        let Decoded { range_id, epoch, operation, .. } = decoded;
        let kind = operation.kind();
        let Some(access) = self.ranges.range(range_id) else {
            let refusal = Err(Refusal::RangeNotFound(range_id));
            message.answers.send(vec![message.answer(tag, kind, refusal)]);
            return;
        };
        let reader = Arc::clone(&self.reader);
        self.tasks.spawn(async move {
            let place =
                |at| AtReplica { access, epoch_version: epoch.version, index, at, deadline };
            let answer = match operation {
                Op::Get { keys, at } => {
                    reader.get_at_replica(place(at), keys).await.map(convert::values)
                }
                Op::Scan { span, options, at } => {
                    let version = at.version;
                    let page = reader.scan_at_replica(place(at), span, options).await;
                    page.map(|page| convert::page(page, version))
                }
                _ => Err(super::decode::invalid("only reads may be made of any replica")),
            };
            message.answers.send(vec![message.answer(tag, kind, answer)]);
        });
    }

    fn claim(
        &self,
        tag: u64,
        target: Target,
        version: Timestamp,
        deadline: Instant,
        message: Message,
    ) {
        let reader = Arc::clone(&self.reader);
        self.tasks.spawn(async move {
            let claimed = reader.claim(&target, version, deadline).await;
            let answer = claimed.map(convert::claimed);
            message.answers.send(vec![message.answer(tag, Kind::Claim, answer)]);
        });
    }

    fn scan(&self, tag: u64, scan: Scan, message: Message) {
        let reader = Arc::clone(&self.reader);
        self.tasks.spawn(async move {
            let result = reader.scan(scan).await;
            let answer = result.map(|(page, version)| convert::page(page, version));
            message.answers.send(vec![message.answer(tag, Kind::Scan, answer)]);
        });
    }
}

impl Message {
    fn answer_gets(&self, results: Vec<(u64, GetResult)>) {
        let answers = results
            .into_iter()
            .map(|(tag, result)| self.answer(tag, Kind::Get, result.map(convert::values)));
        self.answers.send(answers.collect());
    }

    fn answer_work(&self, results: Vec<(usize, WorkResult)>, kinds: &[(u64, Kind)]) {
        let answers = results.into_iter().map(|(at, result)| {
            let (tag, kind) = kinds[at];
            let answer = match kind {
                Kind::CommitStatus => result.map(convert::status),
                _ => result.map(convert::written),
            };
            self.answer(tag, kind, answer)
        });
        self.answers.send(answers.collect());
    }

    /// Counts an answer and puts it on the wire's form.
    fn answer(&self, tag: u64, kind: Kind, answer: Result<Answer, Refusal>) -> DataResponse {
        let of = metrics::of(kind);
        of.seconds.observe(self.received.elapsed().as_secs_f64());
        match answer {
            Ok(answer) => {
                of.done.inc();
                response(tag, answer)
            }
            Err(refusal) => {
                of.refused(refusal.label());
                response(tag, convert::error(refusal))
            }
        }
    }
}
