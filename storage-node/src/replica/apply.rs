//! Applying committed entries. Pure: entries in, a batch and outcomes out.
//!
//! Deterministic: every replica makes the same of the same entries. The range state (descriptor and
//! applied position) is written by the caller in the same batch as the data.

use super::command::{
    BOUNDARY, BoundaryChange, DamagedEntry, MergeName, MergePlan, SplitPlan, decode,
    decode_boundary, decode_change_context,
};
use super::merge::merge;
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
    pub frozen: Option<Freeze>,
    /// Bytes that removals have freed since this process took the replica up: an estimate.
    pub freed_bytes: u64,
    /// Intents that were placed since then.
    pub intents_placed: u64,
}

/// The range is frozen, to become part of its left neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freeze {
    pub name: MergeName,
    /// Its own place in the log.
    pub position: LogPosition,
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
    /// The descriptor or the freeze changed; write it with what is in the batch.
    Boundary,
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
        let mut command = decode(entry.index, &entry.data)?;
        if let Some((epoch, change)) = decode_boundary(entry.index, &mut command)? {
            let position = LogPosition { index: entry.index, term: entry.term };
            return Ok(self.apply_boundary(epoch, change, position));
        }
        if self.frozen.is_some() && command.consistency_check.is_none() {
            return Ok((Outcome::Written, Err(ProposeError::Frozen)));
        }
        if command.epoch_version != self.descriptor.epoch.version {
            return Ok((Outcome::Written, Err(ProposeError::EpochMismatch)));
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
                let is_intent = family == Family::Lock && mutation.value.is_some();
                self.intents_placed += u64::from(is_intent);
                match &mutation.value {
                    Some(value) => batch.put(family, &mutation.key, value),
                    None => batch.delete(family, &mutation.key),
                }
            }
            self.largest_commit = self.largest_commit.max(Timestamp(write.commit_version));
            self.freed_bytes += write.freed_bytes;
        }
        let outcome = match command.consistency_check {
            Some(check) => Outcome::Check { check_id: check.check_id },
            None if special => Outcome::Special,
            None => Outcome::Written,
        };
        Ok((outcome, Ok(())))
    }

    fn apply_boundary(
        &mut self,
        epoch: Epoch,
        change: BoundaryChange,
        position: LogPosition,
    ) -> (Outcome, Result<(), ProposeError>) {
        let refused = (Outcome::Written, Err(ProposeError::EpochMismatch));
        match change {
            BoundaryChange::Thaw(name) => {
                if self.frozen.is_none_or(|freeze| freeze.name != name) {
                    return refused;
                }
                self.frozen = None;
            }
            _ if self.frozen.is_some() => return (Outcome::Written, Err(ProposeError::Frozen)),
            BoundaryChange::Split(plan) => return self.apply_split(epoch, &plan),
            BoundaryChange::Freeze(name) => {
                if epoch != self.descriptor.epoch || self.descriptor.is_joint() {
                    return refused;
                }
                self.frozen = Some(Freeze { name, position });
            }
            BoundaryChange::RaiseVersion(version) => {
                if version != self.descriptor.epoch.version {
                    return refused;
                }
                let epoch = Epoch { version: version + 1, ..self.descriptor.epoch };
                self.descriptor = Arc::new(RangeDescriptor { epoch, ..(*self.descriptor).clone() });
            }
            // One that could be applied was taken out by `wants_merge` and `absorb`.
            BoundaryChange::Merge(_) => return refused,
        }
        (Outcome::Boundary, Ok(()))
    }

    /// What this entry takes in, if it is a merge that is to be applied: then the right range must
    /// come to its freeze first, and the entry is applied by `absorb`.
    ///
    /// # Errors
    /// `DamagedEntry`.
    pub fn wants_merge(&self, entry: &Entry) -> Result<Option<MergePlan>, DamagedEntry> {
        if entry.get_entry_type() != EntryType::EntryNormal || self.frozen.is_some() {
            return Ok(None);
        }
        let mut command = decode(entry.index, &entry.data)?;
        let Some((epoch, BoundaryChange::Merge(plan))) =
            decode_boundary(entry.index, &mut command)?
        else {
            return Ok(None);
        };
        Ok(merge(&self.descriptor, epoch, &plan.right).is_ok().then_some(plan))
    }

    /// Applies a merge, the right range having come to its freeze.
    pub fn absorb(&mut self, entry: &Entry, right: &Self) {
        let merged = merge(&self.descriptor, self.descriptor.epoch, &right.descriptor);
        self.descriptor = Arc::new(merged.expect("the merge was checked before it was waited for"));
        self.largest_commit = self.largest_commit.max(right.largest_commit);
        self.applied = LogPosition { index: entry.index, term: entry.term };
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
        if epoch != old.epoch || self.frozen.is_some() {
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
