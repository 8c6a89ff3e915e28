//! The right part of a split range comes to its Raft thread. See docs/ranges.md.

use super::range_state;
use super::worker::Worker;
use crate::replica::INITIAL_POSITION;
use crate::replica::apply::Applier;
use crate::transport::Inbound;
use raft::eraftpb::MessageType;
use rangedb_types::{MonotonicTime, RangeId, ReplicaId};
use std::collections::VecDeque;

/// Votes that may wait for splits to be applied here; the oldest go first.
const EARLY_VOTES_MAX: usize = 256;

/// Requests for votes that came before the split that makes the one they ask.
#[derive(Default)]
pub struct EarlyVotes {
    waiting: VecDeque<Inbound>,
}

impl EarlyVotes {
    /// True for a message that asks for a vote.
    pub(super) fn asks(inbound: &Inbound) -> bool {
        inbound.message.as_ref().is_some_and(|message| {
            let kind = message.get_msg_type();
            matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote)
        })
    }

    /// Keeps a message for a replica that is not here, if it asks for a vote: the newest of each
    /// sender.
    pub(super) fn keep(&mut self, inbound: Inbound) {
        if !Self::asks(&inbound) {
            return;
        }
        let same = |other: &Inbound| {
            (other.range_id, other.from_replica) == (inbound.range_id, inbound.from_replica)
        };
        self.waiting.retain(|other| !same(other));
        if self.waiting.len() >= EARLY_VOTES_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(inbound);
    }

    fn take(&mut self, range_id: RangeId, to: ReplicaId) -> Vec<Inbound> {
        let (taken, kept) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<VecDeque<_>, _>(|inbound| inbound.range_id == range_id);
        self.waiting = kept;
        taken.into_iter().filter(|inbound| inbound.to_replica == to).collect()
    }
}

impl Worker {
    /// Drives the right part of a range that was split; its state is on disk.
    pub(super) fn adopt_split(
        &mut self,
        applier: Applier,
        campaign: bool,
        bytes: u64,
        now: MonotonicTime,
    ) -> Result<(), String> {
        let (range_id, replica_id) = (applier.descriptor.range_id, applier.replica_id);
        // A message may have made it before a restart.
        let stored = self.shared.log.load(replica_id).map_err(|error| error.to_string())?;
        let mut newborn = stored.is_none();
        if let Some(hosted) = self.replicas.get_mut(&range_id) {
            if hosted.core.replica_id > replica_id {
                // A later replica was made by a message of its leader, which proves that this one
                // was removed. The later one waits for its snapshot.
                let range = &applier.descriptor;
                return range_state::destroy(self.shared.engine.as_ref(), range, replica_id);
            }
            if hosted.core.is_initialised() {
                return Err(format!("range {range_id} was here before it was split off"));
            }
            // Our own replica, made by a message that overtook the split: it knows no entries. But its
            // answers may have given a leader its lease, so it is silent as after a start.
            newborn = false;
            hosted.stop();
            self.replicas.remove(&range_id);
        }
        let state = self.reset_log(replica_id, INITIAL_POSITION)?;
        self.adopt(applier, state, now)?;
        if let Some(hosted) = self.replicas.get_mut(&range_id) {
            hosted.handle.set_size(bytes);
            hosted.core.begin_after_split(newborn, campaign);
        }
        for inbound in self.early_votes.take(range_id, replica_id) {
            self.inbound(inbound, now);
        }
        Ok(())
    }
}
