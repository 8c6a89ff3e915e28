//! Members of the quorum: who they are, and changes of them.

use super::error::{MembershipError, ProposeError};
use super::types::Member;
use super::{Consensus, MEMBERS_MAX};
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, ServerState};
use rangedb_service::grpc;
use rangedb_types::PlacementId;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a member does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberRole {
    Leader,
    Follower,
    /// Receives the log, has no vote yet.
    Learner,
}

impl MemberRole {
    /// The word of the public interface.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Learner => "learner",
        }
    }
}

/// A member of the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumMember {
    pub id: PlacementId,
    pub address: String,
    pub role: MemberRole,
}

type Written = Result<
    ClientWriteResponse<super::TypeConfig>,
    RaftError<PlacementId, ClientWriteError<PlacementId, Member>>,
>;

impl Consensus {
    /// The members as this one knows them, in order of their ids.
    #[must_use]
    pub fn members(&self) -> Vec<QuorumMember> {
        let metrics = self.core.raft.server_metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<PlacementId> = membership.voter_ids().collect();
        let role = |id: PlacementId| {
            let leads = metrics.current_leader == Some(id)
                || (id == self.core.own.id && metrics.state == ServerState::Leader);
            match (leads, voters.contains(&id)) {
                (true, _) => MemberRole::Leader,
                (false, true) => MemberRole::Follower,
                (false, false) => MemberRole::Learner,
            }
        };
        membership
            .nodes()
            .map(|(id, member)| QuorumMember {
                id: *id,
                address: self.core.own.peers.get(id).unwrap_or(&member.address).clone(),
                role: role(*id),
            })
            .collect()
    }

    /// Takes a new member in: it must have been started with an empty folder and this cluster's
    /// members in its peers list. It learns the log first and votes after that. Repeating it for a
    /// member that is half in goes on where it stopped.
    ///
    /// # Errors
    /// `Refused` with the reason, or that of the proposal.
    pub async fn add_member(
        &self,
        id: PlacementId,
        address: String,
        deadline: Instant,
    ) -> Result<(), MembershipError> {
        let _one_at_a_time = self.lock_changes(deadline).await?;
        let voters: BTreeSet<PlacementId> = self.voters();
        let store_id = self.newcomer(id, &address).await?;
        if voters.contains(&id) {
            return Ok(());
        }
        if voters.len() >= MEMBERS_MAX {
            return Err(refused(format!("a quorum has at most {MEMBERS_MAX} members")));
        }
        let learner = Member { address, store_id };
        self.limited(deadline, self.core.raft.add_learner(id, learner, true)).await?;
        let change = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        self.limited(deadline, self.core.raft.change_membership(change, false)).await
    }

    /// Removes a member. The leader may remove itself; the others then elect another.
    ///
    /// # Errors
    /// `Refused` with the reason, or that of the proposal.
    pub async fn remove_member(
        &self,
        id: PlacementId,
        deadline: Instant,
    ) -> Result<(), MembershipError> {
        let _one_at_a_time = self.lock_changes(deadline).await?;
        if !self.members().iter().any(|member| member.id == id) {
            return Err(refused(format!("placement has no member {id}")));
        }
        let voters = self.voters();
        if voters.contains(&id) {
            if voters.len() == 1 {
                return Err(refused(format!("placement member {id} is the only one left")));
            }
            let change = ChangeMembers::RemoveVoters(BTreeSet::from([id]));
            return self.limited(deadline, self.core.raft.change_membership(change, false)).await;
        }
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
        self.limited(deadline, self.core.raft.change_membership(change, false)).await
    }

    fn voters(&self) -> BTreeSet<PlacementId> {
        let metrics = self.core.raft.server_metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().voter_ids().collect()
    }

    async fn lock_changes(
        &self,
        deadline: Instant,
    ) -> Result<tokio::sync::MutexGuard<'_, ()>, MembershipError> {
        let guard = tokio::time::timeout_at(deadline, self.changing.lock())
            .await
            .map_err(|_| refused("another change of the members is under way".to_owned()))?;
        let leadership = self.core.leadership();
        if !leadership.is_leader {
            return Err(ProposeError::NotLeader { address: leadership.leader_address }.into());
        }
        Ok(guard)
    }

    /// The store id of the process at this address, if it may be taken in under this id.
    async fn newcomer(
        &self,
        id: PlacementId,
        address: &str,
    ) -> Result<crate::state::StoreId, MembershipError> {
        grpc::endpoint(address).map_err(|error| refused(error.to_string()))?;
        let Some(answer) = self.core.network.probe(address, PROBE_TIMEOUT).await else {
            return Err(refused(format!(
                "nothing answers at {address}; start the new member first, with --id {id} and this cluster's members and itself in --peers"
            )));
        };
        if answer.id != id.get() {
            return Err(refused(format!(
                "placement member {} answers at {address}, not {id}",
                answer.id
            )));
        }
        let store_id = answer
            .store_id
            .parse()
            .map_err(|_| refused(format!("the process at {address} has no store id")))?;
        if self.core.store_of(id).is_some_and(|known| known != store_id) {
            return Err(refused(format!(
                "placement member {id} is known with another data folder; remove it first, and add the new one under a new id"
            )));
        }
        if !answer.cluster_id.is_empty() && answer.cluster_id != self.core.own.cluster_text() {
            return Err(refused(format!(
                "the member at {address} belongs to another cluster; give it an empty data folder"
            )));
        }
        Ok(store_id)
    }

    async fn limited(
        &self,
        deadline: Instant,
        change: impl Future<Output = Written>,
    ) -> Result<(), MembershipError> {
        match tokio::time::timeout_at(deadline, change).await {
            Err(_) => Err(ProposeError::OutcomeUnknown.into()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(ProposeError::NotLeader { address: self.core.leader_address() }.into())
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
                Err(refused(match error {
                    ChangeMembershipError::InProgress(_) => {
                        "another change of the members is under way".to_owned()
                    }
                    other => other.to_string(),
                }))
            }
            Ok(Err(RaftError::Fatal(_))) => Err(ProposeError::Stopped.into()),
        }
    }
}

const fn refused(text: String) -> MembershipError {
    MembershipError::Refused(text)
}
