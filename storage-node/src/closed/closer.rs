//! Closes timestamps, once a second.

use super::metrics;
use super::peers::Peers;
use crate::access::{RangeStates, Timestamps};
use crate::replica::Nap;
use crate::store::closed::ClosedClaim;
use crate::store::{ReplicaHandle, Store};
use crate::transport::{AddressBook, Identity};
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream;
use rangedb_proto::internal::v1::{ClosedRange, ClosedTimestamps};
use rangedb_types::{MonotonicTime, NodeId, ReplicaRole, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

/// Between two rounds. What is closed is up to two of them old, and the message's way.
const ROUND: Duration = Duration::from_secs(1);
/// How long a timestamp, and a quorum, may take.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Ranges whose quorums are asked at a time.
const ASKED_AT_A_TIME: usize = 32;

/// Closes timestamps of the ranges this node leads.
pub struct Closer {
    store: Store,
    states: Arc<RangeStates>,
    timestamps: Arc<dyn Timestamps>,
    peers: Peers,
}

/// A timestamp, and a time by which it had been made.
#[derive(Clone, Copy)]
struct Fetched {
    version: Timestamp,
    at: MonotonicTime,
}

/// How a leader knows that it led after the timestamp was fetched.
enum Proof {
    Lease,
    Asleep(Nap),
    /// Not yet: a quorum has to be asked.
    None,
}

impl Closer {
    #[must_use]
    pub fn new(
        store: Store,
        states: Arc<RangeStates>,
        timestamps: Arc<dyn Timestamps>,
        identity: Identity,
        addresses: Arc<AddressBook>,
    ) -> Self {
        metrics::register();
        Self { store, states, timestamps, peers: Peers::new(identity, addresses) }
    }

    /// Runs until it is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: Option<Fetched> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = rounds.tick() => {}
            }
            // Without the oracle nothing is closed.
            let Ok(now) = self.timestamps.get(Instant::now() + TIMEOUT).await else { continue };
            let fetched = Fetched { version: now, at: self.store.now() };
            if let Some(before) = before.replace(fetched) {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.round(before) => {}
                }
            }
            self.measure(now);
        }
    }

    /// One round: the timestamp was fetched before it began.
    async fn round(&mut self, fetched: Fetched) {
        let version = fetched.version;
        let mut messages = BTreeMap::new();
        let mut unproven = Vec::new();
        for handle in self.store.replicas() {
            match self.claim(&handle, fetched) {
                Some((index, Proof::Lease)) => self.tell(&handle, version, index, &mut messages),
                Some((_, Proof::Asleep(nap))) => {
                    self.tell_of_sleep(&handle, version, &nap, &mut messages);
                }
                Some((index, Proof::None)) => unproven.push((handle, index)),
                None => {}
            }
        }
        let asked = stream::iter(unproven).map(|(handle, index)| async move {
            let before = handle.leadership();
            let proven = timeout(TIMEOUT, handle.prove_leadership()).await;
            // All that was committed is applied by now: a change of bounds, too.
            let same = before.is_some() && handle.leadership() == before;
            (same && matches!(proven, Ok(Ok(())))).then_some((handle, index))
        });
        let mut asked = std::pin::pin!(asked.buffer_unordered(ASKED_AT_A_TIME));
        while let Some(proven) = asked.next().await {
            if let Some((handle, index)) = proven {
                self.tell(&handle, version, index, &mut messages);
            }
        }
        let mut sent = Vec::new();
        for (node, message) in messages {
            sent.extend(self.peers.send(node, message));
        }
        join_all(sent).await;
    }

    /// The index of a claim, and its proof.
    fn claim(&self, handle: &ReplicaHandle, fetched: Fetched) -> Option<(u64, Proof)> {
        let term = handle.leadership()?.term;
        let state = self.states.of(handle.range_id(), handle.replica_id());
        if !state.stamps.close(term, fetched.version) {
            return None;
        }
        // In this order: what was stamped at or below it is applied by now.
        let index = handle.applied_index();
        if handle.is_leased_since(term, fetched.at) {
            return Some((index, Proof::Lease));
        }
        let nap = handle.nap().filter(|nap| nap.leads && nap.sleep.term == term);
        Some((index, nap.map_or(Proof::None, Proof::Asleep)))
    }

    fn tell(
        &self,
        handle: &ReplicaHandle,
        version: Timestamp,
        index: u64,
        messages: &mut BTreeMap<NodeId, ClosedTimestamps>,
    ) {
        handle.closed().hear(ClosedClaim { version, index }, handle.applied_index());
        let claim = ClosedRange { range_id: handle.range_id().get(), index, term: 0 };
        for member in &handle.descriptor().replicas {
            if member.node_id != self.peers.identity.node_id {
                to(messages, member.node_id, version).ranges.push(claim);
            }
        }
    }

    fn tell_of_sleep(
        &self,
        handle: &ReplicaHandle,
        version: Timestamp,
        nap: &Nap,
        messages: &mut BTreeMap<NodeId, ClosedTimestamps>,
    ) {
        let (range_id, sleep) = (handle.range_id().get(), nap.sleep);
        let claim = ClosedRange { range_id, index: sleep.index, term: sleep.term };
        let descriptor = handle.descriptor();
        let voters = descriptor.replicas.iter().filter(|it| it.role == ReplicaRole::Voter).count();
        if voters == 1 {
            let own = ClosedClaim { version, index: sleep.index };
            handle.closed().hear(own, handle.applied_index());
        }
        for member in &descriptor.replicas {
            let other = member.replica_id != handle.replica_id();
            if other && !nap.without.contains(&member.replica_id) {
                to(messages, member.node_id, version).asleep.push(claim);
            }
        }
    }

    /// How old what is closed here has become.
    fn measure(&self, now: Timestamp) {
        let (mut oldest, mut unknown) = (Duration::ZERO, 0);
        for handle in self.store.replicas() {
            if handle.leads() {
                continue;
            }
            let closed = handle.closed().at(handle.applied_index());
            if closed.is_zero() {
                unknown += 1;
            } else {
                oldest = oldest.max(now.since(closed));
            }
        }
        metrics::AGE.set(oldest.as_secs_f64());
        metrics::UNKNOWN.set(unknown);
    }
}

fn to(
    messages: &mut BTreeMap<NodeId, ClosedTimestamps>,
    node: NodeId,
    version: Timestamp,
) -> &mut ClosedTimestamps {
    let empty = || ClosedTimestamps { version: version.0, ..ClosedTimestamps::default() };
    messages.entry(node).or_insert_with(empty)
}
