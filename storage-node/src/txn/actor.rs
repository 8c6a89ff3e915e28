//! The steps of one action.

use super::action::{Action, Done, Looked};
use crate::access::{Refusal, Target, Timestamps};
use crate::latch::Latch;
use crate::read::Reader;
use crate::write::{
    InFlight, Proposal, Settling, StampError, command, refusal_of, refusal_of_latch,
};
use rangedb_mvcc::Mutation;
use rangedb_types::Timestamp;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// As for writes: each timestamp is made after the one before, so even one repetition is rare.
const STAMP_ATTEMPTS_MAX: usize = 16;

const LATE: Refusal = Refusal::OutcomeUnknown("the deadline passed while it was under way");

/// Does actions.
pub struct Actor {
    reader: Arc<Reader>,
    timestamps: Arc<dyn Timestamps>,
}

impl Actor {
    #[must_use]
    pub fn new(reader: Arc<Reader>, timestamps: Arc<dyn Timestamps>) -> Arc<Self> {
        Arc::new(Self { reader, timestamps })
    }

    /// Does an action on keys that are the target's. What was proposed goes on to its end, whatever becomes
    /// of the caller.
    ///
    /// # Errors
    /// Any refusal.
    pub async fn act(
        &self,
        mut target: Target,
        action: Action,
        deadline: Instant,
    ) -> Result<Done, Refusal> {
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
        let now = match &action {
            // What is past its lifetime by this time was so when it is rolled back.
            Action::Status { .. } => self.timestamps.get(deadline).await?,
            _ => Timestamp::ZERO,
        };
        let (look, of) = (action.clone(), target.clone());
        let looked = self
            .reader
            .unconfirmed(&target, deadline, move |view| {
                view.look_for_intents(&of)?;
                look.look(view, now)
            })
            .await;
        let looked = match looked {
            // That there is nothing to commit is an answer about the present, which a leader that has been
            // replaced does not know.
            Err(Refusal::Aborted) => {
                let look = action.clone();
                self.reader.confirmed(&target, deadline, move |view| look.look(view, now)).await?
            }
            looked => looked?,
        };
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

    /// A check of reads is an answer about the present state: it is confirmed like a read.
    async fn check(
        &self,
        target: &Target,
        action: Action,
        deadline: Instant,
    ) -> Result<Done, Refusal> {
        let looked = self.reader.confirmed(target, deadline, move |view| {
            action.look(view, Timestamp::ZERO).map(|_| ())
        });
        looked.await.map(|()| Done::Nothing)
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
    let mut latch = target.state().latches.enqueue(scope).map_err(refusal_of_latch)?;
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
