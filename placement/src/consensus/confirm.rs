//! Confirms leadership by quorum rounds that all who wait share.
//!
//! Invariant: a round serves only those who waited before it began.

use super::Term;
use super::core::Core;
use super::error::LeadershipError;
use super::metrics::ROUNDS;
use super::types::Vote;
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
    /// everything that was committed before the call. Returns the term it leads in.
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
            result = tokio::time::timeout(limit, round(&core)) => {
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

/// One quorum round. The vote is looked at before and after it, in order with everything else that
/// openraft does: votes never come back, so if both are the same the round was won under that one.
async fn round(core: &Core) -> Result<Term, LeadershipError> {
    let not_leader = || LeadershipError::NotLeader { address: core.leader_address() };
    let vote = async || -> Result<Vote, LeadershipError> {
        let vote = core.raft.with_raft_state(|state| *state.vote_ref()).await;
        vote.map_err(|_| LeadershipError::Stopped)
    };
    let before = vote().await?;
    if !before.committed || before.leader_id.voted_for() != Some(core.own.id) {
        return Err(not_leader());
    }
    match core.raft.ensure_linearizable().await {
        Ok(_) => {}
        Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => {
            return Err(LeadershipError::Timeout);
        }
        Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(_))) => {
            return Err(not_leader());
        }
        Err(RaftError::Fatal(_)) => return Err(LeadershipError::Stopped),
    }
    if vote().await? == before { Ok(Term(before.leader_id.term)) } else { Err(not_leader()) }
}
