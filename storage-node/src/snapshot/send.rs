//! Sending: a blocking reader of the engine feeds a stream, at the pace that the receiver and the
//! bandwidth allow.

use super::chunk::{self, FORMAT, Totals};
use super::inbox::is_broken;
use super::metrics::{Metrics, failed};
use super::throttle::Throttle;
use super::{SendJob, SnapshotSettings};
use crate::transport::{AddressBook, Identity, encode_parts, hello};
use futures::StreamExt as _;
use futures::stream::{self, Stream};
use parking_lot::Mutex;
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::raft_transport_client::RaftTransportClient;
use rangedb_proto::internal::v1::snapshot_part::Part;
use rangedb_service::grpc;
use rangedb_types::NodeId;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Chunks read ahead of what the connection takes.
const CHUNKS_AHEAD: usize = 4;
/// How often a transfer is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// Everything that sends has in common.
pub(super) struct Sender {
    identity: Identity,
    addresses: Arc<AddressBook>,
    settings: SnapshotSettings,
    throttle: Arc<Throttle>,
    places: Arc<Semaphore>,
    running: Semaphore,
    cancel: CancellationToken,
}

/// How often a snapshot goes on after its stream broke.
const RESUMPTIONS_MAX: u32 = 5;
const RESUMPTION_PAUSE: Duration = Duration::from_millis(500);

/// Why a snapshot was not sent.
struct Failure {
    reason: String,
    end: End,
}

enum End {
    Final,
    /// The connection broke; what arrived may have been kept.
    Broken {
        /// All of it had been handed to the connection.
        all_sent: bool,
    },
}

impl Failure {
    const fn of(reason: String) -> Self {
        Self { reason, end: End::Final }
    }
}

/// How far a transfer is.
struct Progress {
    last: Instant,
    /// Everything is on its way; the receiver has to install it.
    ended: bool,
}

impl Sender {
    pub fn new(
        identity: Identity,
        addresses: Arc<AddressBook>,
        settings: SnapshotSettings,
        waiting_max: usize,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            identity,
            addresses,
            throttle: Arc::new(Throttle::new(settings.bandwidth.0)),
            places: Arc::new(Semaphore::new(waiting_max + settings.sends_max)),
            running: Semaphore::new(settings.sends_max),
            settings,
            cancel,
        }
    }

    /// A place in the queue; `None` if it is full.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// True if the peer installed it.
    pub async fn send(&self, job: SendJob, place: OwnedSemaphorePermit) -> bool {
        let range_id = job.descriptor.range_id;
        let (to_node, to_replica) = (job.to_node, job.to_replica);
        let index = job.position.index;
        let outcome = tokio::select! {
            outcome = self.run(job) => outcome,
            () = self.cancel.cancelled() => Err("the node is stopping".to_owned()),
        };
        drop(place);
        let metrics = Metrics::get();
        match outcome {
            Ok(()) => {
                metrics.sent.inc();
                tracing::info!(%range_id, %to_node, %to_replica, index, "sent a snapshot");
                true
            }
            Err(reason) => {
                metrics.failures.with_label_values(&[failed::SEND]).inc();
                tracing::warn!(%range_id, %to_node, %to_replica, index, reason, "a snapshot was not sent");
                false
            }
        }
    }

    async fn run(&self, job: SendJob) -> Result<(), String> {
        let _running = self.running.acquire().await.map_err(|error| error.to_string())?;
        let timer = Metrics::get().send_seconds.start_timer();
        let job = Arc::new(job);
        let transfer_id = rand::random::<u64>().max(1);
        let mut sent = self.stream(&job, transfer_id, 0).await;
        for _ in 0..RESUMPTIONS_MAX {
            let Err(Failure { reason, end: End::Broken { all_sent } }) = &sent else { break };
            let (range_id, to_node) = (job.descriptor.range_id, job.to_node);
            tracing::info!(%range_id, %to_node, reason, "the stream of a snapshot broke");
            let all_sent = *all_sent;
            sent = match self.kept(&job, transfer_id).await {
                // It may have it all, and install it.
                Ok(0) if all_sent => break,
                Ok(chunks) => {
                    Metrics::get().resumed.inc();
                    self.stream(&job, transfer_id, chunks).await
                }
                Err(reason) => Err(Failure { reason, end: End::Broken { all_sent } }),
            };
        }
        match sent {
            Ok(()) => timer.observe_duration(),
            Err(_) => drop(timer.stop_and_discard()),
        }
        sent.map_err(|failure| failure.reason)
    }

    async fn connect(&self, to: NodeId) -> Result<RaftTransportClient<Channel>, String> {
        let address =
            self.addresses.get(to).ok_or_else(|| format!("node {to} has no known address"))?;
        let endpoint = grpc::endpoint(&address).map_err(|error| error.to_string())?;
        let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
        Ok(RaftTransportClient::new(channel))
    }

    /// How many chunks the receiver has kept, once it has noticed that the stream broke.
    async fn kept(&self, job: &SendJob, transfer_id: u64) -> Result<u64, String> {
        let ask = async {
            loop {
                tokio::time::sleep(RESUMPTION_PAUSE).await;
                let hello = Some(hello(self.identity, job.to_node));
                let request = wire::SnapshotProgressRequest { hello, transfer_id };
                let answer = self.connect(job.to_node).await?.snapshot_progress(request).await;
                let answer = answer.map_err(|status| status.message().to_owned())?.into_inner();
                if !answer.is_arriving {
                    return Ok(answer.chunks);
                }
            }
        };
        let limit = self.settings.stall_timeout;
        let answer = tokio::time::timeout(limit.get(), ask).await;
        answer.map_err(|_| format!("the receiver did not answer for {limit}"))?
    }

    /// Sends the snapshot from a chunk on, and waits until it is installed.
    async fn stream(
        &self,
        job: &Arc<SendJob>,
        transfer_id: u64,
        first_chunk: u64,
    ) -> Result<(), Failure> {
        let mut client = self.connect(job.to_node).await.map_err(Failure::of)?;
        let progress = Arc::new(Mutex::new(Progress { last: Instant::now(), ended: false }));
        let header = self.header(job, transfer_id, first_chunk);
        let (parts, receiver) = mpsc::channel(CHUNKS_AHEAD);
        // However this ends, the reader ends with it.
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let read_job = Arc::clone(job);
        let reader =
            tokio::task::spawn_blocking(move || read(&read_job, first_chunk, &parts, &stop));
        let stream = paced(header, receiver, Arc::clone(&self.throttle), Arc::clone(&progress));
        let call = client.snapshot(stream);
        let receipt = tokio::select! {
            receipt = call => receipt.map_err(|status| {
                let all_sent = progress.lock().ended;
                let end = if is_broken(&status) { End::Broken { all_sent } } else { End::Final };
                Failure { reason: status.message().to_owned(), end }
            }),
            stalled = self.watch(&progress) => Err(Failure::of(stalled)),
        };
        drop(guard);
        // What the reader met says more than the receiver's complaint about a missing end.
        let read =
            reader.await.map_err(|_| Failure::of("reading the range panicked".to_owned()))?;
        let receipt = match (read, receipt) {
            (Ok(()), receipt) => receipt?.into_inner(),
            (Err(_), Err(failure)) => return Err(failure),
            (Err(error), Ok(_)) => return Err(Failure::of(error)),
        };
        if !receipt.installed {
            return Err(Failure::of(format!("the receiver did not take it: {}", receipt.reason)));
        }
        Ok(())
    }

    /// Returns when the receiver has done nothing for too long.
    async fn watch(&self, progress: &Mutex<Progress>) -> String {
        loop {
            tokio::time::sleep(WATCH_INTERVAL).await;
            let Progress { last, ended } = *progress.lock();
            let limit =
                if ended { self.settings.receipt_timeout } else { self.settings.stall_timeout };
            if last.elapsed() > limit.get() {
                let what = if ended { "did not install it" } else { "took nothing of it" };
                return format!("the receiver {what} for {limit}");
            }
        }
    }

    fn header(&self, job: &SendJob, transfer_id: u64, first_chunk: u64) -> wire::SnapshotPart {
        let range = &job.descriptor;
        let mut message = encode_parts(
            self.identity.node_id,
            range.range_id,
            job.from_replica,
            job.to_replica,
            Some(&job.message),
        );
        message.epoch = Some(range.epoch.into());
        message.start = range.span.start.clone().into();
        message.end = range.span.end.clone().into();
        part(Part::Header(wire::SnapshotHeader {
            hello: Some(hello(self.identity, job.to_node)),
            format: FORMAT,
            range: Some(range.as_ref().into()),
            message: Some(message),
            transfer_id,
            first_chunk,
        }))
    }
}

fn part(part: Part) -> wire::SnapshotPart {
    wire::SnapshotPart { part: Some(part) }
}

/// Reads the whole range, on a thread that may block, and sends its chunks from one on.
fn read(
    job: &SendJob,
    first_chunk: u64,
    parts: &mpsc::Sender<wire::SnapshotPart>,
    stop: &CancellationToken,
) -> Result<(), String> {
    let runtime = Handle::current();
    let send = |this: Part| {
        runtime.block_on(async {
            tokio::select! {
                sent = parts.send(part(this)) => sent.is_ok(),
                () = stop.cancelled() => false,
            }
        })
    };
    let Totals { chunks, bytes, checksum } =
        chunk::read_range(job.data.as_ref(), &job.descriptor, |chunk| {
            if chunk.sequence < first_chunk {
                return !stop.is_cancelled();
            }
            send(Part::Chunk(chunk))
        })?;
    if send(Part::End(wire::SnapshotEnd { chunks, bytes, checksum })) {
        Ok(())
    } else {
        Err("nobody takes it any more".to_owned())
    }
}

fn paced(
    header: wire::SnapshotPart,
    parts: mpsc::Receiver<wire::SnapshotPart>,
    throttle: Arc<Throttle>,
    progress: Arc<Mutex<Progress>>,
) -> impl Stream<Item = wire::SnapshotPart> + Send + 'static {
    let rest = stream::unfold(parts, move |mut parts| {
        let (throttle, progress) = (Arc::clone(&throttle), Arc::clone(&progress));
        async move {
            let part = parts.recv().await?;
            if let Some(Part::Chunk(chunk)) = &part.part {
                throttle.take(chunk.entries.len()).await;
                Metrics::get().sent_bytes.inc_by(chunk.entries.len() as u64);
            }
            let ended = matches!(part.part, Some(Part::End(_)));
            *progress.lock() = Progress { last: Instant::now(), ended };
            Some((part, parts))
        }
    });
    stream::once(async { header }).chain(rest)
}
