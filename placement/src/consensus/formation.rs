//! How a quorum is formed exactly once, and how members come back to it. The protocol and what a
//! crash does at each of its steps are written down in `docs/placement.md`.

use super::core::Core;
use super::error::Failure;
use super::identity::Identity;
use super::types::Member;
use crate::state::StoreId;
use openraft::error::{InitializeError, RaftError};
use rangedb_proto::internal::v1 as wire;
use rangedb_types::{ClusterId, PlacementId, Random as _, SystemRandom};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause between two looks at the peers.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a peer may take to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// What is waited for is said again after this many looks.
const LOOKS_PER_REMINDER: u32 = 100;

/// What a peer said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    id: PlacementId,
    store_id: StoreId,
    cluster_id: Option<ClusterId>,
    /// The store id under which the peer knows this member.
    known_store_id: Option<StoreId>,
    peer_ids: BTreeSet<PlacementId>,
}

impl Answer {
    fn read(answer: &wire::ProbeResponse) -> Option<Self> {
        let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Some(Self {
            id: PlacementId(answer.id),
            store_id: answer.store_id.parse().ok()?,
            cluster_id: optional(&answer.cluster_id).map(|id| id.parse()).transpose().ok()?,
            known_store_id: optional(&answer.known_store_id)
                .map(|id| id.parse())
                .transpose()
                .ok()?,
            peer_ids: answer.peer_ids.iter().copied().map(PlacementId).collect(),
        })
    }
}

/// What this member is, as far as formation is concerned.
struct Situation<'a> {
    id: PlacementId,
    store_id: StoreId,
    cluster_id: Option<ClusterId>,
    peers: &'a BTreeMap<PlacementId, String>,
    /// The member has the quorum's membership in its log.
    formed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing more to find out.
    Done,
    /// Look again later; what is missing, in words.
    Wait(String),
    /// All members are here and none belongs to a cluster: form one of these.
    Form(BTreeMap<PlacementId, Member>),
    Refuse(Failure),
}

/// Decides from what the peers said. Peers that did not answer are missing in `answers`.
fn judge(own: &Situation<'_>, answers: &BTreeMap<PlacementId, Answer>) -> Verdict {
    let refuse = |text: String| Verdict::Refuse(Failure(text));
    for (expected, answer) in answers {
        if answer.id != *expected {
            let address = own.peers.get(expected).map_or("", String::as_str);
            return refuse(format!(
                "--peers says that placement member {expected} is at {address}, but member {} answers there; correct --peers",
                answer.id
            ));
        }
    }
    let clusters: BTreeSet<ClusterId> =
        answers.values().filter_map(|peer| peer.cluster_id).collect();
    match own.cluster_id {
        Some(own_cluster) if !clusters.is_empty() && !clusters.contains(&own_cluster) => {
            return refuse(format!(
                "this data folder belongs to cluster {own_cluster}, but the members in --peers belong to another one; correct --peers or --data-dir"
            ));
        }
        None if clusters.len() > 1 => {
            return refuse(
                "the members in --peers belong to different clusters; correct --peers".to_owned(),
            );
        }
        _ => {}
    }
    let ours = |peer: &&Answer| own.cluster_id.is_none() || peer.cluster_id == own.cluster_id;
    let known = answers.values().filter(ours).find_map(|peer| peer.known_store_id);
    if let Some(known) = known.filter(|known| *known != own.store_id) {
        return refuse(format!(
            "placement member {id} is known to its cluster with another data folder (store {known}), so this one was wiped or replaced; bring the old folder back, or run `rangedb-cli admin placement remove {id}` and add the member under a new id",
            id = own.id
        ));
    }
    if own.formed {
        return Verdict::Done;
    }
    if clusters.iter().any(|cluster| Some(*cluster) != own.cluster_id) {
        return Verdict::Wait(format!(
            "the cluster to take this member in (`rangedb-cli admin placement add {} HOST:PORT` if it is a new one)",
            own.id
        ));
    }
    let lowest = own.peers.keys().next().copied().unwrap_or(own.id);
    if lowest != own.id {
        return Verdict::Wait(format!("placement member {lowest} to form the quorum"));
    }
    form(own, answers)
}

/// The lowest member's decision.
fn form(own: &Situation<'_>, answers: &BTreeMap<PlacementId, Answer>) -> Verdict {
    let ids: BTreeSet<PlacementId> = own.peers.keys().copied().collect();
    if let Some(other) = answers.values().find(|peer| peer.peer_ids != ids) {
        return Verdict::Refuse(Failure(format!(
            "placement member {} was started with other members in --peers than this one; give all of them the same list",
            other.id
        )));
    }
    let mut members = BTreeMap::new();
    let mut missing = Vec::new();
    for (id, address) in own.peers {
        let store_id = if *id == own.id {
            Some(own.store_id)
        } else {
            answers.get(id).map(|peer| peer.store_id)
        };
        match store_id {
            Some(store_id) => {
                members.insert(*id, Member { address: address.clone(), store_id });
            }
            None => missing.push(format!("{id} at {address}")),
        }
    }
    if missing.is_empty() {
        Verdict::Form(members)
    } else {
        Verdict::Wait(format!("placement member {}", missing.join(", ")))
    }
}

/// Runs until this member belongs to a quorum and its peers do not object.
pub(super) async fn run(core: &Core, cancel: &CancellationToken) {
    let mut looks: u32 = 0;
    let mut said = String::new();
    loop {
        let answers = tokio::select! {
            () = cancel.cancelled() => return,
            answers = look(core) => answers,
        };
        let own: &Identity = &core.own;
        let situation = Situation {
            id: own.id,
            store_id: own.store_id,
            cluster_id: own.cluster_id(),
            peers: &own.peers,
            formed: core.is_formed(),
        };
        match judge(&situation, &answers) {
            Verdict::Done => return,
            Verdict::Refuse(failure) => return core.fail(failure),
            Verdict::Form(members) => match initialize(core, members).await {
                Ok(()) => return,
                Err(failure) => return core.fail(failure),
            },
            Verdict::Wait(what) => {
                if what != said || looks.is_multiple_of(LOOKS_PER_REMINDER) {
                    tracing::info!("waiting for {what}");
                    said = what;
                }
            }
        }
        looks = looks.wrapping_add(1);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn look(core: &Core) -> BTreeMap<PlacementId, Answer> {
    let others = core.own.peers.iter().filter(|(id, _)| **id != core.own.id);
    let others = others.map(|(id, address)| (*id, address.clone()));
    let answers = core.network.probe_all(others, PROBE_TIMEOUT).await;
    let read = |(id, answer): (_, Option<wire::ProbeResponse>)| Some((id, Answer::read(&answer?)?));
    answers.into_iter().filter_map(read).collect()
}

/// The cluster id is durable before anybody else hears of it: after a crash the same cluster is
/// formed, not a second one.
async fn initialize(core: &Core, members: BTreeMap<PlacementId, Member>) -> Result<(), Failure> {
    let cluster_id = match core.own.cluster_id() {
        Some(cluster_id) => cluster_id,
        None => {
            let cluster_id = ClusterId(SystemRandom.next_id());
            core.own.join_cluster(cluster_id).await?;
            cluster_id
        }
    };
    tracing::info!(%cluster_id, members = members.len(), "forming the quorum");
    match core.raft.initialize(members).await {
        // Not allowed: the log has something already, so this was done before.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(Failure(format!("the quorum cannot be formed: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> BTreeMap<PlacementId, String> {
        (1..=3).map(|id| (PlacementId(id), format!("host{id}:1"))).collect()
    }

    fn fresh(id: u64) -> Answer {
        Answer {
            id: PlacementId(id),
            store_id: StoreId(u128::from(id)),
            cluster_id: None,
            known_store_id: None,
            peer_ids: peers().keys().copied().collect(),
        }
    }

    fn in_cluster(id: u64, cluster: u128, known: Option<u128>) -> Answer {
        Answer {
            cluster_id: Some(ClusterId(cluster)),
            known_store_id: known.map(StoreId),
            ..fresh(id)
        }
    }

    fn verdict(id: u64, cluster: Option<u128>, formed: bool, answers: &[Answer]) -> Verdict {
        let peers = peers();
        let own = Situation {
            id: PlacementId(id),
            store_id: StoreId(u128::from(id)),
            cluster_id: cluster.map(ClusterId),
            peers: &peers,
            formed,
        };
        let expected = (1..=3).map(PlacementId).filter(|peer| peer.get() != id);
        let answers: BTreeMap<_, _> = answers
            .iter()
            .map(|answer| {
                let position = expected.clone().find(|id| *id == answer.id);
                (position.unwrap_or(PlacementId(2)), answer.clone())
            })
            .collect();
        judge(&own, &answers)
    }

    fn refusal(verdict: Verdict) -> String {
        match verdict {
            Verdict::Refuse(failure) => failure.to_string(),
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn the_lowest_member_forms_the_quorum_once_all_are_there() {
        assert!(matches!(verdict(1, None, false, &[]), Verdict::Wait(_)));
        assert!(matches!(verdict(1, None, false, &[fresh(2)]), Verdict::Wait(_)));
        let Verdict::Form(members) = verdict(1, None, false, &[fresh(2), fresh(3)]) else {
            panic!("all are there");
        };
        assert_eq!(members[&PlacementId(3)].store_id, StoreId(3));
        assert!(matches!(verdict(2, None, false, &[fresh(1), fresh(3)]), Verdict::Wait(_)));
    }

    #[test]
    fn a_crash_in_the_middle_of_formation_forms_the_same_cluster() {
        // The id was written, the quorum was not begun; others may have joined already.
        let answers = [fresh(2), in_cluster(3, 7, None)];
        assert!(matches!(verdict(1, Some(7), false, &answers), Verdict::Form(_)));
    }

    #[test]
    fn an_emptied_folder_under_a_known_id_is_refused() {
        let answers = [in_cluster(2, 7, Some(99))];
        let text = refusal(verdict(1, None, false, &answers));
        assert!(text.contains("wiped") && text.contains("placement remove 1"), "{text}");
        // Even if the peer is alone, and however many are silent.
        assert!(matches!(
            verdict(3, None, false, &[in_cluster(1, 7, Some(99))]),
            Verdict::Refuse(_)
        ));
    }

    #[test]
    fn an_emptied_folder_never_forms_a_second_cluster() {
        // The peer that answers never learned the membership; the one that did is away.
        assert!(matches!(verdict(1, None, false, &[in_cluster(2, 7, None)]), Verdict::Wait(_)));
        assert!(matches!(verdict(1, None, false, &[fresh(2)]), Verdict::Wait(_)));
    }

    #[test]
    fn members_of_another_cluster_are_refused() {
        let answers = [in_cluster(2, 8, None), in_cluster(3, 8, None)];
        assert!(refusal(verdict(1, Some(7), true, &answers)).contains("another one"));
        let answers = [in_cluster(2, 8, None), in_cluster(3, 9, None)];
        assert!(refusal(verdict(1, None, false, &answers)).contains("different clusters"));
        // One stranger does not stop a member that has found its own.
        let answers = [in_cluster(2, 8, Some(5)), in_cluster(3, 7, Some(1))];
        assert_eq!(verdict(1, Some(7), true, &answers), Verdict::Done);
    }

    #[test]
    fn wrong_peers_are_refused() {
        let text = refusal(verdict(1, None, false, &[fresh(4)]));
        assert!(text.contains("member 4 answers there"), "{text}");
        let other = Answer { peer_ids: [PlacementId(1), PlacementId(2)].into(), ..fresh(2) };
        let text = refusal(verdict(1, None, false, &[other, fresh(3)]));
        assert!(text.contains("same list"), "{text}");
    }

    #[test]
    fn a_formed_member_rejoins_whoever_is_there() {
        assert_eq!(verdict(2, Some(7), true, &[]), Verdict::Done);
        assert_eq!(verdict(2, Some(7), true, &[in_cluster(1, 7, Some(2))]), Verdict::Done);
    }
}
