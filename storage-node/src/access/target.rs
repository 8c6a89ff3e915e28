//! The check every data request passes before anything else.

use super::{RangeAccess, RangeState, RangeStates, Ranges, Refusal};
use crate::latch::Scope;
use crate::store::Leadership;
use rangedb_types::{Epoch, RangeDescriptor, RangeId, Span};
use std::sync::Arc;

/// A range that this node led, with the bounds the request was made for, when the request came.
/// Whatever is done with it must be proposed or confirmed under this same leadership. Cheap to
/// clone: every request of a message has one.
#[derive(Clone)]
pub struct Target {
    parts: Arc<Parts>,
    pub leadership: Leadership,
}

struct Parts {
    access: Arc<dyn RangeAccess>,
    state: Arc<RangeState>,
    /// When the request came; the bounds are those of the leadership, the replicas may be older.
    descriptor: Arc<RangeDescriptor>,
    ranges: Arc<dyn Ranges>,
}

/// Finds the range of a request and checks epoch and leadership. `span` is what the request
/// touches; it is made only for a refusal.
///
/// # Errors
/// `RangeNotFound`, `EpochMismatch`, `NotLeader` or `NotReady`.
pub fn resolve(
    ranges: &Arc<dyn Ranges>,
    states: &RangeStates,
    range_id: RangeId,
    epoch: Epoch,
    span: impl FnOnce() -> Span,
) -> Result<Target, Refusal> {
    let access = ranges.range(range_id).ok_or(Refusal::RangeNotFound(range_id))?;
    let descriptor = access.descriptor();
    if descriptor.epoch.version != epoch.version {
        return Err(Refusal::EpochMismatch { ranges: ranges.overlapping(&span()) });
    }
    let leadership = leadership(&*access, &descriptor)?;
    if leadership.epoch.version != epoch.version {
        return Err(Refusal::NotReady("the range's bounds are changing"));
    }
    let state = states.of(range_id, access.replica_id());
    let parts = Parts { access, state, descriptor, ranges: Arc::clone(ranges) };
    Ok(Target { parts: Arc::new(parts), leadership })
}

fn leadership(
    access: &dyn RangeAccess,
    descriptor: &Arc<RangeDescriptor>,
) -> Result<Leadership, Refusal> {
    if let Some(leadership) = access.leadership() {
        return Ok(leadership);
    }
    match access.leader() {
        Some(leader) if leader.replica_id == access.replica_id() => {
            Err(Refusal::NotReady("the leader has just been elected"))
        }
        leader => Err(Refusal::NotLeader { leader, range: Arc::clone(descriptor) }),
    }
}

impl Target {
    /// The replica.
    #[must_use]
    pub fn access(&self) -> &dyn RangeAccess {
        &*self.parts.access
    }

    /// What requests keep of the range.
    #[must_use]
    pub fn state(&self) -> &Arc<RangeState> {
        &self.parts.state
    }

    #[must_use]
    pub fn range_id(&self) -> RangeId {
        self.parts.descriptor.range_id
    }

    /// The range's bounds.
    #[must_use]
    pub fn span(&self) -> &Span {
        &self.parts.descriptor.span
    }

    /// The Raft term of the leadership.
    #[must_use]
    pub const fn term(&self) -> u64 {
        self.leadership.term
    }

    /// Refuses keys outside the range: the sender's descriptor is not this range's.
    ///
    /// # Errors
    /// `EpochMismatch`.
    pub fn check_key(&self, key: &[u8]) -> Result<(), Refusal> {
        if self.span().contains(key) {
            return Ok(());
        }
        Err(self.epoch_mismatch(&Span::of_key(key)))
    }

    /// As `check_key`, for a whole span.
    ///
    /// # Errors
    /// `EpochMismatch`.
    pub fn check_span(&self, span: &Span) -> Result<(), Refusal> {
        if self.span().covers(span) {
            return Ok(());
        }
        Err(self.epoch_mismatch(span))
    }

    /// As `check_key`, for what a write latches.
    ///
    /// # Errors
    /// `EpochMismatch`.
    pub fn check_scope(&self, scope: &Scope) -> Result<(), Refusal> {
        match scope {
            Scope::Key(key) => self.check_key(key),
            Scope::Keys(keys) => keys.iter().try_for_each(|key| self.check_key(key)),
            Scope::Span(span) => self.check_span(span),
        }
    }

    /// The refusal that carries the current descriptors.
    #[must_use]
    pub fn epoch_mismatch(&self, span: &Span) -> Refusal {
        Refusal::EpochMismatch { ranges: self.parts.ranges.overlapping(span) }
    }

    /// The refusal that names the leader as it is known now.
    #[must_use]
    pub fn not_leader(&self) -> Refusal {
        Refusal::NotLeader { leader: self.access().leader(), range: self.access().descriptor() }
    }

    /// Why the target is not current any more.
    #[must_use]
    pub fn outdated(&self) -> Refusal {
        let descriptor = self.access().descriptor();
        if descriptor.epoch.version == self.leadership.epoch.version {
            return self.not_leader();
        }
        self.epoch_mismatch(self.span())
    }

    /// True if the bounds are still those of the request and no other term began here.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.access().leadership().is_some_and(|now| {
            now.term == self.leadership.term && now.epoch.version == self.leadership.epoch.version
        })
    }

    /// The same range under the leadership it has now. For requests that waited.
    ///
    /// # Errors
    /// `EpochMismatch`, `NotLeader` or `NotReady`.
    pub fn refresh(&mut self) -> Result<(), Refusal> {
        if self.is_current() {
            return Ok(());
        }
        let descriptor = self.access().descriptor();
        if descriptor.epoch.version != self.leadership.epoch.version {
            return Err(self.outdated());
        }
        let now = leadership(self.access(), &descriptor)?;
        if now.epoch.version != self.leadership.epoch.version {
            return Err(Refusal::NotReady("the range's bounds are changing"));
        }
        self.leadership = now;
        Ok(())
    }
}
