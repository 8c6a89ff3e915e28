//! One gateway of the world: the real dispatcher, with the ends of its wires in somebody else's hands.
//!
//! Owns: what is the gateway's alone. Must not know: the other gateways, the store.

use super::script::{Log, Start, key, told};
use crate::dispatch::{After, Dispatcher};
use crate::metrics::Metrics;
use crate::nodes::{Link, Nodes};
use crate::routing::Routes;
use rangedb_placement_client::{PlacementClient, TimestampClient};
use rangedb_proto::internal::v1::data_request::Operation;
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_proto::internal::v1::{DataRequest, node_error};
use rangedb_types::{
    Epoch, NodeId, RangeDescriptor, RangeId, Replica, ReplicaId, ReplicaRole, Span, Timestamp,
};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};

const NODE: NodeId = NodeId(1);
/// Of one attempt: longer than any run.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Gateway {
    pub(super) link: Arc<Link>,
    pub(super) timestamps: Arc<TimestampClient>,
    pub(super) tasks: TaskTracker,
    pub(super) end: CancellationToken,
    pub(super) client: Option<JoinHandle<()>>,
    pub(super) asked: Vec<oneshot::Sender<Timestamp>>,
    pub(super) crashed: bool,
    /// A message of it was done.
    pub(super) begun: bool,
    /// It met an intent with a read of the latest state.
    pub(super) reads_latest: bool,
    pub(super) start: Arc<Start>,
    /// Of all it was told, and when: what it does next follows from that.
    pub(super) history: u64,
    /// The order of what it was told counts, too. Without that, steps that one gateway makes side by side lead to one
    /// state in any order: where the order matters, what it sends next shows it.
    pub(super) exact: bool,
}

impl Gateway {
    /// One that knows these ranges.
    pub(super) fn new(ranges: &[u64], exact: bool) -> (Self, Arc<Dispatcher>) {
        let (link, timestamps) = (Link::by_hand(), TimestampClient::by_hand());
        let routes = Routes::new(PlacementClient::new(Vec::new()), 16, Metrics::shared());
        for id in ranges {
            routes.learn(range(*id), Some(NODE));
        }
        let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
        let dispatcher = Dispatcher::new(
            routes,
            Nodes::by_hand(NODE, &link, unused_channel()),
            Arc::clone(&timestamps),
            Metrics::shared(),
            After { tasks: tasks.clone(), end: end.clone() },
            ATTEMPT_TIMEOUT,
        );
        let gateway = Self {
            link,
            timestamps,
            tasks,
            end,
            client: None,
            asked: Vec::new(),
            crashed: false,
            begun: false,
            reads_latest: false,
            start: Arc::default(),
            history: 0,
            exact,
        };
        (gateway, dispatcher)
    }

    /// It was told something.
    pub(super) fn note(&mut self, event: impl std::hash::Hash) {
        let mut hasher = DefaultHasher::new();
        event.hash(&mut hasher);
        if self.exact {
            self.history.hash(&mut hasher);
            self.history = hasher.finish();
        } else {
            self.history = self.history.wrapping_add(hasher.finish());
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.crashed
            || (self.client.as_ref().is_none_or(JoinHandle::is_finished) && self.tasks.is_empty())
    }

    pub(super) fn begin(&mut self, log: &Log) {
        if !std::mem::replace(&mut self.begun, true) {
            self.start.told.store(told(log).0, Ordering::Relaxed);
        }
    }

    /// Whoever meets an intent asks the oracle whether its lifetime is over, for which the time is enough; a read of
    /// the latest state asks for its version first.
    pub(super) fn learns_of_lock(&mut self, request: &DataRequest, answer: &Answer) {
        let Answer::Error(error) = answer else { return };
        let Some(node_error::Kind::KeyLocked(_)) = error.kind else { return };
        let latest =
            matches!(&request.operation, Some(Operation::Get(get)) if get.read_version == 0);
        self.reads_latest = latest;
        self.start.only_time.store(!latest, Ordering::Relaxed);
    }
}

/// A message on its way.
pub(super) struct Pending {
    pub(super) gateway: usize,
    pub(super) tag: u64,
    pub(super) request: DataRequest,
    /// Without its tag, which says nothing.
    pub(super) bytes: Vec<u8>,
    pub(super) sent: Timestamp,
    pub(super) expires: Instant,
}

/// All keys, or those on one side of `b`.
pub(super) fn range(id: u64) -> RangeDescriptor {
    let (start, end) = match id {
        2 => ("", "b"),
        3 => ("b", ""),
        _ => ("", ""),
    };
    let replica = Replica { replica_id: ReplicaId(id), node_id: NODE, role: ReplicaRole::Voter };
    RangeDescriptor {
        range_id: RangeId(id),
        span: Span { start: key(start).to_vec(), end: key(end).to_vec() },
        epoch: Epoch::default(),
        replicas: vec![replica],
    }
}

/// Nodes have one for calls that transactions do not make. It needs a runtime, which no run should pay for.
fn unused_channel() -> Channel {
    static CHANNEL: OnceLock<(tokio::runtime::Runtime, Channel)> = OnceLock::new();
    let (_, channel) = CHANNEL.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let channel = {
            let _inside = runtime.enter();
            Endpoint::from_static("http://unused.invalid").connect_lazy()
        };
        (runtime, channel)
    });
    channel.clone()
}
