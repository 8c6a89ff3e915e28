//! A range has at most one leader a term.

use crate::replica::Replica;
use rangedb_types::{RangeId, ReplicaId};
use std::collections::HashMap;

/// Every leader that was ever seen.
#[derive(Default)]
pub struct OneLeader {
    leaders: HashMap<(RangeId, u64), ReplicaId>,
}

impl OneLeader {
    pub fn check(&mut self, range_id: RangeId, replica: &Replica) -> Result<(), String> {
        if !replica.is_leader() {
            return Ok(());
        }
        let term = replica.term();
        let known = *self.leaders.entry((range_id, term)).or_insert(replica.replica_id);
        if known == replica.replica_id {
            return Ok(());
        }
        Err(format!(
            "replicas {known} and {} of range {range_id} lead in term {term}",
            replica.replica_id
        ))
    }
}
