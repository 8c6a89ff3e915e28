//! What requests keep of a range in this process's memory, beside the replica itself.

use super::Traffic;
use crate::latch::Latches;
use crate::read::{IntentHint, SpecialsCache};
use crate::txn::Waits;
use crate::write::Stamps;
use parking_lot::RwLock;
use rangedb_types::{RangeId, ReplicaId};
use std::collections::HashMap;
use std::sync::Arc;

/// The request-side state of one replica.
pub struct RangeState {
    pub replica_id: ReplicaId,
    pub latches: Latches,
    pub stamps: Arc<Stamps>,
    pub specials: SpecialsCache,
    pub intents: IntentHint,
    pub waits: Waits,
    pub traffic: Traffic,
}

impl RangeState {
    fn new(replica_id: ReplicaId) -> Self {
        Self {
            replica_id,
            latches: Latches::default(),
            stamps: Arc::default(),
            specials: SpecialsCache::default(),
            intents: IntentHint::default(),
            waits: Waits::default(),
            traffic: Traffic::default(),
        }
    }
}

/// The states of all replicas of this node, made when they are first needed.
#[derive(Default)]
pub struct RangeStates {
    states: RwLock<HashMap<RangeId, Arc<RangeState>>>,
}

impl RangeStates {
    /// The state of this replica. Another replica of the same range (it was removed and came back)
    /// starts afresh.
    #[must_use]
    pub fn of(&self, range_id: RangeId, replica_id: ReplicaId) -> Arc<RangeState> {
        if let Some(state) = self.states.read().get(&range_id)
            && state.replica_id == replica_id
        {
            return Arc::clone(state);
        }
        let mut states = self.states.write();
        let state = states.entry(range_id).or_insert_with(|| Arc::new(RangeState::new(replica_id)));
        // Replica ids only grow: a caller that still holds the handle of an older replica must not
        // throw the newer one's state away.
        if state.replica_id < replica_id {
            *state = Arc::new(RangeState::new(replica_id));
        } else if state.replica_id > replica_id {
            return Arc::new(RangeState::new(replica_id));
        }
        Arc::clone(state)
    }

    /// The state of a range, if any request needed it yet.
    #[must_use]
    pub fn get(&self, range_id: RangeId) -> Option<Arc<RangeState>> {
        self.states.read().get(&range_id).cloned()
    }

    pub fn for_each(&self, mut visit: impl FnMut(&RangeState)) {
        self.states.read().values().for_each(|state| visit(state));
    }

    /// Forgets ranges that `keep` does not know any more.
    pub fn retain(&self, keep: impl Fn(RangeId) -> bool) {
        self.states.write().retain(|range_id, _| keep(*range_id));
    }
}
