//! The steps of one action.

use super::action::{Action, Done, Looked};
use super::waits::Place;
use crate::access::{Refusal, Target, Timestamps};
use crate::latch::{Latch, Mode};
use crate::read::{Reader, View};
use crate::write::{
    InFlight, Proposal, Settling, StampError, command, refusal_of, refusal_of_latch,
};
use bytes::Bytes;
use rangedb_mvcc::Mutation;
use rangedb_mvcc::txn::intent_of;
use rangedb_types::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// As for writes: each timestamp is made after the one before, so even one repetition is rare.
const STAMP_ATTEMPTS_MAX: usize = 16;

const LATE: Refusal = Refusal::OutcomeUnknown("the deadline passed while it was under way");

const TOO_MANY_WAIT: Refusal = Refusal::Overloaded("too many transactions wait in the range");
/// How often one that waits looks whether the holder still lives.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long a call that gave up keeps its place, and counts as waiting, for the next one of the same transaction.
const KEPT: Duration = Duration::from_millis(300);

/// Does actions.
pub struct Actor {
    reader: Arc<Reader>,
    timestamps: Arc<dyn Timestamps>,
    edges: Arc<dyn Edges>,
}

/// Who is told who waits for whom.
pub trait Edges: Send + Sync {
    fn add(&self, waiter: Timestamp, holder: Timestamp);
    fn remove(&self, waiter: Timestamp, holder: Timestamp);
}

/// One transaction waits for another one, until this is dropped.
struct Edge {
    edges: Arc<dyn Edges>,
    waiter: Timestamp,
    holder: Timestamp,
}

impl Edge {
    fn new(edges: &Arc<dyn Edges>, waiter: Timestamp, holder: Timestamp) -> Self {
        edges.add(waiter, holder);
        Self { edges: Arc::clone(edges), waiter, holder }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.edges.remove(self.waiter, self.holder);
    }
}

fn keep_for_a_while(kept: impl Send + 'static) {
    tokio::spawn(async move {
        tokio::time::sleep(KEPT).await;
        drop(kept);
    });
}

impl Actor {
    #[must_use]
    pub fn new(
        reader: Arc<Reader>,
        timestamps: Arc<dyn Timestamps>,
        edges: Arc<dyn Edges>,
    ) -> Arc<Self> {
        Arc::new(Self { reader, timestamps, edges })
    }

    /// Does an action on keys that are the target's. What was proposed goes on to its end, whatever becomes
    /// of the caller.
    ///
    /// # Errors
    /// Any refusal.
    pub async fn act(
        &self,
        target: Target,
        action: Action,
        deadline: Instant,
    ) -> Result<Done, Refusal> {
        if let Action::Acquire { .. } = action {
            return self.acquire(target, action, deadline).await;
        }
        let (scope, state) = (action.scope(), Arc::clone(target.state()));
        let waits = action.prewrites();
        let done = self.act_once(target, action, deadline).await.inspect_err(|refusal| {
            // Its gateway tries again soon. The holder may wait for this one, and is in a queue.
            if let (Some(id), Refusal::KeyLocked { lock, .. }) = (waits, refusal)
                && lock.tentative
            {
                keep_for_a_while(Edge::new(&self.edges, id, lock.start_ts));
            }
        })?;
        if let Some(scope) = scope {
            // It may have ended intents there.
            state.waits.released(&scope);
        }
        Ok(done)
    }

    /// Places tentative intents, and waits for those that hold the keys.
    async fn acquire(
        &self,
        mut target: Target,
        action: Action,
        deadline: Instant,
    ) -> Result<Done, Refusal> {
        let Some((id, first)) = action.acquires() else { unreachable!("asked for by the caller") };
        let waits = target.state().waits.clone();
        // Behind those who came before; what it holds already it need not wait for.
        let mut place =
            if waits.is_free(&first) || self.holds(&target, &first, id, deadline).await? {
                None
            } else {
                Some(waits.enter(&first, id).ok_or(TOO_MANY_WAIT)?)
            };
        loop {
            if let Some(here) = &place {
                if let Err(refusal) = self.await_turn(here, id, deadline).await {
                    place.into_iter().for_each(keep_for_a_while);
                    return Err(refusal);
                }
                target.refresh()?;
            }
            let (key, lock) = match self.act_once(target.clone(), action.clone(), deadline).await {
                Err(Refusal::KeyLocked { key, lock }) => (key, lock),
                done => return done,
            };
            let Some(here) = place.take().filter(|place| *place.key() == key) else {
                // It may be released before this one stands in its queue: look once more from there.
                place = Some(waits.enter(&key, id).ok_or(TOO_MANY_WAIT)?);
                continue;
            };
            let edge = Edge::new(&self.edges, id, lock.start_ts);
            let dead = lock.expires_at() < self.timestamps.latest_seen();
            if !dead {
                let until = deadline.min(Instant::now() + LOOK_AGAIN);
                let _looks_again = timeout_at(until, here.woken()).await;
            }
            if let Some(cycle) = here.given_up() {
                return Err(Refusal::Deadlock { cycle });
            }
            if dead || Instant::now() >= deadline {
                // Its gateway asks what became of the other one, and comes back.
                keep_for_a_while((here, edge));
                return Err(Refusal::KeyLocked { key, lock });
            }
            place = Some(here);
        }
    }

    /// Whether a transaction has an intent on a key.
    async fn holds(
        &self,
        target: &Target,
        key: &Bytes,
        id: Timestamp,
        deadline: Instant,
    ) -> Result<bool, Refusal> {
        let key = key.clone();
        let look = move |view: &View| Ok(intent_of(&*view.snapshot, &key)?);
        let found = self.reader.unconfirmed(target, deadline, look).await?;
        Ok(found.is_some_and(|lock| lock.start_ts == id))
    }

    async fn await_turn(
        &self,
        place: &Place,
        id: Timestamp,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        while let Some(head) = place.behind() {
            let _edge = Edge::new(&self.edges, id, head);
            let woken = timeout_at(deadline, place.woken()).await;
            if let Some(cycle) = place.given_up() {
                return Err(Refusal::Deadlock { cycle });
            }
            woken.map_err(|_| Refusal::NotReady("others wait for the same keys"))?;
        }
        Ok(())
    }

    async fn act_once(
        &self,
        mut target: Target,
        action: Action,
        deadline: Instant,
    ) -> Result<Done, Refusal> {
        if let Action::Resolve { commit_ts: Some(_), .. } = &action {
            // All of its intents were there before it was committed; mostly none is left, and nobody need wait.
            let looked = self.look_confirmed(&target, action.clone(), Timestamp::ZERO, deadline);
            if let Looked::Ready { mutations, done, .. } = looked.await?
                && mutations.is_empty()
            {
                return Ok(done);
            }
        }
        let latch = match action.scope() {
            Some(scope) => Some(latch(&mut target, scope, deadline).await?),
            None => None,
        };
        if let Action::CheckReads { commit_ts, .. } = action {
            // Later writes are stamped above it; those below it are over, or stand as intents.
            self.reader.await_writes(&target, commit_ts, deadline).await?;
            return self.check(&target, action, deadline).await;
        }
        let latch = latch.expect("whatever changes something has a scope");
        let looked = self.look(&target, &action, deadline).await?;
        match looked {
            Looked::Ready { mutations, done, .. } if mutations.is_empty() => Ok(done),
            Looked::Ready { mutations, version, done } => {
                let command = command::of_mutations(mutations, version)?;
                let proposed = target.access().propose(target.leadership, command);
                let settled = tokio::spawn(async move {
                    let outcome = proposed.await;
                    drop(latch);
                    outcome.map_err(|error| refusal_of(&error, &target))
                });
                timeout_at(deadline, settled).await.map_err(|_| LATE)?.map_err(|_| LATE)??;
                Ok(done)
            }
            looked => {
                let in_flight = self.stamp(&target, deadline).await?;
                let version = in_flight.version();
                let (mutations, done) = match looked {
                    Looked::Unstamped(plans) => action.stamp(plans, version),
                    Looked::Page { plans, resume } => action.stamp_page(plans, resume, version),
                    Looked::Held(holds) => action.stamp_holds(holds, version),
                    Looked::Ready { .. } => unreachable!("matched above"),
                };
                if mutations.is_empty() {
                    return Ok(done);
                }
                settle(target, mutations, in_flight, latch, deadline).await?;
                Ok(done)
            }
        }
    }

    /// Looks under the latch: at what this leader knows, if no more than that is needed.
    async fn look(
        &self,
        target: &Target,
        action: &Action,
        deadline: Instant,
    ) -> Result<Looked, Refusal> {
        let now = match action {
            // What is past its lifetime by this time was so when it is rolled back.
            Action::Status { .. } => self.timestamps.get(deadline).await?,
            _ => Timestamp::ZERO,
        };
        let (look, of) = (action.clone(), target.clone());
        let looked = self
            .reader
            .unconfirmed(target, deadline, move |view| {
                view.look_for_intents(&of)?;
                look.look(view, now)
            })
            .await;
        match looked {
            // That there is nothing to commit is an answer about the present, which a leader that has been
            // replaced does not know.
            Err(Refusal::Aborted) => {
                self.look_confirmed(target, action.clone(), now, deadline).await
            }
            // The same of intents: its caller may conclude that none are left.
            Ok(Looked::Ready { mutations, .. }) if mutations.is_empty() && action.leaves_none() => {
                self.look_confirmed(target, action.clone(), now, deadline).await
            }
            looked => looked,
        }
    }

    /// What the leader sees, if it is still the leader.
    async fn look_confirmed(
        &self,
        target: &Target,
        action: Action,
        now: Timestamp,
        deadline: Instant,
    ) -> Result<Looked, Refusal> {
        self.reader.confirmed(target, deadline, move |view| action.look(view, now)).await
    }

    /// A check of reads is an answer about the present state: it is confirmed like a read.
    async fn check(
        &self,
        target: &Target,
        action: Action,
        deadline: Instant,
    ) -> Result<Done, Refusal> {
        match self.look_confirmed(target, action, Timestamp::ZERO, deadline).await? {
            Looked::Ready { done, .. } => Ok(done),
            _ => unreachable!("a check writes nothing"),
        }
    }

    /// A timestamp from the oracle that lies above every read served, in flight from now on.
    async fn stamp(&self, target: &Target, deadline: Instant) -> Result<InFlight, Refusal> {
        for _ in 0..STAMP_ATTEMPTS_MAX {
            let version = self.timestamps.get(deadline).await?;
            match target.state().stamps.stamp(target.term(), version) {
                Ok(in_flight) => return Ok(in_flight),
                Err(StampError::Behind) => {}
                Err(StampError::OtherTerm | StampError::Overloaded) => {
                    return Err(target.outdated());
                }
            }
        }
        Err(Refusal::NotReady("reads overtook the transaction again and again"))
    }
}

async fn latch(
    target: &mut Target,
    scope: crate::latch::Scope,
    deadline: Instant,
) -> Result<Latch, Refusal> {
    let latches = &target.state().latches;
    let mut latch = latches.enqueue(scope, Mode::Exclusive).map_err(refusal_of_latch)?;
    latch.wait(deadline).await.map_err(refusal_of_latch)?;
    target.refresh()?;
    Ok(latch)
}

async fn settle(
    target: Target,
    mutations: Vec<Mutation>,
    in_flight: InFlight,
    latch: Latch,
    deadline: Instant,
) -> Result<(), Refusal> {
    let command = command::of_mutations(mutations, in_flight.version())?;
    let outcome = target.access().propose(target.leadership, command);
    let settling = Settling::new(Proposal { outcome, in_flight }, latch, target);
    let settled = timeout_at(deadline, tokio::spawn(settling)).await;
    settled.map_err(|_| LATE)?.map_err(|_| LATE)?.map(|_| ())
}
