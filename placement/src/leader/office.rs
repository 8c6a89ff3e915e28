//! One term of office: what the leader knows, and whom it speaks to.

use super::sessions::{Outgoing, Session, Sessions};
use crate::consensus::Consensus;
use crate::metrics::HEARTBEATS;
use crate::operator::Operators;
use crate::state::{NodeRecord, NodeState, State};
use crate::view::View;
use crate::wishes::Board;
use parking_lot::Mutex;
use rangedb_planner::{Explanation, Operator};
use rangedb_proto::convert::Malformed;
use rangedb_proto::internal::v1 as wire;
use rangedb_types::{MonotonicClock, MonotonicTime, NodeId, RangeDescriptor, RangeId, SystemClock};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Most descriptors that wait to be proposed. What does not fit is told again by the next full
/// report of its node.
const NEWS_MAX: usize = 100_000;

/// Lives as long as this member leads without a break.
pub struct Office {
    pub(crate) consensus: Arc<Consensus>,
    clock: SystemClock,
    pub(super) view: Mutex<View>,
    pub(super) sessions: Mutex<Sessions>,
    pub(super) operators: Mutex<Operators>,
    pub(super) explanation: Mutex<Explanation>,
    pub(super) wishes: Mutex<Board>,
    /// Reported descriptors that the range map does not have yet.
    news: Mutex<BTreeMap<RangeId, RangeDescriptor>>,
    /// Asks for a round of duties now.
    pub(super) wake: Notify,
    /// Runtime settings, as nodes are told them.
    pub(super) config: watch::Sender<wire::ClusterConfig>,
    /// Addresses of all nodes, as nodes and gateways are told them.
    pub(super) nodes: watch::Sender<wire::NodeAddresses>,
    ended: CancellationToken,
}

impl Office {
    pub(super) fn new(
        consensus: Arc<Consensus>,
        clock: SystemClock,
        now: MonotonicTime,
        ended: CancellationToken,
    ) -> Self {
        let (config, nodes) = consensus.read(|state| (config_of(state), addresses_of(state)));
        Self {
            consensus,
            clock,
            view: Mutex::new(View::new(now)),
            sessions: Mutex::default(),
            operators: Mutex::default(),
            explanation: Mutex::default(),
            wishes: Mutex::default(),
            news: Mutex::default(),
            wake: Notify::new(),
            config: watch::channel(config).0,
            nodes: watch::channel(nodes).0,
            ended,
        }
    }

    /// Fires when this member no longer leads.
    #[must_use]
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    #[must_use]
    pub fn now(&self) -> MonotonicTime {
        self.clock.now()
    }

    /// Runtime settings as nodes are told them, now and at every change.
    #[must_use]
    pub fn config(&self) -> watch::Receiver<wire::ClusterConfig> {
        self.config.subscribe()
    }

    /// The nodes' addresses, now and at every change.
    #[must_use]
    pub fn nodes(&self) -> watch::Receiver<wire::NodeAddresses> {
        self.nodes.subscribe()
    }

    /// Looks at what is known from reports, beside what is stored. Keep it short.
    pub fn look<R>(&self, look: impl FnOnce(&State, &View, MonotonicTime) -> R) -> R {
        let now = self.now();
        self.consensus.read(|state| look(state, &self.view.lock(), now))
    }

    /// What is under way, and why the rest is not.
    #[must_use]
    pub fn work(&self) -> (Vec<Operator>, Vec<String>) {
        let operators = self.operators.lock().under_way().cloned().collect();
        (operators, self.explanation.lock().pending())
    }

    /// The step of a range that is under way.
    #[must_use]
    pub fn step_of(&self, range_id: RangeId) -> Option<Operator> {
        let operators = self.operators.lock();
        operators.under_way().find(|operator| operator.range_id == range_id).cloned()
    }

    /// Looks at what is known of wishes beyond the stored ones.
    pub fn wishes<R>(&self, look: impl FnOnce(&Board) -> R) -> R {
        look(&self.wishes.lock())
    }

    /// Ends the stream of a node that was removed.
    pub fn expel(&self, node_id: NodeId) {
        self.sessions.lock().end(node_id);
        self.publish();
    }

    /// A registered node opened its stream.
    pub fn connected(&self, node_id: NodeId, outgoing: Outgoing) -> Session {
        // The registration may have changed what others are told.
        self.publish();
        let session = self.sessions.lock().open(node_id, outgoing, self.ended.child_token());
        self.view.lock().connected(node_id, session.id, self.now());
        self.wake.notify_one();
        session
    }

    pub fn disconnected(&self, session: &Session) {
        self.sessions.lock().close(session);
        self.view.lock().disconnected(session.node_id, session.id);
        self.wake.notify_one();
    }

    /// Takes in a beat.
    ///
    /// # Errors
    /// `Malformed` if it cannot be read.
    pub fn heartbeat(&self, session: &Session, beat: &wire::Heartbeat) -> Result<(), Malformed> {
        HEARTBEATS.inc();
        let now = self.now();
        let reported = self.view.lock().heartbeat(session.node_id, session.id, beat, now)?;
        let changed = !reported.is_empty() || !beat.lost_leaderships.is_empty();
        let news: Vec<_> = self
            .consensus
            .read(|state| reported.into_iter().filter(|range| state.is_news(range)).collect());
        self.add_news(news);
        if changed {
            self.wake.notify_one();
        }
        Ok(())
    }

    pub(super) fn add_news(&self, reported: impl IntoIterator<Item = RangeDescriptor>) {
        let mut news = self.news.lock();
        for range in reported {
            let newer = news
                .get(&range.range_id)
                .is_none_or(|waiting| range.epoch.newer_than(waiting.epoch));
            if newer && news.len() < NEWS_MAX {
                news.insert(range.range_id, range);
            }
        }
    }

    pub(super) fn take_news(&self, most: usize) -> Vec<RangeDescriptor> {
        let mut news = self.news.lock();
        let ids: Vec<_> = news.keys().take(most).copied().collect();
        ids.into_iter().filter_map(|id| news.remove(&id)).collect()
    }

    pub(super) fn has_news(&self) -> bool {
        !self.news.lock().is_empty()
    }

    /// Tells streams what changed of the settings and addresses.
    pub(super) fn publish(&self) {
        let (config, nodes) = self.consensus.read(|state| (config_of(state), addresses_of(state)));
        self.config.send_if_modified(|told| {
            let changed = told.settings != config.settings && config.revision >= told.revision;
            if changed {
                *told = config;
            }
            changed
        });
        self.nodes.send_if_modified(|told| {
            let changed = told.nodes != nodes.nodes && nodes.revision >= told.revision;
            if changed {
                *told = nodes;
            }
            changed
        });
    }
}

fn config_of(state: &State) -> wire::ClusterConfig {
    let settings = state.settings().map(|setting| (setting.name, setting.value)).collect();
    wire::ClusterConfig { settings, revision: state.revision() }
}

fn addresses_of(state: &State) -> wire::NodeAddresses {
    let present = |node: &&NodeRecord| node.state != NodeState::Removed;
    let address = |node: &NodeRecord| wire::NodeAddress {
        node_id: node.node_id.get(),
        address: node.address.clone(),
    };
    let nodes = state.nodes().filter(present).map(address).collect();
    wire::NodeAddresses { nodes, revision: state.revision() }
}
