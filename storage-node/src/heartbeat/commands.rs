//! What placement orders, and who carries it out.

use super::metrics;
use super::report::Replicas;
use crate::merge::{MergeOrder, Merger};
use crate::replica::membership::ReplicaChangeKind;
use crate::split::{SplitAt, SplitOrder, Splitter};
use crate::store::{ReplicaStatus, Store, StoreError};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rangedb_proto::convert::Malformed;
use rangedb_proto::internal::v1 as wire;
use rangedb_proto::internal::v1::node_command::Command;
use rangedb_proto::internal::v1::node_report::Report;
use rangedb_proto::internal::v1::replica_change::Kind;
use rangedb_types::{Epoch, NodeId, RangeDescriptor, RangeId, Replica, ReplicaId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// The cluster's runtime settings as placement sent them last, as text.
pub type ClusterSettings = Arc<BTreeMap<String, String>>;

/// The store, as placement sees it.
pub trait Hosted: Replicas + Send + Sync {
    fn changed(&self) -> Arc<Notify>;
    fn bootstrap(&self, range: RangeDescriptor) -> BoxFuture<'_, Result<(), StoreError>>;
    fn change_replicas(
        &self,
        range_id: RangeId,
        epoch: Epoch,
        changes: Vec<(ReplicaChangeKind, Replica)>,
        leave_joint: bool,
    );
    fn transfer_leader(&self, range_id: RangeId, epoch: Epoch, to: ReplicaId);
    fn split(&self, order: SplitOrder);
    fn merge(&self, order: MergeOrder);
    fn abort_merge(&self, left: RangeId, version: u64);
    /// A range was measured that nobody had measured before.
    fn found_size(&self, range_id: RangeId, bytes: u64);
}

/// The store with those who do more than it alone can.
pub struct Host {
    pub store: Store,
    pub splitter: Splitter,
    pub merger: Merger,
}

impl Replicas for Host {
    fn replicas_count(&self) -> usize {
        self.store.replicas_count()
    }

    fn range_ids(&self) -> Vec<RangeId> {
        self.store.range_ids()
    }

    fn take_listed(&self) -> Vec<RangeId> {
        self.store.take_listed()
    }

    fn look(&self, range_id: RangeId) -> Option<ReplicaStatus> {
        self.store.look(range_id)
    }
}

impl Hosted for Host {
    fn changed(&self) -> Arc<Notify> {
        self.store.changed()
    }

    fn bootstrap(&self, range: RangeDescriptor) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.bootstrap(range).boxed()
    }

    fn split(&self, order: SplitOrder) {
        self.splitter.begin(order);
    }

    fn merge(&self, order: MergeOrder) {
        self.merger.begin(order);
    }

    fn abort_merge(&self, left: RangeId, version: u64) {
        self.merger.abort(left, version);
    }

    fn found_size(&self, range_id: RangeId, bytes: u64) {
        if let Some(handle) = self.store.replica(range_id) {
            handle.found_size(bytes);
        }
    }

    fn change_replicas(
        &self,
        range_id: RangeId,
        epoch: Epoch,
        changes: Vec<(ReplicaChangeKind, Replica)>,
        leave_joint: bool,
    ) {
        self.store.change_replicas(range_id, epoch, changes, leave_joint);
    }

    fn transfer_leader(&self, range_id: RangeId, epoch: Epoch, to: ReplicaId) {
        self.store.transfer_leader(range_id, epoch, to);
    }
}

/// Where orders go.
pub struct Orders {
    pub hosted: Arc<dyn Hosted>,
    pub settings: watch::Sender<ClusterSettings>,
    /// Called with the addresses of all nodes at every change.
    pub addresses: Box<dyn Fn(HashMap<NodeId, String>) + Send + Sync>,
}

impl Orders {
    /// Carries out a command; returns what is to be reported at once.
    pub(super) async fn carry_out(&self, command: wire::NodeCommand) -> Option<Report> {
        let Some(command) = command.command else {
            tracing::warn!("placement sent a command that this version does not know");
            return None;
        };
        let done = match command {
            Command::BootstrapRange(order) => self.bootstrap(order).await,
            Command::ChangeReplicas(order) => self.change_replicas(order).map(|()| None),
            Command::TransferLeader(order) => self.transfer_leader(order).map(|()| None),
            Command::Config(config) => {
                metrics::COMMANDS.with_label_values(&["config"]).inc();
                self.settings.send_replace(Arc::new(config.settings.into_iter().collect()));
                Ok(None)
            }
            Command::Nodes(nodes) => {
                metrics::COMMANDS.with_label_values(&["nodes"]).inc();
                let nodes = nodes.nodes.into_iter();
                (self.addresses)(nodes.map(|node| (NodeId(node.node_id), node.address)).collect());
                Ok(None)
            }
            Command::SplitRange(order) => self.split(order).map(|()| None),
            Command::MergeRanges(order) => self.merge(order).map(|()| None),
            Command::AbortMerge(order) => {
                metrics::COMMANDS.with_label_values(&["abort_merge"]).inc();
                self.hosted.abort_merge(RangeId(order.left_range_id), order.left_version);
                Ok(None)
            }
            // Registration is answered before the conversation begins.
            Command::Registered(_) => Ok(None),
        };
        done.unwrap_or_else(|error: Malformed| {
            tracing::warn!(%error, "placement sent a command that cannot be read");
            None
        })
    }

    async fn bootstrap(&self, order: wire::BootstrapRange) -> Result<Option<Report>, Malformed> {
        metrics::COMMANDS.with_label_values(&["bootstrap"]).inc();
        let range = order.range.as_ref().ok_or(Malformed("bootstrap without a range"))?;
        let range = RangeDescriptor::try_from(range)?;
        let range_id = range.range_id;
        match self.hosted.bootstrap(range).await {
            Ok(()) => {
                let done = wire::BootstrapDone { range_id: range_id.get() };
                Ok(Some(Report::BootstrapDone(done)))
            }
            Err(error) => {
                tracing::warn!(%range_id, %error, "the first range could not be made");
                Ok(None)
            }
        }
    }

    fn change_replicas(&self, order: wire::ChangeReplicas) -> Result<(), Malformed> {
        metrics::COMMANDS.with_label_values(&["change_replicas"]).inc();
        let epoch = order.epoch.ok_or(Malformed("change of replicas without an epoch"))?;
        let changes: Result<Vec<_>, Malformed> = order
            .changes
            .iter()
            .map(|change| {
                let kind = match Kind::try_from(change.kind) {
                    Ok(Kind::AddLearner) => ReplicaChangeKind::AddLearner,
                    Ok(Kind::Promote) => ReplicaChangeKind::Promote,
                    Ok(Kind::Demote) => ReplicaChangeKind::Demote,
                    Ok(Kind::Remove) => ReplicaChangeKind::Remove,
                    Err(_) => return Err(Malformed("unknown change of a replica")),
                };
                let replica = change.replica.as_ref();
                let replica = replica.ok_or(Malformed("change without a replica"))?;
                Ok((kind, Replica::try_from(replica)?))
            })
            .collect();
        let range_id = RangeId(order.range_id);
        self.hosted.change_replicas(range_id, epoch.into(), changes?, order.leave_joint);
        Ok(())
    }

    fn merge(&self, order: wire::MergeRanges) -> Result<(), Malformed> {
        metrics::COMMANDS.with_label_values(&["merge"]).inc();
        let epoch = |epoch: Option<wire::Epoch>| {
            epoch.map(Epoch::from).ok_or(Malformed("merge without an epoch"))
        };
        self.hosted.merge(MergeOrder {
            left: RangeId(order.left_range_id),
            left_epoch: epoch(order.left_epoch)?,
            right: RangeId(order.right_range_id),
            right_epoch: epoch(order.right_epoch)?,
        });
        Ok(())
    }

    fn split(&self, order: wire::SplitRange) -> Result<(), Malformed> {
        metrics::COMMANDS.with_label_values(&["split"]).inc();
        let epoch = order.epoch.ok_or(Malformed("split without an epoch"))?;
        let at = match order.at {
            Some(wire::split_range::At::Key(key)) => SplitAt::Key(key.into()),
            Some(wire::split_range::At::By(by)) => match wire::split_range::By::try_from(by) {
                Ok(wire::split_range::By::Size) => SplitAt::Size,
                Ok(wire::split_range::By::Load) => SplitAt::Load,
                Err(_) => return Err(Malformed("unknown way to split")),
            },
            None => return Err(Malformed("split without a place")),
        };
        self.hosted.split(SplitOrder {
            range_id: RangeId(order.range_id),
            epoch: epoch.into(),
            at,
            new_range_id: RangeId(order.new_range_id),
            new_replica_ids: order.new_replica_ids.into_iter().map(ReplicaId).collect(),
        });
        Ok(())
    }

    fn transfer_leader(&self, order: wire::TransferLeader) -> Result<(), Malformed> {
        metrics::COMMANDS.with_label_values(&["transfer_leader"]).inc();
        let epoch = order.epoch.ok_or(Malformed("transfer without an epoch"))?;
        let (range_id, to) = (RangeId(order.range_id), ReplicaId(order.to_replica_id));
        self.hosted.transfer_leader(range_id, epoch.into(), to);
        Ok(())
    }
}
