//! The election guard: openraft has no pre-vote and its own election timer is off; this member
//! campaigns only after it asked the others.
//!
//! Invariant: no campaign unless a quorum can be reached and none of those that answer hears a
//! leader. So a member that comes back, or hears nothing by its own fault, deposes nobody.

use super::core::Core;
use super::metrics::CAMPAIGNS;
use openraft::ServerState;
use rangedb_types::{PlacementId, Random as _, SystemRandom};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// May this member campaign? `configs` are the voter sets that must each agree (two in a joint
/// configuration); `answers` holds the other voters that answered, and whether each hears a leader.
fn may_campaign(
    own: PlacementId,
    configs: &[BTreeSet<PlacementId>],
    answers: &BTreeMap<PlacementId, bool>,
) -> bool {
    let reachable = |id: &PlacementId| *id == own || answers.contains_key(id);
    let quorum = |voters: &BTreeSet<PlacementId>| {
        voters.iter().filter(|id| reachable(id)).count() > voters.len() / 2
    };
    configs.iter().all(quorum) && !answers.values().any(|hears_leader| *hears_leader)
}

/// The voters of the quorum while this member is one of them and does not lead.
fn voters(core: &Core) -> Option<Vec<BTreeSet<PlacementId>>> {
    let metrics = core.raft.server_metrics();
    let metrics = metrics.borrow();
    let configs = metrics.membership_config.membership().get_joint_config();
    let votes = configs.iter().any(|voters| voters.contains(&core.own.id));
    (votes && metrics.state != ServerState::Leader).then(|| configs.clone())
}

/// Campaigns when it is right to do so, until cancelled.
pub(super) async fn run(core: &Core, cancel: &CancellationToken) {
    let tuning = &core.tuning;
    let spread = tuning.election_timeout_max.saturating_sub(tuning.election_timeout_min);
    let mut jitter = SystemRandom.jitter(spread);
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(tuning.heartbeat / 4) => {}
        }
        let Some(configs) = voters(core) else { continue };
        let others: BTreeSet<PlacementId> =
            configs.iter().flatten().copied().filter(|id| *id != core.own.id).collect();
        // A voter's lease on the last leader, then a random while, so that not all ask at once.
        let patience =
            if others.is_empty() { Duration::ZERO } else { tuning.election_timeout_max + jitter };
        if Instant::now() < not_before.max(core.quiet_since() + patience) {
            continue;
        }
        let answers = ask(core, &others).await;
        // The answers took time: a leader may have spoken up.
        let still_quiet = core.quiet_since() + patience <= Instant::now();
        let pause = if still_quiet && may_campaign(core.own.id, &configs, &answers) {
            tracing::info!(reachable = answers.len() + 1, "no leader; starting an election");
            CAMPAIGNS.inc();
            if core.raft.trigger().elect().await.is_err() {
                return;
            }
            tuning.election_timeout_min / 2
        } else {
            tuning.heartbeat
        };
        jitter = SystemRandom.jitter(spread);
        not_before = Instant::now() + pause + jitter;
    }
}

async fn ask(core: &Core, others: &BTreeSet<PlacementId>) -> BTreeMap<PlacementId, bool> {
    let addresses = others.iter().filter_map(|id| Some((*id, core.address_of(*id)?)));
    let answers = core.network.probe_all(addresses, core.tuning.heartbeat * 2).await;
    let cluster = core.own.cluster_text();
    let valid =
        |(id, answer): (PlacementId, Option<rangedb_proto::internal::v1::ProbeResponse>)| {
            let answer = answer?;
            // A new member may not have joined yet; a stranger's voice does not count.
            let known = core.store_of(id).map(|store_id| store_id.to_string());
            let ours = answer.cluster_id.is_empty() || answer.cluster_id == cluster;
            (ours && PlacementId(answer.id) == id && known.as_deref() == Some(&answer.store_id))
                .then_some((id, answer.leader_alive))
        };
    answers.into_iter().filter_map(valid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<PlacementId> {
        ids.iter().copied().map(PlacementId).collect()
    }

    fn ask(configs: &[&[u64]], answers: &[(u64, bool)]) -> bool {
        let configs: Vec<_> = configs.iter().map(|ids| set(ids)).collect();
        let answers = answers.iter().map(|(id, alive)| (PlacementId(*id), *alive)).collect();
        may_campaign(PlacementId(1), &configs, &answers)
    }

    #[test]
    fn a_member_that_comes_back_does_not_depose_a_live_leader() {
        assert!(ask(&[&[1, 2, 3]], &[(2, false)]));
        assert!(ask(&[&[1, 2, 3]], &[(2, false), (3, false)]));
        assert!(!ask(&[&[1, 2, 3]], &[(2, false), (3, true)]), "one hears a leader");
    }

    #[test]
    fn no_campaign_without_a_quorum() {
        assert!(!ask(&[&[1, 2, 3]], &[]));
        assert!(!ask(&[&[1, 2, 3, 4]], &[(2, false)]));
        assert!(ask(&[&[1]], &[]));
        // Both halves of a joint configuration must be reachable.
        assert!(!ask(&[&[1, 2, 3], &[1, 4, 5]], &[(2, false), (3, false)]));
        assert!(ask(&[&[1, 2, 3], &[1, 4, 5]], &[(2, false), (5, false)]));
    }
}
