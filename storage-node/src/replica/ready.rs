//! Collecting what a replica wants done, and going on once it is done.

use super::apply::CommittedEntry;
use super::command::encode_writes;
use super::core::Replica;
use super::membership;
use crate::raft_log::{LogChange, LogPosition};
use crate::store::handle::{ProposeError, ReadError};
use raft::Ready;
use raft::eraftpb::{Entry, HardState, Message};
use rangedb_types::{MonotonicTime, RangeDescriptor};
use std::sync::Arc;

/// Most bytes of writes in one entry, unless a single write is larger.
const ENTRY_BYTES_TARGET: usize = 1 << 20;
/// Most writes in one entry.
const ENTRY_WRITES_MAX: usize = 1024;
/// Committed entries that may wait to be applied before proposals are refused.
const APPLY_LAG_MAX: u64 = 20_000;

/// What a replica wants done before `persisted` may be called.
#[derive(Default)]
pub struct Effects {
    pub log: Vec<LogChange>,
    pub must_sync: bool,
    /// May leave before the log is written.
    pub send_now: Vec<Message>,
    pub apply: Vec<CommittedEntry>,
    /// Install this snapshot first, then call `snapshot_installed`.
    pub install: Option<LogPosition>,
}

/// What may be done once the log is written.
#[derive(Default)]
pub struct Persisted {
    pub send: Vec<Message>,
    pub apply: Vec<CommittedEntry>,
}

/// A Ready whose log changes are being written.
pub(super) struct InFlight {
    ready: Ready,
    deferred: Vec<Message>,
    last: Option<LogPosition>,
    hard_state: Option<HardState>,
    snapshot: Option<LogPosition>,
    entries: Vec<Entry>,
}

impl Replica {
    /// Collects what is to be done. `None` if nothing is, or while the last is being done.
    pub fn ready(&mut self, now: MonotonicTime) -> Option<Effects> {
        if self.in_flight.is_some() {
            return None;
        }
        self.flush_writes();
        self.start_round(now);
        self.note_leadership();
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        self.take_read_states(&mut ready);
        let stored = self.node.store().hard_state();
        let new_vote =
            ready.hs().is_some_and(|state| state.term != stored.term || state.vote != stored.vote);
        let mut effects = Effects { must_sync: ready.must_sync(), ..Effects::default() };
        let messages = ready.take_messages();
        // A new term or vote is on disk before anything leaves, whatever the library says.
        let deferred = if new_vote {
            messages
        } else {
            effects.send_now = messages;
            Vec::new()
        };
        let committed = ready.take_committed_entries();
        effects.apply = self.with_replies(committed);
        let entries = ready.take_entries();
        let hard_state = ready.hs().cloned();
        let last = entries.last().map(|entry| LogPosition { index: entry.index, term: entry.term });
        let mut in_flight =
            InFlight { ready, deferred, last, hard_state, snapshot: None, entries: Vec::new() };
        let metadata = in_flight.ready.snapshot().get_metadata();
        if metadata.index > 0 {
            let position = LogPosition { index: metadata.index, term: metadata.term };
            in_flight.snapshot = Some(position);
            in_flight.entries = entries;
            effects.install = Some(position);
        } else {
            // A new commit index alone is not worth a write: after a restart it follows from what is
            // applied, and from the leader. But it goes with the next entries: one that changes
            // members relies on its log to know that the change before it is committed.
            let state =
                in_flight.hard_state.as_ref().unwrap_or_else(|| self.node.store().hard_state());
            let state = (effects.must_sync && *state != self.written).then(|| state.clone());
            self.log_changes(entries, state, &mut effects.log);
        }
        self.in_flight = Some(in_flight);
        Some(effects)
    }

    fn log_changes(
        &mut self,
        entries: Vec<Entry>,
        state: Option<HardState>,
        log: &mut Vec<LogChange>,
    ) {
        let replica_id = self.replica_id;
        if let Some(last) = entries.last() {
            let bytes = entries.iter().map(|entry| entry.data.len() as u64 + 32).sum();
            self.sizer.appended(last.index, bytes);
            log.push(LogChange::Append { replica_id, entries });
        }
        if let Some(hard_state) = state {
            self.written = hard_state.clone();
            log.push(LogChange::SetHardState { replica_id, hard_state });
        }
    }

    /// The snapshot that `ready` asked for is in the data store, durably. Returns the log changes
    /// that must be synced before `persisted`.
    pub fn snapshot_installed(&mut self, descriptor: Arc<RangeDescriptor>) -> Vec<LogChange> {
        let mut in_flight = self.in_flight.take().expect("a snapshot is being installed");
        let position = in_flight.snapshot.expect("a snapshot is being installed");
        let mut state =
            in_flight.hard_state.clone().unwrap_or_else(|| self.node.store().hard_state().clone());
        state.commit = state.commit.max(position.index);
        in_flight.hard_state = Some(state.clone());
        self.written = state.clone();
        let replica_id = self.replica_id;
        let mut log = vec![LogChange::ResetTo { replica_id, position, hard_state: state }];
        let entries = std::mem::take(&mut in_flight.entries);
        self.log_changes(entries, None, &mut log);
        self.descriptor = descriptor;
        self.applied = position;
        self.handed = position.index;
        self.wants_snapshot = false;
        self.newborn |= self.unheard;
        self.in_flight = Some(in_flight);
        log
    }

    /// The log changes of `ready` are written (and synced, if it said so).
    pub fn persisted(&mut self) -> Persisted {
        let Some(mut in_flight) = self.in_flight.take() else {
            return Persisted::default();
        };
        let store = self.node.mut_store();
        if let Some(position) = in_flight.snapshot {
            store.note_reset(position);
            store.note_conf_state(membership::conf_state(&self.descriptor.replicas));
        }
        if let Some(last) = in_flight.last {
            store.note_appended(last);
        }
        if let Some(state) = in_flight.hard_state {
            store.note_hard_state(state);
        }
        let mut send = in_flight.deferred;
        send.extend(in_flight.ready.take_persisted_messages());
        let mut light = self.node.advance_append(in_flight.ready);
        if let Some(commit) = light.commit_index() {
            self.node.mut_store().note_commit(commit);
        }
        if in_flight.snapshot.is_some() {
            self.node.advance_apply_to(self.applied.index);
        }
        send.extend(light.take_messages());
        let committed = light.take_committed_entries();
        Persisted { send, apply: self.with_replies(committed) }
    }

    fn with_replies(&mut self, entries: Vec<Entry>) -> Vec<CommittedEntry> {
        if let Some(last) = entries.last() {
            self.handed = last.index;
        }
        let with_reply = |entry: Entry| {
            let replies = self.proposals.take(entry.index, entry.term);
            CommittedEntry { entry, replies }
        };
        entries.into_iter().map(with_reply).collect()
    }

    /// Writes that arrived together enter the log together.
    fn flush_writes(&mut self) {
        if self.writes.is_empty() {
            return;
        }
        let (term, version) = (self.term(), self.descriptor.epoch.version);
        let leads = self.leadership_established();
        let lag = self.node.raft.raft_log.committed.saturating_sub(self.applied.index);
        let mut batch = Vec::new();
        let (mut replies, mut bytes) = (Vec::new(), 0);
        for write in std::mem::take(&mut self.writes) {
            let refused = if !leads || write.term != term {
                Some(ProposeError::NotLeader)
            } else if self.frozen {
                Some(ProposeError::Frozen)
            } else if write.epoch_version != version {
                Some(ProposeError::EpochMismatch)
            } else if lag > APPLY_LAG_MAX {
                Some(ProposeError::Overloaded)
            } else {
                None
            };
            if let Some(error) = refused {
                (write.reply)(Err(error));
                continue;
            }
            let full =
                bytes + write.size_bytes > ENTRY_BYTES_TARGET || batch.len() >= ENTRY_WRITES_MAX;
            if full && !batch.is_empty() {
                let data = encode_writes(version, std::mem::take(&mut batch));
                self.propose(data, std::mem::take(&mut replies));
                bytes = 0;
            }
            bytes += write.size_bytes;
            batch.push(write.command);
            replies.push(write.reply);
        }
        if !batch.is_empty() {
            self.propose(encode_writes(version, batch), replies);
        }
    }

    /// Starts a ReadIndex round if reads wait for one or the lease wants renewal.
    fn start_round(&mut self, now: MonotonicTime) {
        if !self.leadership_established() || self.is_asleep() {
            return;
        }
        if self.ticks_to_round > 0 && !self.reads.wants_round() {
            return;
        }
        self.ticks_to_round = self.options.round_ticks;
        let context = self.reads.start_round(now);
        self.node.read_index(context.to_be_bytes().to_vec());
    }

    fn take_read_states(&mut self, ready: &mut Ready) {
        for state in ready.take_read_states() {
            let Ok(context) = <[u8; 8]>::try_from(state.request_ctx.as_slice()) else {
                continue;
            };
            let context = u64::from_be_bytes(context);
            if let Some(sent) = self.reads.confirm(context, state.index)
                && self.boundary.is_none()
                && !self.frozen
            {
                self.lease.confirm(self.term(), sent, self.options.lease_length());
            }
        }
        self.reads.applied(self.applied.index);
    }

    /// When leadership of a term ended, whoever waits for it must not wait on.
    fn note_leadership(&mut self) {
        let leads = self.is_leader().then_some(self.term());
        if leads == self.led_term {
            return;
        }
        if self.led_term.is_some() {
            self.lease.revoke();
            self.boundary = None;
            self.proposals.fail_all();
            self.reads.fail_all(&ReadError::NotLeader);
        }
        if leads.is_some() {
            self.last_contact.clear();
            self.started_leading();
        }
        self.led_term = leads;
    }

    fn started_leading(&mut self) {
        self.ticks_to_round = 0;
        self.snapshots_out.clear();
    }
}
