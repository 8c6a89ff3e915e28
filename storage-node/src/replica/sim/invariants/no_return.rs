//! A replica that was removed from a node never comes back there: not to vote, not to answer, not at all.

use rangedb_types::{NodeId, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};

/// Which replicas each node has, and had.
#[derive(Default)]
pub struct NoReturn {
    nodes: BTreeMap<NodeId, Lives>,
}

#[derive(Default)]
struct Lives {
    /// Those that had state when the node was last looked at.
    present: BTreeSet<ReplicaId>,
    gone: BTreeSet<ReplicaId>,
}

impl NoReturn {
    /// Looks at the replicas that a node drives, and whether they are initialised.
    pub fn check(
        &mut self,
        node_id: NodeId,
        replicas: impl Iterator<Item = (ReplicaId, bool)>,
    ) -> Result<(), String> {
        let lives = self.nodes.entry(node_id).or_default();
        let (mut all, mut initialised) = (BTreeSet::new(), BTreeSet::new());
        for (replica_id, is_initialised) in replicas {
            all.insert(replica_id);
            if is_initialised {
                initialised.insert(replica_id);
            }
        }
        if let Some(replica_id) = lives.gone.intersection(&all).next() {
            return Err(format!(
                "replica {replica_id} was removed from node {node_id} and is back"
            ));
        }
        lives.gone.extend(lives.present.difference(&all));
        lives.present = initialised;
        Ok(())
    }

    /// A replica spoke.
    pub fn check_speaker(&self, node_id: NodeId, replica_id: ReplicaId) -> Result<(), String> {
        let gone = self.nodes.get(&node_id).is_some_and(|lives| lives.gone.contains(&replica_id));
        if gone {
            return Err(format!("replica {replica_id} was removed from node {node_id} and speaks"));
        }
        Ok(())
    }
}
