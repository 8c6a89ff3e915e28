//! The link to whichever member of placement leads.

use crate::{LEADER_METADATA, PlacementError};
use parking_lot::Mutex;
use rangedb_proto::internal::v1::placement_admin_client::PlacementAdminClient;
use rangedb_proto::internal::v1::placement_client::PlacementClient as WireClient;
use rangedb_service::grpc::{MESSAGE_BYTES_MAX, endpoint};
use rangedb_types::{Random as _, SystemRandom};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// The calls of nodes and gateways.
pub type PlacementRpc = WireClient<Channel>;
/// The calls that gateways pass on for operators.
pub type AdminRpc = PlacementAdminClient<Channel>;

/// Longest time one attempt of a call may take before another member is tried.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// First and longest pause between attempts; the real one is random between zero and these.
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(400);
/// Most member addresses remembered, the given ones included.
const ADDRESSES_MAX: usize = 32;

/// A member that said it leads.
#[derive(Clone, Debug)]
pub struct Leader {
    pub address: String,
    pub channel: Channel,
    /// Tells this finding from earlier and later ones.
    found: u64,
}

/// Finds placement's leader, and keeps to it until a call fails. Cheap to make: connects at the
/// first call.
pub struct PlacementClient {
    given: Vec<String>,
    state: Mutex<State>,
    /// Held by whoever searches, so that a thousand callers make one search.
    pub(crate) search: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    leader: Option<Leader>,
    found: u64,
    /// The one that failed last: the others are believed first.
    failed: Option<String>,
    /// Learned from members' answers.
    learned: Vec<String>,
    channels: HashMap<String, Channel>,
}

impl PlacementClient {
    /// A client that starts from these `HOST:PORT` addresses and learns the others.
    #[must_use]
    pub fn new(addresses: Vec<String>) -> Arc<Self> {
        Arc::new(Self {
            given: addresses,
            state: Mutex::new(State::default()),
            search: tokio::sync::Mutex::new(()),
        })
    }

    /// The leader as it is known, or as it can be found before the deadline.
    ///
    /// # Errors
    /// `NoLeader` at the deadline, saying why.
    pub async fn leader(&self, deadline: Instant) -> Result<Leader, PlacementError> {
        if let Some(leader) = self.known_leader() {
            return Ok(leader);
        }
        let no_leader = |reason: &str| PlacementError::NoLeader { reason: reason.to_owned() };
        let Ok(_searching) = timeout_at(deadline, self.search.lock()).await else {
            return Err(no_leader("the search for it did not end in time"));
        };
        let mut backoff = BACKOFF_FIRST;
        let mut reason = String::from("no member was asked before the deadline");
        loop {
            if let Some(leader) = self.known_leader() {
                return Ok(leader);
            }
            match timeout_at(deadline, self.search_once()).await {
                Ok(Ok(leader)) => return Ok(leader),
                Ok(Err(why)) => reason = why,
                Err(_) => return Err(no_leader(&reason)),
            }
            pause(&mut backoff, deadline).await.map_err(|()| no_leader(&reason))?;
        }
    }

    /// A channel to the leader.
    ///
    /// # Errors
    /// See [`Self::leader`].
    pub async fn leader_channel(&self, deadline: Instant) -> Result<Channel, PlacementError> {
        Ok(self.leader(deadline).await?.channel)
    }

    /// The address of the leader, as far as known now.
    #[must_use]
    pub fn leader_address(&self) -> Option<String> {
        self.state.lock().leader.as_ref().map(|leader| leader.address.clone())
    }

    /// Forgets the leader: the next call searches again.
    pub fn leader_failed(&self) {
        let leader = self.state.lock().leader.clone();
        if let Some(leader) = leader {
            self.forget(&leader, None);
        }
    }

    /// Forgets this leader unless a later one was found already. The refusal, if there was one, may
    /// name the next.
    pub fn forget(&self, leader: &Leader, refusal: Option<&Status>) {
        let mut state = self.state.lock();
        if state.leader.as_ref().is_some_and(|known| known.found == leader.found) {
            state.leader = None;
            state.failed = Some(leader.address.clone());
        }
        drop(state);
        if let Some(address) = refusal.and_then(named_leader) {
            self.learn(&address);
        }
    }

    /// Makes a call on the leader, again on the next one if it fails for reasons that have nothing
    /// to do with the call. Only for calls that may run twice.
    ///
    /// # Errors
    /// `Refused` if the leader refused, `NoLeader` if no attempt succeeded before the deadline.
    pub async fn call<T, F, A>(&self, attempt: F, deadline: Instant) -> Result<T, PlacementError>
    where
        F: Fn(PlacementRpc) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_channel(|channel| attempt(placement_client(channel)), deadline).await
    }

    /// [`Self::call`] for the operator's interface.
    ///
    /// # Errors
    /// As for [`Self::call`].
    pub async fn call_admin<T, F, A>(
        &self,
        attempt: F,
        deadline: Instant,
    ) -> Result<T, PlacementError>
    where
        F: Fn(AdminRpc) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_channel(|channel| attempt(admin_client(channel)), deadline).await
    }

    async fn call_channel<T, F, A>(
        &self,
        attempt: F,
        deadline: Instant,
    ) -> Result<T, PlacementError>
    where
        F: Fn(Channel) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let mut backoff = BACKOFF_FIRST;
        loop {
            let leader = self.leader(deadline).await?;
            let limit = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
            let reason = match timeout_at(limit, attempt(leader.channel.clone())).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) if !concerns_the_member(&status) => {
                    return Err(PlacementError::Refused(Box::new(status)));
                }
                Ok(Err(status)) => {
                    self.forget(&leader, Some(&status));
                    format!("{} answered: {}", leader.address, status.message())
                }
                Err(_) => {
                    self.forget(&leader, None);
                    format!("{} did not answer in time", leader.address)
                }
            };
            if pause(&mut backoff, deadline).await.is_err() {
                return Err(PlacementError::NoLeader { reason });
            }
        }
    }

    fn known_leader(&self) -> Option<Leader> {
        self.state.lock().leader.clone()
    }

    /// All addresses worth asking.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let state = self.state.lock();
        self.given.iter().chain(&state.learned).cloned().collect()
    }

    pub(crate) fn failed_address(&self) -> Option<String> {
        self.state.lock().failed.clone()
    }

    /// Remembers a member that was not among the given addresses.
    pub(crate) fn learn(&self, address: &str) {
        let mut state = self.state.lock();
        let known = self.given.iter().chain(&state.learned).any(|other| other == address);
        if !known && !address.is_empty() {
            if self.given.len() + state.learned.len() >= ADDRESSES_MAX && !state.learned.is_empty()
            {
                let oldest = state.learned.remove(0);
                state.channels.remove(&oldest);
            }
            state.learned.push(address.to_owned());
        }
    }

    pub(crate) fn found(&self, address: &str, channel: Channel) -> Leader {
        let mut state = self.state.lock();
        state.found += 1;
        let leader = Leader { address: address.to_owned(), channel, found: state.found };
        state.leader = Some(leader.clone());
        leader
    }

    /// A channel to one member; connects when it is first used.
    pub(crate) fn channel(&self, address: &str) -> Result<Channel, String> {
        let mut state = self.state.lock();
        if let Some(channel) = state.channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = endpoint(address).map_err(|error| error.to_string())?.connect_lazy();
        state.channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// The calls of nodes and gateways over a channel, with RangeDB's message limits.
#[must_use]
pub fn placement_client(channel: Channel) -> PlacementRpc {
    WireClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The operator's calls over a channel, with RangeDB's message limits.
#[must_use]
pub fn admin_client(channel: Channel) -> AdminRpc {
    PlacementAdminClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The leader that a refusal names, if it does.
fn named_leader(status: &Status) -> Option<String> {
    let address = status.metadata().get(LEADER_METADATA)?.to_str().ok()?;
    (!address.is_empty()).then(|| address.to_owned())
}

/// True if the failure says something about the member or the way to it, and nothing about the call.
pub(crate) fn concerns_the_member(status: &Status) -> bool {
    status.metadata().contains_key(LEADER_METADATA)
        || matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown)
}

/// Waits a random time up to `backoff`, and doubles it. Fails if the deadline lies before its end.
pub(crate) async fn pause(backoff: &mut Duration, deadline: Instant) -> Result<(), ()> {
    let until = Instant::now() + SystemRandom.jitter(*backoff);
    *backoff = (*backoff * 2).min(BACKOFF_MAX);
    if until >= deadline {
        return Err(());
    }
    sleep_until(until).await;
    Ok(())
}
