//! No two nodes hold a lease for one key at a time.

use crate::store::ReplicaHandle;
use rangedb_types::{NodeId, RangeDescriptor};
use std::sync::Arc;

/// The leases that hold right now.
#[derive(Default)]
pub struct OneLease {
    held: Vec<(NodeId, Arc<RangeDescriptor>)>,
}

impl OneLease {
    /// Looks at one replica; call for all replicas of all nodes at one moment.
    pub fn check(&mut self, node_id: NodeId, handle: &ReplicaHandle) -> Result<(), String> {
        let Some(leadership) = handle.leadership() else { return Ok(()) };
        if !handle.lease_holds(leadership.term) {
            return Ok(());
        }
        let range = handle.descriptor();
        let overlap = self.held.iter().find(|(_, other)| other.span.overlaps(&range.span));
        if let Some((other_node, other)) = overlap {
            return Err(format!(
                "node {node_id} for {range:?} and node {other_node} for {other:?} at once"
            ));
        }
        self.held.push((node_id, range));
        Ok(())
    }
}
