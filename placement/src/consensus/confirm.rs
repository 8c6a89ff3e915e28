//! Confirms leadership by quorum rounds that all who wait share.
//!
//! Invariant: a round serves only those who waited before it began.

use super::Term;
use super::core::Core;
use super::error::LeadershipError;
use super::metrics::ROUNDS;
use super::types::{EffectiveMembership, Vote};
use super::witness::{Testimony, Witnesses};
use openraft::error::{CheckIsLeaderError, RaftError};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Most callers that wait for a round at once; more wait to be let in.
const WAITERS_MAX: usize = 4_096;

type Waiter = oneshot::Sender<Result<Term, LeadershipError>>;

pub(super) struct Confirmer {
    waiters: mpsc::Sender<Waiter>,
}

impl Confirmer {
    /// The confirmer, and the work that its owner must run.
    pub(super) fn new(
        core: Arc<Core>,
        cancel: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (waiters, queue) = mpsc::channel(WAITERS_MAX);
        (Self { waiters }, run(core, queue, cancel))
    }

    /// Confirms that this member leads at some moment after the call, and that it has applied
    /// everything that was answered to anybody before the call. Returns the term it leads in.
    pub(super) async fn confirm(&self, deadline: Instant) -> Result<Term, LeadershipError> {
        loop {
            let (answer, answered) = oneshot::channel();
            let round = async {
                self.waiters.send(answer).await.map_err(|_| LeadershipError::Stopped)?;
                answered.await.unwrap_or(Err(LeadershipError::Stopped))
            };
            match tokio::time::timeout_at(deadline, round).await {
                // A message of the round was lost or late; there is time for another one.
                Ok(Err(LeadershipError::Timeout)) if Instant::now() < deadline => {}
                Ok(result) => return result,
                Err(_) => return Err(LeadershipError::Timeout),
            }
        }
    }
}

async fn run(core: Arc<Core>, mut queue: mpsc::Receiver<Waiter>, cancel: CancellationToken) {
    let mut waiting = Vec::new();
    let mut rounds = Rounds { witnesses: Witnesses::new(Arc::clone(&core)), proven: None };
    loop {
        let received = tokio::select! {
            () = cancel.cancelled() => return,
            received = queue.recv_many(&mut waiting, WAITERS_MAX) => received,
        };
        if received == 0 {
            return;
        }
        waiting.retain(|waiter| !waiter.is_closed());
        if waiting.is_empty() {
            continue;
        }
        ROUNDS.inc();
        let limit = core.tuning.election_timeout_max;
        let result = tokio::select! {
            () = cancel.cancelled() => Err(LeadershipError::Stopped),
            result = tokio::time::timeout(limit, rounds.next(&core)) => {
                result.unwrap_or(Err(LeadershipError::Timeout))
            }
        };
        if result == Err(LeadershipError::Timeout) {
            // Not at once again: whoever is unreachable stays so for a moment.
            tokio::time::sleep(core.tuning.heartbeat / 10).await;
        }
        for waiter in waiting.drain(..) {
            // Whoever gave up does not mind.
            let _gone = waiter.send(result.clone());
        }
    }
}

struct Rounds {
    witnesses: Witnesses,
    /// The vote under which a round of openraft was won: everything older is applied here.
    proven: Option<Vote>,
}

impl Rounds {
    /// One quorum round. The first under a vote is openraft's, which also makes sure that all of
    /// earlier terms is applied here; what is answered in this term was applied here before. So the
    /// later ones need only show that nobody else was elected.
    async fn next(&mut self, core: &Core) -> Result<Term, LeadershipError> {
        let (vote, membership) = leading(core).await?;
        if self.proven != Some(vote) {
            full(core, vote).await?;
            self.proven = Some(vote);
            return Ok(Term(vote.leader_id.term));
        }
        let deadline = Instant::now() + core.tuning.heartbeat;
        match self.witnesses.ask(&vote, membership.membership(), deadline).await {
            Testimony::Held => Ok(Term(vote.leader_id.term)),
            // The next round is openraft's again: it also finds out why.
            Testimony::Silence => {
                self.proven = None;
                Err(LeadershipError::Timeout)
            }
        }
    }
}

fn not_leader(core: &Core) -> LeadershipError {
    LeadershipError::NotLeader { address: core.leader_address() }
}

/// The vote this member leads by and the members it leads, in order with everything else that
/// openraft does.
async fn leading(core: &Core) -> Result<(Vote, Arc<EffectiveMembership>), LeadershipError> {
    let seen = core.raft.with_raft_state(|state| {
        let membership = Arc::clone(state.membership_state.effective());
        (*state.vote_ref(), membership)
    });
    let (vote, membership) = seen.await.map_err(|_| LeadershipError::Stopped)?;
    if !vote.committed || vote.leader_id.voted_for() != Some(core.own.id) {
        return Err(not_leader(core));
    }
    Ok((vote, membership))
}

/// A round of openraft's own. The vote is looked at before and after it: votes never come back, so
/// if both are the same the round was won under that one.
async fn full(core: &Core, before: Vote) -> Result<(), LeadershipError> {
    match core.raft.ensure_linearizable().await {
        Ok(_) => {}
        Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => {
            return Err(LeadershipError::Timeout);
        }
        Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(_))) => {
            return Err(not_leader(core));
        }
        Err(RaftError::Fatal(_)) => return Err(LeadershipError::Stopped),
    }
    if leading(core).await?.0 == before { Ok(()) } else { Err(not_leader(core)) }
}
