//! The steps of one write.

use super::stamps::{InFlight, StampError};
use super::{command, metrics};
use crate::access::{Refusal, Target, Timestamps};
use crate::latch::{Latch, LatchError, Mode, Scope};
use crate::read::{Reader, Specials, View};
use crate::store::ProposeError;
use bytes::Bytes;
use futures::future::BoxFuture;
use rangedb_engine::Snapshot;
use rangedb_mvcc::txn::{intent_of, intents_below};
use rangedb_mvcc::{Condition, ConditionError, check_condition, find_delete_range, find_request};
use rangedb_types::limits::REQUEST_ID_LIFETIME_MS;
use rangedb_types::{RequestId, Span, Timestamp};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// How often a write fetches another timestamp because reads overtook it. Each was made after the
/// one before, so even one repetition is rare.
const STAMP_ATTEMPTS_MAX: usize = 16;
/// Fences one range keeps; each lives ten minutes.
const FENCES_MAX: usize = 100_000;
/// Expired fences that one new fence removes.
const FENCES_REMOVED_MAX: usize = 64;

/// What a write changes.
#[derive(Clone, Debug)]
pub enum Change {
    Put { key: Bytes, value: Bytes, condition: Condition },
    Delete { key: Bytes, condition: Condition },
    DeleteRange { span: Span },
}

impl Change {
    /// What it latches.
    #[must_use]
    pub fn scope(&self) -> Scope {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => Scope::Key(key.clone()),
            Self::DeleteRange { span } => Scope::Span(span.clone()),
        }
    }

    /// Where it begins, and how many bytes it brings.
    #[must_use]
    pub fn extent(&self) -> (Bytes, usize) {
        match self {
            Self::Put { key, value, .. } => (key.clone(), key.len() + value.len()),
            Self::Delete { key, .. } => (key.clone(), key.len()),
            Self::DeleteRange { span } => (Bytes::copy_from_slice(&span.start), 0),
        }
    }

    pub(super) const fn condition(&self) -> Condition {
        match self {
            Self::Put { condition, .. } | Self::Delete { condition, .. } => *condition,
            Self::DeleteRange { .. } => Condition::None,
        }
    }
}

/// Which logical write an attempt belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub request_id: RequestId,
    /// Oracle time at or before the first attempt.
    pub seen: Timestamp,
    /// An earlier attempt may have come through.
    pub retry: bool,
}

/// An attempt of a write.
pub struct Write {
    pub target: Target,
    pub change: Change,
    pub identity: Identity,
    pub deadline: Instant,
}

impl Write {
    /// A first attempt that asks nothing of what is there may go beside others: each gets a
    /// timestamp of its own, and none looks for another.
    pub(super) fn mode(&self) -> Mode {
        let asks = self.identity.retry || self.change.condition() != Condition::None;
        match self.change {
            Change::Put { .. } | Change::Delete { .. } if !asks => Mode::Shared,
            _ => Mode::Exclusive,
        }
    }
}

/// The question whether a write took effect, to be answered for good.
pub struct StatusQuery {
    pub target: Target,
    /// The key of the write, or the start of the deleted range.
    pub key: Bytes,
    pub request_id: RequestId,
    pub seen: Timestamp,
    pub deadline: Instant,
}

/// Does writes. See the module's docs for the steps.
pub struct Writer {
    reader: Arc<Reader>,
    timestamps: Arc<dyn Timestamps>,
}

impl Writer {
    #[must_use]
    pub fn new(reader: Arc<Reader>, timestamps: Arc<dyn Timestamps>) -> Arc<Self> {
        Arc::new(Self { reader, timestamps })
    }

    /// True if the write, whose latch is held, can be stamped without reading anything.
    pub(super) fn is_plain(&self, write: &Write) -> bool {
        let Write { target, identity, .. } = write;
        if write.mode() == Mode::Exclusive
            || target.state().stamps.needs_lookup(target.term(), identity.seen)
        {
            return false;
        }
        let generation = target.access().special_generation();
        let specials = target.state().specials.at(generation);
        target.state().intents.none(target.access())
            && specials.is_some_and(|specials| specials.fences.get(identity.request_id).is_none())
    }

    /// One timestamp, for as many writes as the caller likes whose latches are all held by now and
    /// which touch different keys. No other call gets the same one.
    pub(super) async fn timestamp(&self, deadline: Instant) -> Result<Timestamp, Refusal> {
        let _timer = metrics::TIMESTAMP_WAIT.start_timer();
        self.timestamps.get(deadline).await
    }

    /// Does a write from its latch on.
    pub(super) async fn write(
        &self,
        mut write: Write,
        mut latch: Latch,
    ) -> Result<Timestamp, Refusal> {
        wait_for(&mut latch, write.deadline).await?;
        write.target.refresh()?;
        let state = write.target.state();
        if latch.mode() == Mode::Shared
            && state.stamps.needs_lookup(write.target.term(), write.identity.seen)
        {
            // A retry of it may have been done, and another one may come: it goes alone.
            drop(latch);
            let scope = write.change.scope();
            latch = state.latches.enqueue(scope, Mode::Exclusive).map_err(refusal_of_latch)?;
            wait_for(&mut latch, write.deadline).await?;
            write.target.refresh()?;
        }
        if let Some(version) = self.look(&write).await? {
            metrics::FOUND_DONE.inc();
            return Ok(version);
        }
        self.stamp_and_propose(write, latch).await
    }

    /// Looks whether the write was done before, is fenced off, or must not be done.
    async fn look(&self, write: &Write) -> Result<Option<Timestamp>, Refusal> {
        let Write { target, change, identity, deadline } = write;
        let stamps = &target.state().stamps;
        let lookup = identity.retry || stamps.needs_lookup(target.term(), identity.seen);
        if identity.retry {
            stamps.raise_lookup_floor(target.term(), identity.seen);
        }
        let condition = change.condition();
        let intents = !target.state().intents.none(target.access());
        if !lookup && !intents && condition == Condition::None {
            let generation = target.access().special_generation();
            if let Some(specials) = target.state().specials.at(generation) {
                return check_fence(&specials, identity.request_id).map(|()| None);
            }
        }
        let (change, identity) = (change.clone(), *identity);
        let of = target.clone();
        let look = move |view: &View| {
            view.look_for_intents(&of)?;
            look_at(view, &change, &identity, lookup)
        };
        if condition == Condition::None {
            self.reader.unconfirmed(target, *deadline, look).await
        } else {
            self.reader.confirmed(target, *deadline, look).await
        }
    }

    /// Stamps and proposes a write under its latch; both are held until it is settled.
    pub(super) async fn stamp_and_propose(
        &self,
        write: Write,
        latch: Latch,
    ) -> Result<Timestamp, Refusal> {
        for _ in 0..STAMP_ATTEMPTS_MAX {
            let version = self.timestamp(write.deadline).await?;
            match propose(&write, version) {
                Ok(proposal) => return Settling::new(proposal, latch, write.target).await,
                Err(NotProposed::Behind) => {}
                Err(NotProposed::Refused(refusal)) => return Err(refusal),
            }
        }
        Err(Refusal::NotReady("reads overtook the write again and again"))
    }

    /// Whether a request was committed; if it was not, it never will be.
    pub(super) async fn status(
        &self,
        mut query: StatusQuery,
        mut latch: Latch,
    ) -> Result<Option<Timestamp>, Refusal> {
        wait_for(&mut latch, query.deadline).await?;
        query.target.refresh()?;
        let StatusQuery { target, key, request_id, seen, deadline } = query;
        // Fetched before the look: what has expired by this time is not needed by later attempts.
        let now = self.timestamp(deadline).await?;
        let look = move |view: &View| look_for_status(view, &key, request_id, seen, now);
        let expired = match self.reader.unconfirmed(&target, deadline, look).await? {
            Status::Committed(version) => return Ok(Some(version)),
            Status::Fenced => return Ok(None),
            Status::Open { expired } => expired,
        };
        if is_too_old(now, seen) {
            // Every attempt that could still come is refused by its age.
            return Ok(None);
        }
        let fence = command::of_fence(target.range_id(), request_id, now, &expired);
        metrics::FENCES.inc();
        let proposed = target.access().propose(target.leadership, fence).await;
        drop(latch);
        proposed.map(|()| None).map_err(|error| refusal_of(&error, &target))
    }
}

/// Why a write was not proposed.
pub(super) enum NotProposed {
    /// A read was served above the timestamp: fetch another.
    Behind,
    Refused(Refusal),
}

/// A write on its way through the log.
pub(crate) struct Proposal {
    pub(crate) outcome: BoxFuture<'static, Result<(), ProposeError>>,
    pub(crate) in_flight: InFlight,
}

/// Stamps and proposes. The caller holds the write's latch, got `version` from the oracle after
/// that, and keeps both until the proposal is settled.
pub(super) fn propose(write: &Write, version: Timestamp) -> Result<Proposal, NotProposed> {
    let Write { target, change, identity, .. } = write;
    if is_too_old(version, identity.seen) {
        let refusal = if identity.retry {
            Refusal::OutcomeUnknown("the retry comes too late to tell what became of the write")
        } else {
            Refusal::Fenced
        };
        return Err(NotProposed::Refused(refusal));
    }
    let in_flight = target.state().stamps.stamp(target.term(), version).map_err(|error| {
        if error == StampError::Behind {
            metrics::RESTAMPED.inc();
            return NotProposed::Behind;
        }
        NotProposed::Refused(target.outdated())
    })?;
    let command = command::of_change(change, identity, version).map_err(NotProposed::Refused)?;
    Ok(Proposal { outcome: target.access().propose(target.leadership, command), in_flight })
}

/// Holds a write's latch and stamp until its proposal is settled.
pub(crate) struct Settling {
    outcome: BoxFuture<'static, Result<(), ProposeError>>,
    held: Option<(InFlight, Latch)>,
    target: Target,
}

impl Settling {
    pub(crate) fn new(proposal: Proposal, latch: Latch, target: Target) -> Self {
        Self { outcome: proposal.outcome, held: Some((proposal.in_flight, latch)), target }
    }
}

impl Future for Settling {
    type Output = Result<Timestamp, Refusal>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(self.outcome.as_mut().poll(context));
        let (in_flight, latch) = self.held.take().expect("a settled write is not polled again");
        let version = in_flight.version();
        drop((in_flight, latch));
        Poll::Ready(outcome.map(|()| version).map_err(|error| refusal_of(&error, &self.target)))
    }
}

/// What became of a proposal, in the words of requests. Only what surely never entered a log may be
/// called anything but unknown.
pub(crate) fn refusal_of(error: &ProposeError, target: &Target) -> Refusal {
    match error {
        ProposeError::NotLeader => target.not_leader(),
        ProposeError::EpochMismatch => target.epoch_mismatch(target.span()),
        ProposeError::Frozen => Refusal::NotReady("the range is being merged"),
        ProposeError::HandingOver => {
            Refusal::NotReady("the lead of the range is being handed over")
        }
        ProposeError::Overloaded => Refusal::Overloaded("too many proposals wait"),
        ProposeError::OutcomeUnknown => {
            Refusal::OutcomeUnknown("leadership was lost while it was under way")
        }
        ProposeError::Stopping => Refusal::OutcomeUnknown("the node is stopping"),
    }
}

async fn wait_for(latch: &mut Latch, deadline: Instant) -> Result<(), Refusal> {
    if latch.is_held() {
        return Ok(());
    }
    let _timer = metrics::LATCH_WAIT.start_timer();
    latch.wait(deadline).await.map_err(refusal_of_latch)
}

pub(crate) const fn refusal_of_latch(error: LatchError) -> Refusal {
    match error {
        LatchError::TooManyWaiting => Refusal::Overloaded("too many writes wait for the same keys"),
        LatchError::Deadline => {
            Refusal::NotReady("the deadline passed while other writes held the same keys")
        }
    }
}

/// True if an attempt that saw `seen` is refused at `now`.
fn is_too_old(now: Timestamp, seen: Timestamp) -> bool {
    now.since(seen) > Duration::from_millis(REQUEST_ID_LIFETIME_MS)
}

fn check_fence(specials: &Specials, request_id: RequestId) -> Result<(), Refusal> {
    if specials.fences.get(request_id).is_some() { Err(Refusal::Fenced) } else { Ok(()) }
}

/// Blocks on the engine.
fn look_at(
    view: &View,
    change: &Change,
    identity: &Identity,
    lookup: bool,
) -> Result<Option<Timestamp>, Refusal> {
    let View { snapshot, specials, .. } = view;
    let Identity { request_id, seen, .. } = *identity;
    if lookup {
        let found = match change {
            Change::Put { key, .. } | Change::Delete { key, .. } => {
                find_request(&**snapshot, key, request_id, seen)?
            }
            Change::DeleteRange { span } => find_delete_range(&**snapshot, span, request_id, seen)?,
        };
        if found.is_some() {
            return Ok(found);
        }
        if seen < specials.safe_point {
            let why = "what it may have written is too old to be found";
            return Err(Refusal::OutcomeUnknown(why));
        }
    }
    check_fence(specials, request_id)?;
    check_intents(&**snapshot, change)?;
    let (Change::Put { key, condition, .. } | Change::Delete { key, condition }) = change else {
        return Ok(None);
    };
    match check_condition(&**snapshot, &specials.tombstones, key, *condition) {
        Ok(()) => Ok(None),
        Err(ConditionError::Failed { current }) => Err(Refusal::ConditionFailed {
            current: current.map(|value| (value.bytes, value.version)),
        }),
        Err(ConditionError::Mvcc(error)) => Err(error.into()),
    }
}

/// A write outside of transactions waits for every intent on what it changes.
fn check_intents(snapshot: &dyn Snapshot, change: &Change) -> Result<(), Refusal> {
    let found = match change {
        Change::Put { key, .. } | Change::Delete { key, .. } => {
            intent_of(snapshot, key)?.map(|lock| (key.clone(), lock))
        }
        Change::DeleteRange { span } => {
            let found = intents_below(snapshot, span, Timestamp::MAX, 1)?.intents.pop();
            found.map(|(key, lock)| (Bytes::from(key), lock))
        }
    };
    match found {
        Some((key, lock)) => Err(Refusal::KeyLocked { key, lock: Box::new(lock) }),
        None => Ok(()),
    }
}

/// How a request stands.
enum Status {
    Committed(Timestamp),
    Fenced,
    Open { expired: Vec<RequestId> },
}

/// Blocks on the engine.
fn look_for_status(
    view: &View,
    key: &[u8],
    request_id: RequestId,
    seen: Timestamp,
    now: Timestamp,
) -> Result<Status, Refusal> {
    let View { snapshot, specials, .. } = view;
    let mut found = find_request(&**snapshot, key, request_id, seen)?;
    if found.is_none() {
        found = find_delete_range(&**snapshot, &Span::of_key(key), request_id, seen)?;
    }
    if let Some(version) = found {
        return Ok(Status::Committed(version));
    }
    if seen < specials.safe_point {
        let why = "what it may have written is too old to be found";
        return Err(Refusal::OutcomeUnknown(why));
    }
    if specials.fences.get(request_id).is_some() {
        return Ok(Status::Fenced);
    }
    let expired: Vec<_> = specials.fences.expired(now).take(FENCES_REMOVED_MAX).collect();
    if specials.fences.len() - expired.len() >= FENCES_MAX {
        return Err(Refusal::Overloaded("the range holds too many fences of recent requests"));
    }
    Ok(Status::Open { expired })
}
