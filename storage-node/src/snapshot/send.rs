//! Sending: a blocking reader of the engine feeds a stream, at the pace that the receiver and the
//! bandwidth allow.

use super::chunk::{self, FORMAT, Totals};
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
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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
        let address = self
            .addresses
            .get(job.to_node)
            .ok_or_else(|| format!("node {} has no known address", job.to_node))?;
        let endpoint = grpc::endpoint(&address).map_err(|error| error.to_string())?;
        let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
        let progress = Arc::new(Mutex::new(Progress { last: Instant::now(), ended: false }));
        let header = self.header(&job);
        let (parts, receiver) = mpsc::channel(CHUNKS_AHEAD);
        // However this ends, the reader ends with it.
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let reader = tokio::task::spawn_blocking(move || read(&job, &parts, &stop));
        let stream = paced(header, receiver, Arc::clone(&self.throttle), Arc::clone(&progress));
        let mut client = RaftTransportClient::new(channel);
        let call = client.snapshot(stream);
        let receipt = tokio::select! {
            receipt = call => receipt.map_err(|status| status.message().to_owned()),
            stalled = self.watch(&progress) => Err(stalled),
        };
        drop(guard);
        // What the reader met says more than the receiver's complaint about a missing end.
        let read = reader.await.map_err(|_| "reading the range panicked".to_owned())?;
        let receipt = match (read, receipt) {
            (Ok(()), receipt) => receipt?.into_inner(),
            (Err(_), Err(error)) => return Err(error),
            (Err(error), Ok(_)) => return Err(error),
        };
        if !receipt.installed {
            timer.stop_and_discard();
            return Err(format!("the receiver did not take it: {}", receipt.reason));
        }
        timer.observe_duration();
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

    fn header(&self, job: &SendJob) -> wire::SnapshotPart {
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
        }))
    }
}

fn part(part: Part) -> wire::SnapshotPart {
    wire::SnapshotPart { part: Some(part) }
}

/// Reads the whole range, on a thread that may block.
fn read(
    job: &SendJob,
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
        chunk::read_range(job.data.as_ref(), &job.descriptor, |chunk| send(Part::Chunk(chunk)))?;
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
