//! Applying committed entries. Pure: entries in, a batch and outcomes out.
//!
//! Deterministic: every replica makes the same of the same entries. The range state (descriptor and
//! applied position) is written by the caller in the same batch as the data.

use super::command::{
    BOUNDARY, DamagedEntry, SplitPlan, decode, decode_change_context, decode_split,
};
use super::proposals::ProposeReply;
use super::split::split;
use crate::raft_log::LogPosition;
use crate::store::handle::ProposeError;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, Entry, EntryType};
use rangedb_engine::{Family, WriteBatch};
use rangedb_types::{Epoch, RangeDescriptor, ReplicaId, Span, Timestamp};
use std::sync::Arc;

/// A committed entry, with those who wait for it on this node.
pub struct CommittedEntry {
    pub entry: Entry,
    pub replies: Vec<ProposeReply>,
}

impl CommittedEntry {
    /// True if what came before it must be written out before it is applied.
    #[must_use]
    pub fn is_boundary(&self) -> bool {
        &*self.entry.context == BOUNDARY
    }
}

/// The applied state of one replica.
#[derive(Clone, Debug)]
pub struct Applier {
    pub replica_id: ReplicaId,
    pub descriptor: Arc<RangeDescriptor>,
    pub applied: LogPosition,
    pub largest_commit: Timestamp,
}

/// What applying an entry asks of the host, beyond writing the batch.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// Nothing more.
    Written,
    /// The batch holds fences or range tombstones: readers must reload them.
    Special,
    /// Raft must be told, before it is told that the entry is applied.
    ConfChanged(ConfChangeV2),
    /// This replica is a member no more. Nothing further may be applied.
    Removed(ConfChangeV2),
    /// Write what is in the batch, then compute the checksum of the range.
    Check { check_id: u64 },
    /// The range ends at a new key; this is what became of the rest.
    Split(Box<SplitOff>),
}

/// The right part of a range that was split, as this node has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitOff {
    /// The span before the split.
    pub old_span: Span,
    pub right: RangeDescriptor,
    /// The replica of it that is on this node.
    pub replica_id: ReplicaId,
    pub left_bytes: u64,
    pub right_bytes: u64,
}

impl Applier {
    /// Applies one entry into `batch`. Returns what the host must do and how those who wait are to
    /// be answered once the batch is written.
    ///
    /// # Errors
    /// `DamagedEntry`: the replica must stop, for it can no longer agree with the others.
    pub fn apply(
        &mut self,
        entry: &Entry,
        batch: &mut WriteBatch,
    ) -> Result<(Outcome, Result<(), ProposeError>), DamagedEntry> {
        assert_eq!(entry.index, self.applied.index + 1, "entries are applied in order, none twice");
        let result = match entry.get_entry_type() {
            EntryType::EntryNormal if entry.data.is_empty() => (Outcome::Written, Ok(())),
            EntryType::EntryNormal => self.apply_command(entry, batch)?,
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                self.apply_conf_change(entry)?
            }
        };
        self.applied = LogPosition { index: entry.index, term: entry.term };
        Ok(result)
    }

    fn apply_command(
        &mut self,
        entry: &Entry,
        batch: &mut WriteBatch,
    ) -> Result<(Outcome, Result<(), ProposeError>), DamagedEntry> {
        let command = decode(entry.index, &entry.data)?;
        if command.epoch_version != self.descriptor.epoch.version {
            return Ok((Outcome::Written, Err(ProposeError::EpochMismatch)));
        }
        if let Some(split) = command.split {
            let (epoch, plan) = decode_split(entry.index, split)?;
            return Ok(self.apply_split(epoch, &plan));
        }
        let mut special = false;
        for write in &command.writes {
            for mutation in &write.mutations {
                let family = Family::from_number(mutation.family);
                let family = family.ok_or_else(|| DamagedEntry {
                    index: entry.index,
                    detail: format!("column family {} is not known", mutation.family),
                })?;
                special |= matches!(family, Family::Meta | Family::RangeTombstone);
                match &mutation.value {
                    Some(value) => batch.put(family, &mutation.key, value),
                    None => batch.delete(family, &mutation.key),
                }
            }
            self.largest_commit = self.largest_commit.max(Timestamp(write.commit_version));
        }
        let outcome = match command.consistency_check {
            Some(check) => Outcome::Check { check_id: check.check_id },
            None if special => Outcome::Special,
            None => Outcome::Written,
        };
        Ok((outcome, Ok(())))
    }

    fn apply_split(
        &mut self,
        epoch: Epoch,
        plan: &SplitPlan,
    ) -> (Outcome, Result<(), ProposeError>) {
        let Ok((left, right)) = split(&self.descriptor, epoch, plan) else {
            return (Outcome::Written, Err(ProposeError::EpochMismatch));
        };
        let members = left.replicas.iter().zip(&right.replicas);
        let own = members.into_iter().find(|(left, _)| left.replica_id == self.replica_id);
        let replica_id = own.expect("a replica that applies entries is a member").1.replica_id;
        let old_span = self.descriptor.span.clone();
        self.descriptor = Arc::new(left);
        let (left_bytes, right_bytes) = (plan.left_bytes, plan.right_bytes);
        let off = SplitOff { old_span, right, replica_id, left_bytes, right_bytes };
        (Outcome::Split(Box::new(off)), Ok(()))
    }

    fn apply_conf_change(
        &mut self,
        entry: &Entry,
    ) -> Result<(Outcome, Result<(), ProposeError>), DamagedEntry> {
        let damaged = |detail: String| DamagedEntry { index: entry.index, detail };
        let change = ConfChangeV2::parse_from_bytes(&entry.data)
            .map_err(|error| damaged(error.to_string()))?;
        let (epoch, replicas) = decode_change_context(entry.index, &change.context)?;
        let old = &self.descriptor;
        if epoch != old.epoch {
            return Ok((Outcome::Written, Err(ProposeError::EpochMismatch)));
        }
        let epoch = Epoch { conf_version: epoch.conf_version + 1, ..epoch };
        let descriptor = RangeDescriptor { epoch, replicas, ..(**old).clone() };
        let removed = descriptor.replica(self.replica_id).is_none();
        self.descriptor = Arc::new(descriptor);
        let outcome = if removed { Outcome::Removed(change) } else { Outcome::ConfChanged(change) };
        Ok((outcome, Ok(())))
    }
}
