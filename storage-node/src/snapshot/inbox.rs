//! Receiving: a stream is staged on disk, verified, and handed to the store.

use super::chunk::{ChunkRef, FORMAT, Totals};
use super::metrics::{Metrics, failed};
use super::parked::{Arriving, Parked, Parking};
use super::stage::{Staging, Whole};
use super::{SnapshotReceiver, SnapshotSettings, StagedSnapshot};
use crate::raft_log::LogPosition;
use crate::transport::{Identity, check_hello, decode_inbound};
use raft::eraftpb::MessageType;
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::snapshot_part::Part;
use rangedb_types::RangeDescriptor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::{Status, Streaming};

/// Chunks received ahead of what the disk takes.
const CHUNKS_AHEAD: usize = 4;
/// The free space is looked at whenever so many bytes have arrived.
const SPACE_CHECK_BYTES: u64 = 16 << 20;

/// See the module.
pub struct SnapshotInbox {
    identity: Identity,
    dir: PathBuf,
    settings: SnapshotSettings,
    receiver: Arc<dyn SnapshotReceiver>,
    places: Arc<Semaphore>,
    parking: Arc<Parking>,
}

/// A stream that begins.
struct Arrival {
    announced: StagedSnapshot,
    place: OwnedSemaphorePermit,
    /// What came before its stream broke.
    staging: Option<Staging>,
    transfer_id: u64,
    _arriving: Arriving,
}

impl SnapshotInbox {
    /// `dir` is the folder of staged snapshots, the one given to `recover`.
    #[must_use]
    pub fn new(
        identity: Identity,
        dir: PathBuf,
        settings: SnapshotSettings,
        receiver: Arc<dyn SnapshotReceiver>,
    ) -> Self {
        let places = Arc::new(Semaphore::new(settings.receives_max));
        let parking = Parking::new(settings.stall_timeout.get());
        Self { identity, dir, settings, receiver, places, parking }
    }

    /// How much is kept of a snapshot whose stream broke.
    pub(crate) fn progress(
        &self,
        request: &wire::SnapshotProgressRequest,
    ) -> Result<wire::SnapshotProgressResponse, Status> {
        let from = check_hello(self.identity, request.hello.as_ref())?;
        let (chunks, is_arriving) = self.parking.look(from, request.transfer_id);
        Ok(wire::SnapshotProgressResponse { chunks, is_arriving })
    }

    /// Takes one snapshot; returns when it is installed, or why not.
    pub(crate) async fn receive(
        &self,
        mut parts: Streaming<wire::SnapshotPart>,
    ) -> Result<wire::SnapshotReceipt, Status> {
        let result = self.stage(&mut parts).await;
        let (staged, place) = result.inspect_err(|_| {
            Metrics::get().failures.with_label_values(&[failed::RECEIVE]).inc();
        })?;
        Metrics::get().received.inc();
        let (reply, answer) = oneshot::channel();
        self.receiver.deliver_snapshot(
            staged,
            Box::new(move |result| {
                drop(place);
                // The sender may have given up; what is installed stays.
                let _ = reply.send(result);
            }),
        );
        match answer.await {
            Ok(Ok(())) => Ok(wire::SnapshotReceipt { installed: true, reason: String::new() }),
            Ok(Err(reason)) => Ok(wire::SnapshotReceipt { installed: false, reason }),
            Err(_) => Err(Status::unavailable("the node is stopping")),
        }
    }

    async fn stage(
        &self,
        parts: &mut Streaming<wire::SnapshotPart>,
    ) -> Result<(StagedSnapshot, OwnedSemaphorePermit), Status> {
        let header = match self.next(parts).await? {
            Part::Header(header) => header,
            _ => return Err(Status::invalid_argument("a snapshot begins with its header")),
        };
        let arrival = self.start(&header)?;
        let (chunks, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let (reserve, parking) = (self.settings.disk_reserve.0, Arc::clone(&self.parking));
        // Ends when `chunks` is dropped, at the latest. It parks what came by itself: when a connection
        // breaks, nobody may be left who waits here.
        let writer =
            tokio::task::spawn_blocking(move || write(arrival, receiver, reserve, &parking));
        let forwarded = self.forward(parts, &chunks).await;
        if forwarded.as_ref().is_err_and(|status| !is_broken(status)) {
            // If the writer has ended, it has dropped it already.
            let _ = chunks.send(Staged::Refused).await;
        }
        drop(chunks);
        let written = writer.await.map_err(|_| Status::internal("staging panicked"))?;
        // If the writer failed, that is why forwarding ended.
        match (written, forwarded) {
            (Ok(Written::Whole { whole, mut announced, place }), Ok(())) => {
                announced.path = whole.keep();
                Ok((*announced, place))
            }
            (Ok(_), Err(status)) => Err(status),
            (Ok(Written::Part), Ok(())) => Err(Status::aborted("it has no end")),
            (Err(_), Err(status)) if status.code() != tonic::Code::Aborted => Err(status),
            (Err(error), _) => Err(Status::aborted(error)),
        }
    }

    /// A new snapshot, or the rest of one whose stream broke.
    fn start(&self, header: &wire::SnapshotHeader) -> Result<Arrival, Status> {
        let announced = self.announced(header)?;
        let transfer_id = header.transfer_id;
        let _arriving = self.parking.arrives(announced.from_node, transfer_id);
        if header.first_chunk > 0 {
            let parked = self.parking.take(announced.from_node, header.transfer_id);
            let parked = parked.filter(|it| it.is_continued_by(&announced, header.first_chunk));
            let Parked { staging, announced, place } = parked.ok_or_else(|| {
                Status::failed_precondition("nothing of this snapshot was kept; begin again")
            })?;
            return Ok(Arrival {
                announced,
                place,
                staging: Some(staging),
                transfer_id,
                _arriving,
            });
        }
        let free = || Arc::clone(&self.places).try_acquire_owned();
        let place = free().or_else(|_| {
            self.parking.give_way();
            free()
        });
        let place = place.map_err(|_| {
            Status::resource_exhausted("too many snapshots are being received; try again later")
        })?;
        Ok(Arrival { announced, place, staging: None, transfer_id, _arriving })
    }

    async fn next(&self, parts: &mut Streaming<wire::SnapshotPart>) -> Result<Part, Status> {
        let limit = self.settings.stall_timeout;
        let next = tokio::time::timeout(limit.get(), parts.message()).await;
        let part = next.map_err(|_| {
            Status::deadline_exceeded(format!("the sender sent nothing for {limit}"))
        })??;
        part.and_then(|part| part.part)
            .ok_or_else(|| Status::invalid_argument("the snapshot ended without its end"))
    }

    async fn forward(
        &self,
        parts: &mut Streaming<wire::SnapshotPart>,
        chunks: &mpsc::Sender<Staged>,
    ) -> Result<(), Status> {
        let stopped = |_| Status::aborted("staging stopped");
        loop {
            match self.next(parts).await? {
                Part::Chunk(chunk) => {
                    Metrics::get().received_bytes.inc_by(chunk.entries.len() as u64);
                    chunks.send(Staged::Chunk(chunk)).await.map_err(stopped)?;
                }
                Part::End(wire::SnapshotEnd { chunks: count, bytes, checksum }) => {
                    let totals = Totals { chunks: count, bytes, checksum };
                    return chunks.send(Staged::End(totals)).await.map_err(stopped);
                }
                Part::Header(_) => {
                    return Err(Status::invalid_argument("a snapshot has one header"));
                }
            }
        }
    }

    /// What the header says will come.
    fn announced(&self, header: &wire::SnapshotHeader) -> Result<StagedSnapshot, Status> {
        let from_node = check_hello(self.identity, header.hello.as_ref())?;
        if header.format != FORMAT {
            return Err(Status::failed_precondition(format!(
                "the snapshot has format {}, this node reads format {FORMAT}",
                header.format
            )));
        }
        let malformed = Status::invalid_argument;
        let range = header.range.as_ref().ok_or_else(|| malformed("a snapshot of no range"))?;
        let descriptor = RangeDescriptor::try_from(range)?;
        let message =
            header.message.as_ref().ok_or_else(|| malformed("a snapshot without its message"))?;
        let inbound = decode_inbound(from_node, message)?;
        let message = inbound.message.ok_or_else(|| malformed("a snapshot without its message"))?;
        let ours = descriptor.replica_on(self.identity.node_id).map(|replica| replica.replica_id);
        if message.get_msg_type() != MessageType::MsgSnapshot
            || inbound.range_id != descriptor.range_id
            || ours != Some(inbound.to_replica)
        {
            return Err(malformed("the snapshot's message and range do not fit this node"));
        }
        let metadata = message.get_snapshot().get_metadata();
        let position = LogPosition { index: metadata.index, term: metadata.term };
        let folder =
            format!("{}-{}-{:08x}", inbound.to_replica, position.index, rand::random::<u32>());
        Ok(StagedSnapshot {
            from_node,
            to_replica: inbound.to_replica,
            from_replica: inbound.from_replica,
            descriptor,
            position,
            message,
            path: self.dir.join(folder),
        })
    }
}

/// What goes to the thread that writes.
enum Staged {
    Chunk(wire::SnapshotChunk),
    End(Totals),
    /// The sender does what it must not: nothing of it is kept.
    Refused,
}

/// What was written of a snapshot.
enum Written {
    Whole {
        whole: Whole,
        announced: Box<StagedSnapshot>,
        place: OwnedSemaphorePermit,
    },
    /// The stream ended too early. If it broke, what came of it is parked.
    Part,
}

/// True if a stream ended for no reason of the snapshot's.
pub(super) fn is_broken(status: &Status) -> bool {
    use tonic::Code;
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::Internal
            | Code::DeadlineExceeded
    )
}

fn write(
    arrival: Arrival,
    mut chunks: mpsc::Receiver<Staged>,
    reserve: u64,
    parking: &Arc<Parking>,
) -> Result<Written, String> {
    // The guard is dropped last, once what came is parked.
    let Arrival { announced, place, staging, transfer_id, _arriving } = arrival;
    let path = announced.path.clone();
    let mut staging = match staging {
        Some(staging) => staging,
        None => Staging::begin(path.clone(), &announced.descriptor)?,
    };
    check_space(&path, reserve)?;
    let mut unchecked = 0;
    while let Some(next) = chunks.blocking_recv() {
        let chunk = match next {
            Staged::Chunk(chunk) => chunk,
            Staged::End(totals) => {
                let whole = staging.finish(totals)?;
                return Ok(Written::Whole { whole, announced: Box::new(announced), place });
            }
            Staged::Refused => return Ok(Written::Part),
        };
        unchecked += chunk.entries.len() as u64;
        if unchecked >= SPACE_CHECK_BYTES {
            check_space(&path, reserve)?;
            unchecked = 0;
        }
        staging.add(&ChunkRef::from(&chunk))?;
    }
    parking.park(transfer_id, Parked { staging, announced, place });
    Ok(Written::Part)
}

/// Installing needs about as much again.
fn check_space(path: &Path, reserve: u64) -> Result<(), String> {
    let space =
        rustix::fs::statvfs(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < reserve {
        return Err(format!("the disk has {free} bytes left, and {reserve} are in reserve"));
    }
    Ok(())
}
