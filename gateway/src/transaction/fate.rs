//! What becomes of a transaction: asked of its primary, and of its other keys where those decide.

use super::ranges::on_each;
use super::steps::{commit_primary, finish, resolve, roll_back_key, status};
use crate::dispatch::Dispatcher;
use crate::errors::Failure;
use bytes::Bytes;
use rangedb_proto::internal::v1::Intent;
use rangedb_proto::internal::v1::node_action::{self, Kind};
use rangedb_proto::internal::v1::transaction_state::State;
use rangedb_types::Timestamp;
use tokio::time::Instant;

/// The question.
pub(super) struct Inquiry<'a> {
    pub(super) dispatcher: &'a Dispatcher,
    pub(super) id: Timestamp,
    pub(super) primary: &'a Bytes,
    /// A read at this timestamp wants to go on; zero: none does.
    pub(super) push_above: Timestamp,
    pub(super) haste: Haste,
    /// No intent is behind the question.
    pub(super) out_of_interest: bool,
    pub(super) deadline: Instant,
}

/// When a transaction that is not decided is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    /// If its lifetime is over at this time; so is, if the flag says so, that of an intent whose
    /// primary may not have been placed yet.
    IfDead { now: Timestamp, is_over: bool },
    /// Now: its coordinator asks, or somebody who must know.
    Now,
}

impl Haste {
    fn ends_absent(self) -> bool {
        matches!(self, Self::Now | Self::IfDead { is_over: true, .. })
    }

    fn ends(self, primary: &Intent) -> bool {
        match self {
            Self::Now => true,
            Self::IfDead { now, .. } => Timestamp(primary.expires_at) < now,
        }
    }
}

/// The answer. What is decided is so for good, and its primary is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Committed(Timestamp),
    RolledBack,
    /// It commits at or above this, if it is known.
    Undecided {
        least: Timestamp,
    },
}

impl Inquiry<'_> {
    pub(super) async fn fate(&self) -> Result<Fate, Failure> {
        let query = node_action::Status {
            id: self.id.0,
            primary: self.primary.clone(),
            push_above: self.push_above.0,
            roll_back_absent: self.haste.ends_absent(),
            out_of_interest: self.out_of_interest,
        };
        let undecided = Fate::Undecided { least: Timestamp::ZERO };
        Ok(match status(self.dispatcher, self.primary, query, self.deadline).await? {
            State::Committed(version) => Fate::Committed(Timestamp(version)),
            State::RolledBack(_) => Fate::RolledBack,
            State::Absent(_) => undecided,
            State::Intent(primary) if primary.secondaries.is_some() => {
                self.ask_secondaries(&primary).await?
            }
            // One that is past its lifetime was rolled back by the question.
            State::Intent(_) if self.haste == Haste::Now => self.roll_back().await?,
            State::Intent(primary) => {
                Fate::Undecided { least: Timestamp(primary.least_commit_version) }
            }
        })
    }

    /// An async commit is decided by all of its intents: it is committed if all are there. To end it, one
    /// that is not there must be kept from coming, first of all.
    async fn ask_secondaries(&self, primary: &Intent) -> Result<Fate, Failure> {
        let ends = self.haste.ends(primary);
        let mut keys = primary.secondaries.clone().unwrap_or_default().keys;
        keys.sort_unstable();
        let step = |part: &[usize]| {
            let keys = part.iter().map(|at| keys[*at].clone()).collect();
            Kind::States(node_action::States { id: self.id.0, keys, roll_back_absent: ends })
        };
        let all = (0..keys.len()).collect();
        let done = on_each(self.dispatcher, &keys, all, self.deadline, &step).await;
        if let Some(failure) = done.failure {
            return Err(failure);
        }
        let mut version = Timestamp(primary.least_commit_version);
        let (mut settled, mut ended, mut waits) = (None, false, false);
        let states = done.results.into_iter().flat_map(|(_, result)| result.states);
        for state in states.filter_map(|state| state.state) {
            match state {
                State::RolledBack(_) => ended = true,
                State::Absent(_) => waits = true,
                State::Intent(found) if found.tentative => waits = true,
                State::Intent(found) => {
                    version = version.max(Timestamp(found.least_commit_version))
                }
                State::Committed(version) => settled = Some(Timestamp(version)),
            }
        }
        match settled {
            Some(version) => self.settle(&keys, version, ends).await,
            // One was kept from coming, so that never all of them were there.
            None if ended => self.roll_back().await,
            None if waits => Ok(Fate::Undecided { least: Timestamp::ZERO }),
            None => self.settle(&keys, version, ends).await,
        }
    }

    /// Commits the primary, which tells of the others from then on. While its coordinator may be at work, that
    /// settles the others; else they are settled here.
    async fn settle(
        &self,
        keys: &[Bytes],
        version: Timestamp,
        alone: bool,
    ) -> Result<Fate, Failure> {
        let (id, primary) = (self.id, self.primary);
        let committed =
            commit_primary(self.dispatcher, id, primary, version, true, self.deadline).await;
        let version = match committed {
            Ok(version) => version,
            Err(Failure::Aborted) => return Ok(Fate::RolledBack),
            Err(failure) => return Err(failure),
        };
        if alone && let Err(error) = self.settle_others(keys, version).await {
            // It is decided all the same; who meets what is left settles it.
            tracing::debug!(%error, %id, "a transaction was not settled everywhere");
        }
        Ok(Fate::Committed(version))
    }

    async fn settle_others(&self, keys: &[Bytes], version: Timestamp) -> Result<(), Failure> {
        let step = |part: &[usize]| {
            let keys = part.iter().map(|at| keys[*at].clone()).collect();
            resolve(self.id, keys, Some(version))
        };
        let all = (0..keys.len()).collect();
        let done = on_each(self.dispatcher, keys, all, self.deadline, &step).await;
        match done.failure {
            Some(failure) => Err(failure),
            None => finish(self.dispatcher, self.id, self.primary, version, self.deadline).await,
        }
    }

    async fn roll_back(&self) -> Result<Fate, Failure> {
        match roll_back_key(self.dispatcher, self.id, self.primary, self.deadline).await {
            Ok(()) => Ok(Fate::RolledBack),
            Err(Failure::Committed { version }) => Ok(Fate::Committed(version)),
            Err(failure) => Err(failure),
        }
    }
}
