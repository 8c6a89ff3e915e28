//! What the parts of one running member share.

use super::error::Failure;
use super::identity::Identity;
use super::network::Network;
use super::state_machine::SharedState;
use super::store::{Store, StoreError};
use super::types::Raft;
use super::witness::Promise;
use super::{Leadership, Term, Tuning};
use crate::state::StoreId;
use openraft::ServerState;
use parking_lot::Mutex;
use rangedb_types::PlacementId;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// When this member last had a reason to believe in a leader.
#[derive(Clone, Copy, Default)]
struct Signs {
    /// A leader's message was taken.
    heard: Option<Instant>,
    /// A candidate was given this member's vote.
    voted: Option<Instant>,
}

pub(super) struct Core {
    pub(super) own: Arc<Identity>,
    pub(super) raft: Raft,
    pub(super) shared: SharedState,
    pub(super) network: Network,
    pub(super) tuning: Tuning,
    pub(super) promise: Promise,
    started: Instant,
    signs: Mutex<Signs>,
    /// Taken away at shutdown, so that the database can be closed.
    store: Mutex<Option<Store>>,
    failure: watch::Sender<Option<Failure>>,
}

impl Core {
    pub(super) fn new(
        own: Arc<Identity>,
        raft: Raft,
        shared: SharedState,
        network: Network,
        tuning: Tuning,
        store: Store,
        promise: Promise,
    ) -> Self {
        Self {
            own,
            raft,
            shared,
            network,
            tuning,
            promise,
            started: Instant::now(),
            signs: Mutex::default(),
            store: Mutex::new(Some(store)),
            failure: watch::channel(None).0,
        }
    }

    pub(super) fn store(&self) -> Result<Store, StoreError> {
        self.store.lock().clone().ok_or(StoreError::Closed)
    }

    pub(super) fn take_store(&self) -> Option<Store> {
        self.store.lock().take()
    }

    /// The member must stop. The first reason is kept.
    pub(super) fn fail(&self, failure: Failure) {
        self.failure.send_if_modified(|kept| {
            let first = kept.is_none();
            if first {
                tracing::error!(reason = %failure, "this placement member must stop");
                *kept = Some(failure);
            }
            first
        });
    }

    pub(super) fn failures(&self) -> watch::Receiver<Option<Failure>> {
        self.failure.subscribe()
    }

    /// The store id of a member as the quorum's membership has it.
    pub(super) fn store_of(&self, id: PlacementId) -> Option<StoreId> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().get_node(&id).map(|member| member.store_id)
    }

    /// Where a member listens, if anybody said so.
    pub(super) fn address_of(&self, id: PlacementId) -> Option<String> {
        if let Some(address) = self.own.peers.get(&id) {
            return Some(address.clone());
        }
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().get_node(&id).map(|member| member.address.clone())
    }

    /// True once the quorum was formed and this member knows its members.
    pub(super) fn is_formed(&self) -> bool {
        self.raft.server_metrics().borrow().membership_config.nodes().next().is_some()
    }

    pub(super) fn leadership(&self) -> Leadership {
        let (leader_id, is_leader, term) = {
            let metrics = self.raft.server_metrics();
            let metrics = metrics.borrow();
            let is_leader = metrics.state == ServerState::Leader;
            (metrics.current_leader, is_leader, metrics.vote.leader_id.term)
        };
        let leader_address = leader_id.and_then(|id| self.address_of(id));
        Leadership { leader_id, leader_address, is_leader, term: Term(term) }
    }

    pub(super) fn leader_address(&self) -> Option<String> {
        self.leadership().leader_address
    }

    pub(super) fn heard_from_leader(&self) {
        self.signs.lock().heard = Some(Instant::now());
    }

    pub(super) fn gave_vote(&self) {
        self.signs.lock().voted = Some(Instant::now());
    }

    /// True if there is a leader that was heard of within its lease; a leader itself says so only
    /// while a quorum answers it, so that one that is cut off does not hold up an election.
    pub(super) fn leader_is_alive(&self) -> bool {
        let metrics = self.raft.metrics();
        let (is_leader, since_quorum) = {
            let metrics = metrics.borrow();
            (metrics.state == ServerState::Leader, metrics.millis_since_quorum_ack)
        };
        if is_leader {
            return since_quorum
                .is_some_and(|ms| Duration::from_millis(ms) < self.tuning.election_timeout_max);
        }
        let heard = self.signs.lock().heard;
        heard.is_some_and(|heard| heard.elapsed() < self.tuning.election_timeout_max)
    }

    /// Since when nothing has told this member that there is, or will be, a leader.
    pub(super) fn quiet_since(&self) -> Instant {
        let signs = *self.signs.lock();
        self.started
            .max(signs.heard.unwrap_or(self.started))
            .max(signs.voted.unwrap_or(self.started))
    }
}
