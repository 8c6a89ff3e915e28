//! Who this member is, and which messages it may take.
//!
//! Invariant: the store id never changes; the cluster id is set once. A message is taken only if it
//! was meant for this incarnation of this member, of this cluster.

use super::error::Failure;
use crate::state::StoreId;
use rangedb_proto::internal::v1 as wire;
use rangedb_service::DataDir;
use rangedb_types::{ClusterId, PlacementId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// This member.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) id: PlacementId,
    pub(super) store_id: StoreId,
    /// Where the members were said to be, this one included.
    pub(super) peers: BTreeMap<PlacementId, String>,
    data_dir: Arc<DataDir>,
}

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("this is placement member {own}, not {wanted}; correct --peers")]
    OtherMember { own: PlacementId, wanted: PlacementId },
    #[error("placement member {id} has another data folder than the one this message is for")]
    OtherStore { id: PlacementId },
    #[error("placement member {id} speaks from another data folder than the one the quorum knows")]
    ImpostorStore { id: PlacementId },
    #[error("this placement member belongs to cluster {own}, not to {theirs}")]
    OtherCluster { own: ClusterId, theirs: ClusterId },
    #[error("malformed message between placement members: {0}")]
    Malformed(&'static str),
}

impl Refusal {
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::OtherMember { .. } | Self::Malformed(_) => "member",
            Self::OtherStore { .. } | Self::ImpostorStore { .. } => "store",
            Self::OtherCluster { .. } => "cluster",
        }
    }
}

impl Identity {
    pub(super) fn new(
        id: PlacementId,
        peers: BTreeMap<PlacementId, String>,
        data_dir: Arc<DataDir>,
    ) -> Self {
        Self { id, store_id: StoreId(data_dir.store_id()), peers, data_dir }
    }

    pub(super) fn cluster_id(&self) -> Option<ClusterId> {
        self.data_dir.cluster_id()
    }

    pub(super) fn cluster_text(&self) -> String {
        self.cluster_id().map(|id| id.to_string()).unwrap_or_default()
    }

    /// Binds the data folder to a cluster, durably.
    pub(super) async fn join_cluster(&self, cluster_id: ClusterId) -> Result<(), Failure> {
        let data_dir = Arc::clone(&self.data_dir);
        match tokio::task::spawn_blocking(move || data_dir.set_cluster_id(cluster_id)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failure(error.to_string())),
            Err(error) => Err(Failure(error.to_string())),
        }
    }

    /// Checks a message of another member. `known` is the sender's store id as the quorum's
    /// membership has it. Returns the cluster to join if this member belongs to none yet.
    pub(super) fn admit(
        &self,
        request: &wire::ConsensusRequest,
        known: Option<StoreId>,
    ) -> Result<Option<ClusterId>, Refusal> {
        let store = |text: &str| text.parse().map_err(|_| Refusal::Malformed("store id"));
        let wanted = PlacementId(request.to_id);
        if wanted != self.id {
            return Err(Refusal::OtherMember { own: self.id, wanted });
        }
        if store(&request.to_store_id)? != self.store_id {
            return Err(Refusal::OtherStore { id: self.id });
        }
        let from: StoreId = store(&request.from_store_id)?;
        if known.is_some_and(|known| known != from) {
            return Err(Refusal::ImpostorStore { id: PlacementId(request.from_id) });
        }
        let theirs: ClusterId =
            request.cluster_id.parse().map_err(|_| Refusal::Malformed("cluster id"))?;
        match self.cluster_id() {
            None => Ok(Some(theirs)),
            Some(own) if own == theirs => Ok(None),
            Some(own) => Err(Refusal::OtherCluster { own, theirs }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(cluster: Option<u128>) -> (tempfile::TempDir, Identity) {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(folder.path(), "placement", 1).unwrap();
        if let Some(cluster) = cluster {
            data_dir.set_cluster_id(ClusterId(cluster)).unwrap();
        }
        (folder, Identity::new(PlacementId(2), BTreeMap::new(), Arc::new(data_dir)))
    }

    fn message(to: &Identity) -> wire::ConsensusRequest {
        wire::ConsensusRequest {
            cluster_id: ClusterId(7).to_string(),
            from_id: 1,
            from_store_id: StoreId(11).to_string(),
            to_id: 2,
            to_store_id: to.store_id.to_string(),
            payload: Default::default(),
        }
    }

    #[test]
    fn a_message_of_another_cluster_or_incarnation_is_refused() {
        let (_folder, own) = member(Some(7));
        let good = message(&own);
        assert_eq!(own.admit(&good, Some(StoreId(11))), Ok(None));
        assert_eq!(own.admit(&good, None), Ok(None));
        let impostor = own.admit(&good, Some(StoreId(12)));
        assert_eq!(impostor, Err(Refusal::ImpostorStore { id: PlacementId(1) }));
        let other = wire::ConsensusRequest { cluster_id: ClusterId(8).to_string(), ..good.clone() };
        assert!(matches!(own.admit(&other, None), Err(Refusal::OtherCluster { .. })));
        let other = wire::ConsensusRequest { to_id: 3, ..good.clone() };
        assert!(matches!(own.admit(&other, None), Err(Refusal::OtherMember { .. })));
        let other = wire::ConsensusRequest { to_store_id: StoreId(1).to_string(), ..good.clone() };
        assert_eq!(own.admit(&other, None), Err(Refusal::OtherStore { id: PlacementId(2) }));
        // Also if the sender did not know whom it speaks to.
        let other = wire::ConsensusRequest { to_store_id: String::new(), ..good };
        assert!(matches!(own.admit(&other, None), Err(Refusal::Malformed(_))));
    }

    #[test]
    fn a_member_without_a_cluster_joins_the_one_that_speaks_to_it() {
        let (_folder, own) = member(None);
        assert_eq!(own.admit(&message(&own), None), Ok(Some(ClusterId(7))));
    }
}
