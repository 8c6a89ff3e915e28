//! The placement state machine: commands in, responses and events out.
//!
//! Owns: the meaning of every command, and the `_/` metadata, which is all the state there is. The
//! typed tables are an index of the metadata and can always be rebuilt from it.
//! Must not know: files, sockets, clocks, random sources, Raft. Everything comes as an argument.
//! Invariants: the same commands give the same metadata, byte for byte, on every member; a command
//! that changes something raises the revision by exactly one, any other leaves it alone.

mod command;
mod decide;
mod hold;
mod meta;
mod ranges;
mod records;
pub mod settings;
mod snapshot;
mod wish;

pub use command::{Command, IDS_PER_CALL_MAX, RANGES_PER_REPORT_MAX, Rejection, Response};
pub use hold::{HOLD_TTL_MAX, HOLD_WORDS_MAX, HOLDS_MAX, Hold};
pub use meta::{Compacted, HISTORY_EVENTS_MAX, META_VALUE_BYTES_MAX, MetaEntry, MetaEvent};
pub use records::{InvalidStoreId, Locality, MemberRecord, NodeRecord, NodeState, StoreId};
pub use settings::SettingView;
pub use snapshot::SnapshotError;
pub use wish::{Goal, StoredKey, WISHES_MAX, WISHES_PER_CALL_MAX, Wish, WishedKey};

use meta::MetaMap;
use rangedb_types::{ClusterId, NodeId, PlacementId, RangeDescriptor, RangeId, Span, Timestamp};
use ranges::RangeMap;
use records::RangeRecord;
use std::collections::BTreeMap;
use std::time::Duration;

/// Prefix of all metadata.
pub const META_PREFIX: &str = "_/";
const CLUSTER_ID: &str = "_/cluster/id";
const NODES: &str = "_/cluster/nodes/";
const CONFIG: &str = "_/cluster/config/";
const MEMBERS: &str = "_/cluster/placement/";
const COUNTERS: &str = "_/cluster/counters/";
const NEXT_ID: &str = "_/cluster/counters/next_id";
const NEXT_NODE_ID: &str = "_/cluster/counters/next_node_id";
const TIMESTAMPS_UNTIL: &str = "_/cluster/counters/timestamps_until";
/// What only this process and gateways may see: not in lists, not in watches.
const SECRETS: &str = "_/cluster/secrets/";
const TOKEN_KEY: &str = "_/cluster/secrets/token_key";
/// Nothing below it can be held any more, though settings now keep it.
const SAFE_POINT_FLOOR: &str = "_/cluster/counters/safe_point_floor";
const HOLDS: &str = "_/cluster/holds/";
const FIRST_RANGE: &str = "_/cluster/first_range";
const RANGES: &str = "_/partitions/";
const WISHES: &str = "_/operators/";
/// Keys that only typed commands write.
const OWNED: [&str; 3] = ["_/cluster/", RANGES, WISHES];

/// Stored metadata that this version cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the metadata `{key}` cannot be read: {why}")]
pub struct CorruptState {
    pub key: String,
    pub why: String,
}

/// All that placement knows for good.
#[derive(Clone, Debug, Default)]
pub struct State {
    meta: MetaMap,
    cluster_id: Option<ClusterId>,
    token_key: Option<String>,
    nodes: BTreeMap<NodeId, NodeRecord>,
    members: BTreeMap<PlacementId, MemberRecord>,
    ranges: RangeMap,
    first_range: Option<RangeId>,
    wishes: BTreeMap<RangeId, Wish>,
    holds: BTreeMap<u64, Hold>,
    safe_point_floor: Timestamp,
    next_id: u64,
    next_node_id: u64,
    timestamps_until: Timestamp,
}

impl State {
    /// Rebuilds a state from stored metadata. The history for watches begins empty.
    ///
    /// # Errors
    /// `CorruptState` if an entry cannot be read.
    pub fn restore(
        revision: u64,
        entries: impl IntoIterator<Item = MetaEntry>,
    ) -> Result<Self, CorruptState> {
        let meta = MetaMap::restore(revision, entries.into_iter());
        let mut state = Self::default();
        for entry in meta.list(META_PREFIX, "") {
            state.index(&entry.key, Some(&entry.value))?;
        }
        state.meta = meta;
        Ok(state)
    }

    /// Executes a command: its response, and what it changed in the metadata.
    pub fn apply(&mut self, command: &Command) -> (Response, Vec<MetaEvent>) {
        let (mut response, changes) = self.decide(command);
        let events = self.meta.commit(changes);
        for event in &events {
            self.index(&event.key, event.value.as_deref())
                .expect("the state machine can read what it wrote");
        }
        // These two tell a revision that is known only now.
        match &mut response {
            Response::Done { revision } => *revision = self.revision(),
            Response::Config(view) => {
                view.version = self.setting(&view.name).map_or(0, |now| now.version);
            }
            _ => {}
        }
        (response, events)
    }

    /// True if applying the command now would change anything. The leader asks before it proposes,
    /// so that an idle cluster's log does not grow.
    #[must_use]
    pub fn would_change(&self, command: &Command) -> bool {
        self.meta.differs(&self.decide(command).1)
    }

    /// True if a leader's report of this range is news.
    #[must_use]
    pub fn is_news(&self, reported: &RangeDescriptor) -> bool {
        self.ranges.judge(reported).is_some()
    }

    #[must_use]
    pub const fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id
    }

    /// The secret that transactions' tokens are signed with, in hexadecimal digits.
    #[must_use]
    pub fn token_key(&self) -> Option<&String> {
        self.token_key.as_ref()
    }

    /// The revision of the last change.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.meta.revision()
    }

    #[must_use]
    pub fn node(&self, node_id: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&node_id)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    /// Members of the placement quorum, as the metadata shows them.
    pub fn members(&self) -> impl Iterator<Item = &MemberRecord> {
        self.members.values()
    }

    #[must_use]
    pub fn range(&self, range_id: RangeId) -> Option<&RangeDescriptor> {
        self.ranges.get(range_id)
    }

    #[must_use]
    pub fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// Ranges that overlap a span, in key order.
    pub fn ranges_overlapping<'a>(
        &'a self,
        span: &'a Span,
    ) -> impl Iterator<Item = &'a RangeDescriptor> + 'a {
        self.ranges.overlapping(span)
    }

    /// The range that holds a key.
    #[must_use]
    pub fn range_at(&self, key: &[u8]) -> Option<&RangeDescriptor> {
        self.ranges.at(key)
    }

    /// What was asked of a range by hand, and has not ended.
    #[must_use]
    pub fn wish(&self, range_id: RangeId) -> Option<&Wish> {
        self.wishes.get(&range_id)
    }

    /// All wishes, in the order of their ranges' ids.
    pub fn wishes(&self) -> impl Iterator<Item = &Wish> {
        self.wishes.values()
    }

    /// The end of the oracle's window.
    #[must_use]
    pub const fn timestamps_until(&self) -> Timestamp {
        self.timestamps_until
    }

    /// A runtime setting; `None` if there is none of that name.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<SettingView> {
        let stored = self.stored_setting(name);
        settings::view(name, stored.as_ref().map(|(value, version)| (value.as_str(), *version)))
    }

    /// All runtime settings, in order of their names.
    pub fn settings(&self) -> impl Iterator<Item = SettingView> + '_ {
        settings::names().filter_map(|name| self.setting(name))
    }

    #[must_use]
    pub fn replication_factor(&self) -> usize {
        usize::try_from(self.integer_setting(settings::REPLICATION_FACTOR))
            .expect("the factor has a small upper bound")
    }

    /// A setting that is a whole number.
    #[must_use]
    pub fn integer_setting(&self, name: &str) -> u64 {
        settings::parse_integer(&self.setting_text(name)).expect("stored settings were checked")
    }

    /// A setting that is a size.
    #[must_use]
    pub fn bytes_setting(&self, name: &str) -> u64 {
        settings::parse_bytes(&self.setting_text(name)).expect("stored settings were checked")
    }

    #[must_use]
    pub fn node_dead_after(&self) -> Duration {
        settings::parse_period(&self.setting_text(settings::NODE_DEAD_AFTER))
            .expect("stored settings were checked")
    }

    /// One entry of the metadata.
    #[must_use]
    pub fn meta(&self, key: &str) -> Option<MetaEntry> {
        self.meta.get(key).map(|(value, revision)| MetaEntry {
            key: key.to_owned(),
            value: value.to_owned(),
            revision,
        })
    }

    /// Entries with a prefix, after the key `after` (exclusive; empty: from the first), in key order.
    pub fn meta_list<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
    ) -> impl Iterator<Item = MetaEntry> + 'a {
        self.meta.list(prefix, after)
    }

    /// All changes under a prefix from a revision on.
    ///
    /// # Errors
    /// `Compacted` if some of them are no longer kept.
    pub fn meta_events(
        &self,
        prefix: &str,
        from_revision: u64,
    ) -> Result<Vec<MetaEvent>, Compacted> {
        self.meta.events_since(prefix, from_revision)
    }

    /// Ranges that were written or removed from a revision on; one may be named more than once.
    ///
    /// # Errors
    /// `Compacted` if some changes are no longer kept.
    pub fn ranges_changed_since(
        &self,
        from_revision: u64,
    ) -> Result<impl Iterator<Item = RangeId>, Compacted> {
        let events = self.meta.events_since(RANGES, from_revision)?;
        Ok(events
            .into_iter()
            .filter_map(|event| event.key[RANGES.len()..].parse().ok().map(RangeId)))
    }

    fn stored_setting(&self, name: &str) -> Option<(String, u64)> {
        let (json, version) = self.meta.get(&format!("{CONFIG}{name}"))?;
        let value = serde_json::from_str(json).expect("the state machine can read what it wrote");
        Some((value, version))
    }

    fn setting_text(&self, name: &str) -> String {
        let stored = self.stored_setting(name).map(|(value, _)| value);
        stored.unwrap_or_else(|| {
            settings::default_of(name).expect("the setting is in the table").to_owned()
        })
    }

    /// Brings the typed tables up to date with one change of the metadata.
    // tidy: long because it is one list: an arm for every table.
    fn index(&mut self, key: &str, value: Option<&str>) -> Result<(), CorruptState> {
        fn read<T: serde::de::DeserializeOwned>(key: &str, json: &str) -> Result<T, CorruptState> {
            serde_json::from_str(json)
                .map_err(|error| CorruptState { key: key.to_owned(), why: error.to_string() })
        }
        fn id_in<T: From<u64>>(key: &str, prefix: &str) -> Result<T, CorruptState> {
            key[prefix.len()..].parse::<u64>().map(T::from).map_err(|_| CorruptState {
                key: key.to_owned(),
                why: "the key does not end in an id".to_owned(),
            })
        }
        match (key, value) {
            (CLUSTER_ID, Some(json)) => self.cluster_id = Some(read(key, json)?),
            (TOKEN_KEY, Some(json)) => self.token_key = Some(read(key, json)?),
            (FIRST_RANGE, Some(json)) => self.first_range = Some(read(key, json)?),
            (NEXT_ID, Some(json)) => self.next_id = read(key, json)?,
            (NEXT_NODE_ID, Some(json)) => self.next_node_id = read(key, json)?,
            (TIMESTAMPS_UNTIL, Some(json)) => self.timestamps_until = read(key, json)?,
            (SAFE_POINT_FLOOR, Some(json)) => self.safe_point_floor = read(key, json)?,
            _ if key.starts_with(HOLDS) => {
                let hold_id: u64 = id_in(key, HOLDS)?;
                match value {
                    Some(json) => self.holds.insert(hold_id, read(key, json)?),
                    None => self.holds.remove(&hold_id),
                };
            }
            _ if key.starts_with(NODES) => {
                let node_id = id_in(key, NODES)?;
                match value {
                    Some(json) => self.nodes.insert(node_id, read(key, json)?),
                    None => self.nodes.remove(&node_id),
                };
            }
            _ if key.starts_with(MEMBERS) => {
                let id = id_in(key, MEMBERS)?;
                match value {
                    Some(json) => self.members.insert(id, read(key, json)?),
                    None => self.members.remove(&id),
                };
            }
            _ if key.starts_with(RANGES) => match value {
                Some(json) => {
                    let record: RangeRecord = read(key, json)?;
                    let range = record
                        .try_into()
                        .map_err(|why| CorruptState { key: key.to_owned(), why })?;
                    self.ranges.insert(range);
                }
                None => self.ranges.remove(id_in(key, RANGES)?),
            },
            _ if key.starts_with(WISHES) => {
                let range_id = id_in(key, WISHES)?;
                match value {
                    Some(json) => self.wishes.insert(range_id, read(key, json)?),
                    None => self.wishes.remove(&range_id),
                };
            }
            _ if key.starts_with(CONFIG) => {
                if let Some(json) = value {
                    read::<String>(key, json)?;
                }
            }
            _ if key.starts_with(COUNTERS) => {
                return Err(CorruptState {
                    key: key.to_owned(),
                    why: "unknown counter".to_owned(),
                });
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether metadata may be told to nobody but gateways.
#[must_use]
pub fn is_secret(key: &str) -> bool {
    key.starts_with(SECRETS)
}

#[cfg(test)]
mod tests;
