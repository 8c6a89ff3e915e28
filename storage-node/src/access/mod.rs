//! What the data path (`read`, `write`, `service`) sees of the ranges on this node.
//!
//! Owns: the two traits behind which the store, the oracle's client and the fakes of the tests
//! stand; the check every request passes first; the refusals a request can meet. Must not know:
//! Raft, tonic, what a request does.

mod error;
mod state;
mod target;
mod traffic;

pub use error::Refusal;
pub use state::{RangeState, RangeStates};
pub use target::{Target, resolve};
pub use traffic::{Totals, Traffic};

use crate::store::{Leadership, ProposeError, ReadError, ReplicaHandle, Store};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rangedb_placement_client::{PlacementError, TimestampClient};
use rangedb_proto::internal::v1::WriteCommand;
use rangedb_types::{RangeDescriptor, RangeId, Replica, ReplicaId, Span, Timestamp};
use std::sync::Arc;
use tokio::time::Instant;

/// The ranges that have a replica on this node.
pub trait Ranges: Send + Sync {
    fn range(&self, range_id: RangeId) -> Option<Arc<dyn RangeAccess>>;

    /// Descriptors of those that hold any key of `span`, in key order.
    fn overlapping(&self, span: &Span) -> Vec<RangeDescriptor>;
}

/// One replica, as requests use it. See the methods of the same names of the store's handle.
pub trait RangeAccess: Send + Sync {
    fn range_id(&self) -> RangeId;
    fn replica_id(&self) -> ReplicaId;
    fn descriptor(&self) -> Arc<RangeDescriptor>;
    fn leader(&self) -> Option<Replica>;

    /// Present only while this replica leads and has applied the first entry of its term, so that
    /// everything acknowledged by earlier leaders is in the engine.
    fn leadership(&self) -> Option<Leadership>;

    fn lease_holds(&self, term: u64) -> bool;

    /// After it succeeds, the engine holds everything acknowledged before the call.
    fn read_index(&self) -> BoxFuture<'_, Result<(), ReadError>>;

    /// Resolves when the fate of the write at this leader is settled; dropping the future does not
    /// take the proposal back.
    fn propose(
        &self,
        leadership: Leadership,
        write: WriteCommand,
    ) -> BoxFuture<'static, Result<(), ProposeError>>;

    fn largest_commit(&self) -> Timestamp;

    fn applied_index(&self) -> u64;

    /// The greatest version that is closed for a state in which so much is applied; zero: none.
    fn closed_at(&self, applied_index: u64) -> Timestamp;

    /// Grows when fences or range tombstones change; odd while such a change is being applied.
    fn special_generation(&self) -> u64;

    /// Grows when intents are placed; odd while they are being applied.
    fn intent_generation(&self) -> u64;
}

/// Where timestamps come from.
pub trait Timestamps: Send + Sync {
    /// A timestamp made after this call began.
    fn get(&self, deadline: Instant) -> BoxFuture<'_, Result<Timestamp, Refusal>>;

    /// The largest one this process ever received.
    fn latest_seen(&self) -> Timestamp;
}

impl Timestamps for TimestampClient {
    fn get(&self, deadline: Instant) -> BoxFuture<'_, Result<Timestamp, Refusal>> {
        async move {
            TimestampClient::get(self, deadline).await.map_err(|error| match error {
                PlacementError::Overloaded => Refusal::Overloaded("too many timestamps are asked"),
                error => Refusal::NoTimestamp(error.to_string()),
            })
        }
        .boxed()
    }

    fn latest_seen(&self) -> Timestamp {
        TimestampClient::latest_seen(self)
    }
}

impl Ranges for Store {
    fn range(&self, range_id: RangeId) -> Option<Arc<dyn RangeAccess>> {
        self.replica(range_id).map(|replica| replica as Arc<dyn RangeAccess>)
    }

    fn overlapping(&self, span: &Span) -> Vec<RangeDescriptor> {
        Store::overlapping(self, span)
    }
}

impl RangeAccess for ReplicaHandle {
    fn range_id(&self) -> RangeId {
        ReplicaHandle::range_id(self)
    }

    fn replica_id(&self) -> ReplicaId {
        ReplicaHandle::replica_id(self)
    }

    fn descriptor(&self) -> Arc<RangeDescriptor> {
        ReplicaHandle::descriptor(self)
    }

    fn leader(&self) -> Option<Replica> {
        ReplicaHandle::leader(self)
    }

    fn leadership(&self) -> Option<Leadership> {
        ReplicaHandle::leadership(self)
    }

    fn lease_holds(&self, term: u64) -> bool {
        ReplicaHandle::lease_holds(self, term)
    }

    fn read_index(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        ReplicaHandle::read_index(self).boxed()
    }

    fn propose(
        &self,
        leadership: Leadership,
        write: WriteCommand,
    ) -> BoxFuture<'static, Result<(), ProposeError>> {
        ReplicaHandle::propose(self, leadership, write).boxed()
    }

    fn largest_commit(&self) -> Timestamp {
        ReplicaHandle::largest_commit(self)
    }

    fn applied_index(&self) -> u64 {
        ReplicaHandle::applied_index(self)
    }

    fn closed_at(&self, applied_index: u64) -> Timestamp {
        self.closed().at(applied_index)
    }

    fn special_generation(&self) -> u64 {
        ReplicaHandle::special_generation(self)
    }

    fn intent_generation(&self) -> u64 {
        ReplicaHandle::intent_generation(self)
    }
}

#[cfg(test)]
pub mod testing;
