//! What to do about an intent that is in the way.

use super::fate::{Fate, Haste, Inquiry};
use super::steps::resolve_key;
use crate::backoff::Backoff;
use crate::dispatch::Dispatcher;
use crate::errors::Failure;
use crate::operation::Operation;
use rangedb_proto::internal::v1::Intent;
use rangedb_proto::internal::v1::node_action::Kind;
use rangedb_types::Timestamp;
use std::time::Duration;
use tokio::time::Instant;

const PAUSE_FIRST: Duration = Duration::from_millis(2);
const PAUSE_LONGEST: Duration = Duration::from_millis(100);

/// The intents one operation meets, until its deadline.
pub struct Obstacle {
    deadline: Instant,
    backoff: Backoff,
}

impl Obstacle {
    #[must_use]
    pub const fn new(deadline: Instant) -> Self {
        Self { deadline, backoff: Backoff::new(PAUSE_FIRST, PAUSE_LONGEST) }
    }

    /// Sees to an intent, so that the operation may be tried again.
    ///
    /// # Errors
    /// `KeyLocked` at the deadline, and at once for a transaction that holds keys itself and is younger than
    /// the other: of two that wait for each other one must give way.
    pub async fn pass(
        &mut self,
        dispatcher: &Dispatcher,
        operation: &mut Operation,
        intent: &Intent,
    ) -> Result<(), Failure> {
        self.try_to_pass(dispatcher, operation, intent).await.map_err(|failure| match failure {
            // Of a step of another transaction, which decides nothing about this operation.
            Failure::OutcomeUnknown { .. } => locked(intent),
            failure => failure,
        })
    }

    async fn try_to_pass(
        &mut self,
        dispatcher: &Dispatcher,
        operation: &mut Operation,
        intent: &Intent,
    ) -> Result<(), Failure> {
        let read_ts = match operation.read_at() {
            Some(at) => {
                if at.version.is_zero() {
                    // What the intent stands for may be acknowledged already. From now on the read is as of
                    // this moment.
                    at.version = dispatcher.timestamp(self.deadline).await?;
                }
                Some(at.version)
            }
            None => None,
        };
        let read_ts = read_ts.unwrap_or_default();
        let version = match self.ask(dispatcher, intent, read_ts).await? {
            Fate::Undecided { least } if !read_ts.is_zero() && least > read_ts => {
                let at = operation.read_at().expect("only reads have a timestamp");
                at.pass_over.push(Timestamp(intent.id));
                return Ok(());
            }
            Fate::Undecided { .. } if gives_way(operation, intent) => return Err(locked(intent)),
            Fate::Undecided { .. } => return self.wait(intent).await,
            Fate::Committed(version) => Some(version),
            Fate::RolledBack => None,
        };
        resolve_key(dispatcher, Timestamp(intent.id), &intent.key, version, self.deadline).await
    }

    async fn wait(&mut self, intent: &Intent) -> Result<(), Failure> {
        let pause = self.backoff.pause();
        if Instant::now() + pause >= self.deadline {
            return Err(locked(intent));
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Asks the primary, and finishes what is decided.
    async fn ask(
        &self,
        dispatcher: &Dispatcher,
        intent: &Intent,
        push_above: Timestamp,
    ) -> Result<Fate, Failure> {
        let now = dispatcher.timestamp(self.deadline).await?;
        // Until then its prewrite of the primary may be on its way.
        let is_over = Timestamp(intent.expires_at) < now;
        let inquiry = Inquiry {
            dispatcher,
            id: Timestamp(intent.id),
            primary: &intent.primary,
            push_above,
            haste: Haste::IfDead { now, is_over },
            out_of_interest: false,
            deadline: self.deadline,
        };
        inquiry.fate().await
    }
}

/// Settles an intent whose transaction is over; false if it is not.
///
/// # Errors
/// Of the steps it takes.
pub(super) async fn settle_if_over(
    dispatcher: &Dispatcher,
    intent: &Intent,
    deadline: Instant,
) -> Result<bool, Failure> {
    let obstacle = Obstacle::new(deadline);
    let version = match obstacle.ask(dispatcher, intent, Timestamp::ZERO).await? {
        Fate::Undecided { .. } => return Ok(false),
        Fate::Committed(version) => Some(version),
        Fate::RolledBack => None,
    };
    resolve_key(dispatcher, Timestamp(intent.id), &intent.key, version, deadline).await?;
    Ok(true)
}

/// True for a step that places intents, of a transaction that began later than the other.
fn gives_way(operation: &Operation, intent: &Intent) -> bool {
    let Operation::Action(action) = operation else { return false };
    let own = match &action.kind {
        Kind::Prewrite(prewrite) => prewrite.transaction.as_ref().map(|own| own.id),
        Kind::CheckReads(check) => Some(check.id),
        _ => None,
    };
    own.is_some_and(|own| own > intent.id)
}

fn locked(intent: &Intent) -> Failure {
    Failure::KeyLocked { key: intent.key.clone(), id: Timestamp(intent.id) }
}
