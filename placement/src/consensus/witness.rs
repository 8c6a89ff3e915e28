//! Cheap confirmation that nobody else was elected: members are asked whom they promised their vote.
//!
//! A member that wins an election has a majority's votes for its term. So if a majority, asked after
//! some moment, still holds the leader's vote as its newest, nobody else had been elected before that
//! moment: the argument of ReadIndex (Ongaro's thesis, §6.4), with no log and no clock. The leader
//! asks as few as make a majority, and the rest only when those are slow.
//!
//! Invariant: a vote is in [`Promise`] before anybody outside this process can learn of it.

use super::core::Core;
use super::types::{Membership, Vote};
use crate::state::StoreId;
use futures::StreamExt as _;
use parking_lot::Mutex;
use rangedb_proto::internal::v1 as wire;
use rangedb_types::PlacementId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Questions that may wait for one member; one that takes none is not asked.
const QUESTIONS_MAX: usize = 8;
/// Answers that may wait to be looked at.
const ANSWERS_MAX: usize = 64;
/// How long the first few may take before everybody is asked.
const HEDGE_AFTER: Duration = Duration::from_millis(10);
/// Shortest time between two attempts to reach a member.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// The newest vote this member gave.
#[derive(Clone, Default)]
pub(super) struct Promise(Arc<Mutex<Option<Vote>>>);

impl Promise {
    pub(super) fn give(&self, vote: Vote) {
        *self.0.lock() = Some(vote);
    }

    fn holds(&self, vote: &Vote) -> bool {
        self.0.lock().as_ref().is_some_and(|own| own.leader_id == vote.leader_id)
    }

    pub(super) fn answer(&self, round: u64) -> wire::WitnessResponse {
        let leader = self.0.lock().as_ref().map(|vote| vote.leader_id);
        wire::WitnessResponse {
            round,
            term: leader.map_or(0, |leader| leader.term),
            voted_for_id: leader.and_then(|leader| leader.voted_for()).map_or(0, PlacementId::get),
        }
    }
}

/// What became of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Testimony {
    /// A majority held the vote, at a moment after the round began.
    Held,
    /// Nobody said otherwise, but too few answered in time.
    Silence,
}

/// A stream to one member.
struct Link {
    address: String,
    store_id: StoreId,
    questions: mpsc::Sender<wire::WitnessRequest>,
    opened_at: Instant,
}

struct Answer {
    from: PlacementId,
    response: wire::WitnessResponse,
}

/// The streams to the other members, and the rounds over them. One round at a time.
pub(super) struct Witnesses {
    core: Arc<Core>,
    links: BTreeMap<PlacementId, Link>,
    readers: JoinSet<()>,
    answers: mpsc::Sender<Answer>,
    incoming: mpsc::Receiver<Answer>,
    round: u64,
    /// Who answered the last round in time: asked first.
    prompt: BTreeSet<PlacementId>,
}

impl Witnesses {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let (answers, incoming) = mpsc::channel(ANSWERS_MAX);
        Self {
            core,
            links: BTreeMap::new(),
            readers: JoinSet::new(),
            answers,
            incoming,
            round: 0,
            prompt: BTreeSet::new(),
        }
    }

    /// Asks whether `vote`, this member's own, is still the newest of a majority of every
    /// configuration in `membership`.
    pub(super) async fn ask(
        &mut self,
        vote: &Vote,
        membership: &Membership,
        deadline: Instant,
    ) -> Testimony {
        self.round += 1;
        let own = self.core.own.id;
        let mut held = BTreeSet::from([own]);
        if !self.core.promise.holds(vote) {
            return Testimony::Silence;
        }
        if is_majority(membership, &held) {
            return Testimony::Held;
        }
        let others: Vec<_> = membership.voter_ids().filter(|id| *id != own).collect();
        let mut later = self.choose(&others, membership);
        for id in others.iter().filter(|id| !later.contains(id)) {
            self.question(*id, membership);
        }
        let hedge = deadline.min(Instant::now() + HEDGE_AFTER);
        loop {
            let limit = if later.is_empty() { deadline } else { hedge };
            match timeout_at(limit, self.incoming.recv()).await {
                Ok(Some(answer)) => {
                    if answer.response.round == self.round && says(&answer.response, vote) {
                        held.insert(answer.from);
                    }
                }
                Ok(None) => return Testimony::Silence,
                Err(_) if later.is_empty() => return Testimony::Silence,
                Err(_) => {
                    for id in std::mem::take(&mut later) {
                        self.question(id, membership);
                    }
                }
            }
            if is_majority(membership, &held) {
                self.prompt = held;
                let still = self.core.promise.holds(vote);
                return if still { Testimony::Held } else { Testimony::Silence };
            }
        }
    }

    /// Those who need not be asked at first.
    fn choose(&self, others: &[PlacementId], membership: &Membership) -> BTreeSet<PlacementId> {
        let mut asked = BTreeSet::from([self.core.own.id]);
        let prompt = others.iter().filter(|id| self.prompt.contains(id));
        let rest = others.iter().filter(|id| !self.prompt.contains(id));
        for id in prompt.chain(rest) {
            if is_majority(membership, &asked) {
                break;
            }
            asked.insert(*id);
        }
        others.iter().copied().filter(|id| !asked.contains(id)).collect()
    }

    fn question(&mut self, id: PlacementId, membership: &Membership) {
        let Some(member) = membership.get_node(&id) else { return };
        let address = self.core.own.peers.get(&id).unwrap_or(&member.address);
        let usable = self.links.get(&id).is_some_and(|link| {
            let same = link.address == *address && link.store_id == member.store_id;
            same && (!link.questions.is_closed() || link.opened_at.elapsed() < RECONNECT_PAUSE)
        });
        if !usable {
            let (address, store_id) = (address.clone(), member.store_id);
            self.open(id, address, store_id);
        }
        if let Some(link) = self.links.get(&id) {
            let question = wire::WitnessRequest { envelope: None, round: self.round };
            // A member that is so far behind is as good as silent.
            let _full = link.questions.try_send(question);
        }
    }

    fn open(&mut self, id: PlacementId, address: String, store_id: StoreId) {
        while self.readers.try_join_next().is_some() {}
        let Ok(mut client) = self.core.network.client(&address) else { return };
        let (questions, queue) = mpsc::channel(QUESTIONS_MAX);
        let envelope = self.core.network.envelope(id, store_id, Default::default());
        let hello = wire::WitnessRequest { envelope: Some(envelope), round: 0 };
        let requests = futures::stream::iter([hello]).chain(ReceiverStream::new(queue));
        let answers = self.answers.clone();
        self.readers.spawn(async move {
            let stream = match client.witness(requests).await {
                Ok(response) => response.into_inner(),
                Err(status) => {
                    tracing::debug!(member = %id, %status, "a placement member does not testify");
                    return;
                }
            };
            forward(id, stream, &answers).await;
        });
        self.links.insert(id, Link { address, store_id, questions, opened_at: Instant::now() });
    }
}

async fn forward(
    from: PlacementId,
    mut stream: Streaming<wire::WitnessResponse>,
    answers: &mpsc::Sender<Answer>,
) {
    loop {
        match stream.message().await {
            Ok(Some(response)) => {
                if answers.send(Answer { from, response }).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(member = %from, %status, "a placement member testifies no longer");
                return;
            }
        }
    }
}

fn says(response: &wire::WitnessResponse, vote: &Vote) -> bool {
    let voted_for = vote.leader_id.voted_for().map(PlacementId::get);
    response.term == vote.leader_id.term && Some(response.voted_for_id) == voted_for
}

/// True if `held` is a majority of every configuration: two of them while members change.
fn is_majority(membership: &Membership, held: &BTreeSet<PlacementId>) -> bool {
    let mut configurations = membership.get_joint_config().iter();
    configurations.all(|voters| voters.intersection(held).count() * 2 > voters.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<PlacementId> {
        ids.iter().copied().map(PlacementId).collect()
    }

    #[test]
    fn a_majority_is_one_of_every_configuration() {
        let three = Membership::new(vec![ids(&[1, 2, 3])], None);
        assert!(!is_majority(&three, &ids(&[1])));
        assert!(is_majority(&three, &ids(&[1, 3])));
        assert!(!is_majority(&three, &ids(&[1, 4, 5])));
        let joint = Membership::new(vec![ids(&[1, 2, 3]), ids(&[3, 4, 5])], None);
        assert!(!is_majority(&joint, &ids(&[1, 2, 3])));
        assert!(is_majority(&joint, &ids(&[1, 3, 4])));
        assert!(is_majority(&Membership::new(vec![ids(&[1])], None), &ids(&[1])));
    }

    #[test]
    fn only_the_same_term_and_leader_testify() {
        let vote = Vote::new_committed(7, PlacementId(2));
        let promise = Promise::default();
        assert!(!says(&promise.answer(1), &vote), "no vote was given yet");
        promise.give(Vote::new(7, PlacementId(2)));
        assert!(says(&promise.answer(1), &vote), "a vote that is not committed is a vote");
        promise.give(Vote::new(8, PlacementId(2)));
        assert!(!says(&promise.answer(1), &vote), "the same leader in a later term");
        promise.give(Vote::new(7, PlacementId(3)));
        assert!(!says(&promise.answer(1), &vote));
    }
}
