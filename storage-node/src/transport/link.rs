//! The task that carries one peer node's queue over one stream.

use super::metrics::{Metrics, dropped};
use super::queue::Queue;
use super::wire::{encode, hello};
use super::{Identity, Outbound};
use futures::StreamExt as _;
use futures::stream::{self, Stream};
use rand::Rng as _;
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::raft_transport_client::RaftTransportClient;
use rangedb_service::grpc;
use rangedb_types::NodeId;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The pause after a failed attempt grows from here …
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// … to here. An election timeout is about as long.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A peer that is away for longer did not just stop or start again.
const OUTAGE_WARNED_AFTER: Duration = Duration::from_secs(10);

/// One peer node, as the Raft threads see it.
pub(super) struct Peer {
    pub queue: Queue,
    /// The last attempt to connect, or the stream, failed.
    pub unreachable: AtomicBool,
}

/// Everything the task needs.
pub(super) struct Link {
    pub identity: Identity,
    pub to: NodeId,
    pub peer: Arc<Peer>,
    pub addresses: watch::Receiver<HashMap<NodeId, String>>,
    pub cancel: CancellationToken,
}

/// Why a stream ended.
enum End {
    AddressChanged,
    Failed(String),
}

/// The time without a connection, as the log tells of it: news at its begin, a warning if it lasts,
/// however many attempts it takes.
#[derive(Default)]
struct Outage {
    since: Option<Instant>,
    warned: bool,
}

impl Outage {
    fn tell(&mut self, node_id: NodeId, address: &str, reason: &str) {
        let Some(since) = self.since else {
            self.since = Some(Instant::now());
            tracing::info!(%node_id, address, reason, "cannot send raft messages");
            return;
        };
        if !self.warned && since.elapsed() >= OUTAGE_WARNED_AFTER {
            self.warned = true;
            tracing::warn!(%node_id, address, reason, "still cannot send raft messages");
        }
    }
}

impl Link {
    /// Runs until it is cancelled.
    pub async fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        let mut outage = Outage::default();
        while let Some(address) = self.wait_for_work().await {
            let cancel = self.cancel.clone();
            let end = tokio::select! {
                end = self.stream(&address, &mut outage) => end,
                () = cancel.cancelled() => return,
            };
            let reason = match end {
                End::AddressChanged => {
                    backoff = BACKOFF_MIN;
                    continue;
                }
                End::Failed(reason) => reason,
            };
            if !self.peer.unreachable.swap(true, Ordering::AcqRel) {
                backoff = BACKOFF_MIN;
            }
            outage.tell(self.to, &address, &reason);
            // Raft has long made newer ones by the time the node is back.
            let lost = self.peer.queue.clear() as u64;
            Metrics::get().dropped.with_label_values(&[dropped::UNREACHABLE]).inc_by(lost);
            if !self.pause(&mut backoff).await {
                return;
            }
        }
    }

    /// Waits for the first message to a node with an address. `None`: there will be no more.
    async fn wait_for_work(&mut self) -> Option<String> {
        let cancel = self.cancel.clone();
        loop {
            tokio::select! {
                () = self.peer.queue.wait() => {}
                () = cancel.cancelled() => return None,
            }
            let address = self.addresses.borrow_and_update().get(&self.to).cloned();
            if address.is_some() {
                return address;
            }
            self.peer.queue.clear();
            tokio::select! {
                changed = self.addresses.changed() => changed.ok()?,
                () = cancel.cancelled() => return None,
            }
        }
    }

    /// False if the link is to end.
    async fn pause(&mut self, backoff: &mut Duration) -> bool {
        let pause = rand::rng().random_range(*backoff / 2..=*backoff);
        *backoff = (*backoff * 2).min(BACKOFF_MAX);
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            // Perhaps to an address that works.
            changed = self.addresses.changed() => changed.is_ok(),
            () = self.cancel.cancelled() => false,
        }
    }

    /// Connects and sends until something is in the way.
    async fn stream(&mut self, address: &str, outage: &mut Outage) -> End {
        let endpoint = match grpc::endpoint(address) {
            Ok(endpoint) => endpoint,
            Err(error) => return End::Failed(error.to_string()),
        };
        let channel = match endpoint.connect().await {
            Ok(channel) => channel,
            Err(error) => return End::Failed(error_text(&error)),
        };
        let metrics = Metrics::get();
        metrics.connects.inc();
        let connected = Connected::new(&self.peer);
        if std::mem::take(outage).since.is_some() {
            tracing::info!(node_id = %self.to, address, "raft messages can be sent again");
        }
        let frames = frames(Arc::clone(&self.peer), self.identity, self.to);
        let mut client = RaftTransportClient::new(channel);
        let call = client.raft(frames);
        tokio::pin!(call);
        let end = loop {
            tokio::select! {
                ended = &mut call => break End::Failed(match ended {
                    Ok(_) => "the node ended the stream".to_owned(),
                    Err(status) => format!("{:?}: {}", status.code(), status.message()),
                }),
                changed = self.addresses.changed() => {
                    let now = self.addresses.borrow_and_update().get(&self.to).cloned();
                    if changed.is_err() || now.as_deref() != Some(address) {
                        break End::AddressChanged;
                    }
                }
            }
        };
        drop(connected);
        end
    }
}

/// Counts a connected peer for as long as it lives.
struct Connected;

impl Connected {
    fn new(peer: &Peer) -> Self {
        peer.unreachable.store(false, Ordering::Release);
        Metrics::get().connected.inc();
        Self
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        Metrics::get().connected.dec();
    }
}

/// The greeting, then whatever is queued, as soon as the connection takes it.
fn frames(
    peer: Arc<Peer>,
    identity: Identity,
    to: NodeId,
) -> impl Stream<Item = wire::RaftMessages> + Send + 'static {
    let greeting = wire::RaftMessages { hello: Some(hello(identity, to)), messages: Vec::new() };
    let rest = stream::unfold(peer, move |peer| async move {
        let frame = peer.queue.next_frame().await;
        Some((encode_frame(&frame, identity.node_id), peer))
    });
    stream::once(async { greeting }).chain(rest)
}

fn encode_frame(frame: &[Outbound], from: NodeId) -> wire::RaftMessages {
    let messages: Vec<_> = frame.iter().map(|outbound| encode(outbound, from)).collect();
    let metrics = Metrics::get();
    metrics.sent.inc_by(messages.len() as u64);
    metrics.sent_bytes.inc_by(messages.iter().map(|message| message.message.len() as u64).sum());
    metrics.frame_messages.observe(messages.len() as f64);
    wire::RaftMessages { hello: None, messages }
}

/// An error with what caused it: tonic's own text is `transport error`.
pub(super) fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
