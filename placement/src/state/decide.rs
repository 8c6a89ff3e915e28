//! What each command means: a response, and the changes of the metadata it wants. Changes nothing
//! itself.

use super::command::{Command, IDS_PER_CALL_MAX, RANGES_PER_REPORT_MAX, Rejection, Response};
use super::hold::{self, HOLDS_MAX, Hold};
use super::meta::{Change, META_VALUE_BYTES_MAX};
use super::ranges::RangeMap;
use super::records::{Locality, MemberRecord, NodeRecord, NodeState, RangeRecord, StoreId};
use super::wish::{WISHES_MAX, WISHES_PER_CALL_MAX, Wish};
use super::{
    CLUSTER_ID, CONFIG, FIRST_RANGE, HOLDS, MEMBERS, META_PREFIX, NEXT_ID, NEXT_NODE_ID, NODES,
    OWNED, RANGES, SAFE_POINT_FLOOR, State, TIMESTAMPS_UNTIL, TOKEN_KEY, WISHES, settings,
};
use rangedb_types::{
    Epoch, NodeId, RangeDescriptor, RangeId, Replica, ReplicaId, ReplicaRole, Span, Timestamp,
};
use serde::Serialize;

type Decision = (Response, Vec<Change>);

fn put(key: impl Into<String>, value: &impl Serialize) -> Change {
    let json = serde_json::to_string(value).expect("plain records serialise");
    (key.into(), Some(json))
}

fn put_range(range: &RangeDescriptor) -> Change {
    put(format!("{RANGES}{}", range.range_id), &RangeRecord::from(range))
}

fn rejected(rejection: Rejection) -> Decision {
    (Response::Rejected(rejection), Vec::new())
}

/// Answered with the revision after the command, which `apply` fills in.
const DONE: Response = Response::Done { revision: 0 };

impl State {
    pub(super) fn decide(&self, command: &Command) -> Decision {
        match command {
            Command::InitCluster { cluster_id } => {
                let cluster_id = self.cluster_id.unwrap_or(*cluster_id);
                (Response::Cluster { cluster_id }, vec![put(CLUSTER_ID, &cluster_id)])
            }
            Command::SetTokenKey { key } => {
                let key = self.token_key().unwrap_or(key);
                (DONE, vec![put(TOKEN_KEY, &key)])
            }
            Command::RegisterNode { node_id, store_id, address, locality, software_version } => {
                self.register(*node_id, *store_id, address, locality, software_version)
            }
            Command::AllocateIds { count } => self.allocate(*count),
            Command::BootstrapFirstRange { node_id } => self.bootstrap(*node_id),
            Command::ReportRanges(ranges) => self.report(ranges),
            Command::ExtendTimestamps { until } => {
                let until = self.timestamps_until.max(*until);
                (Response::Timestamps { until }, vec![put(TIMESTAMPS_UNTIL, &until)])
            }
            Command::SetConfig { name, value, expected_version } => {
                self.configure(name, value, *expected_version)
            }
            Command::PutMeta { key, value } => self.put_meta(key, value),
            Command::DeleteMeta { key } => match check_free(key) {
                Ok(()) => (DONE, vec![(key.clone(), None)]),
                Err(rejection) => rejected(rejection),
            },
            Command::SetPlacementMember { id, store_id, address } => {
                let member =
                    MemberRecord { id: *id, store_id: *store_id, address: address.clone() };
                (DONE, vec![put(format!("{MEMBERS}{id}"), &member)])
            }
            Command::RemovePlacementMember { id } => (DONE, vec![(format!("{MEMBERS}{id}"), None)]),
            Command::SetNodeState { node_id, state } => self.set_node_state(*node_id, *state),
            Command::PutHold { hold, now } => self.put_hold(hold, *now),
            Command::EndHold { hold_id } => {
                let known = self.hold(*hold_id).map(|_| (format!("{HOLDS}{hold_id}"), None));
                (DONE, known.into_iter().collect())
            }
            Command::AddWishes(wishes) => self.add_wishes(wishes),
            Command::EndWishes(wishes) => {
                let stored = |wish: &&Wish| self.wish(wish.range_id) == Some(*wish);
                let key = |wish: &Wish| (format!("{WISHES}{}", wish.range_id), None);
                (DONE, wishes.iter().filter(stored).map(key).collect())
            }
        }
    }

    fn set_node_state(&self, node_id: NodeId, state: NodeState) -> Decision {
        let node = match self.node(node_id) {
            None => return rejected(Rejection::UnknownNode { node_id }),
            Some(node) if node.state == NodeState::Removed => {
                return rejected(Rejection::NodeRemoved { node_id });
            }
            Some(node) => node,
        };
        if state == NodeState::Removed {
            let everything = Span::all();
            let mut holding = self
                .ranges_overlapping(&everything)
                .filter(|range| range.replica_on(node_id).is_some());
            if let Some(first) = holding.next() {
                let (first, ranges) = (first.range_id, 1 + holding.count());
                return rejected(Rejection::NodeHoldsReplicas { node_id, ranges, first });
            }
        }
        let node = NodeRecord { state, ..node.clone() };
        (DONE, vec![put(format!("{NODES}{node_id}"), &node)])
    }

    fn put_hold(&self, hold: &Hold, now: Timestamp) -> Decision {
        let live = |hold: &&Hold| hold.expires > now;
        let known = self.hold(hold.hold_id).filter(live);
        let over = self.holds().filter(|hold| !live(hold));
        let mut changes: Vec<Change> =
            over.map(|hold| (format!("{HOLDS}{}", hold.hold_id), None)).collect();
        let hold = match known {
            Some(known) => {
                let expires = known.expires.max(hold.expires);
                Hold { expires, ..known.clone() }
            }
            None if hold.hold_id != 0 => {
                return rejected(Rejection::UnknownHold { hold_id: hold.hold_id });
            }
            None if self.holds().filter(live).count() >= HOLDS_MAX => {
                return rejected(Rejection::TooManyHolds);
            }
            None => {
                let (version, oldest) = (hold.version, self.oldest_to_hold(now));
                if version < oldest {
                    return rejected(Rejection::TooOldToHold { version, oldest });
                }
                let hold_id = self.next_id.max(1);
                changes.push(put(NEXT_ID, &(hold_id + 1)));
                Hold { hold_id, ..hold.clone() }
            }
        };
        changes.push(put(format!("{HOLDS}{}", hold.hold_id), &hold));
        (Response::Hold(hold), changes)
    }

    fn add_wishes(&self, wishes: &[Wish]) -> Decision {
        if wishes.len() > WISHES_PER_CALL_MAX || self.wishes.len() + wishes.len() > WISHES_MAX {
            return rejected(Rejection::TooManyWishes);
        }
        for wish in wishes {
            let range_id = wish.range_id;
            if self.range(range_id).is_none() {
                return rejected(Rejection::UnknownRange { range_id });
            }
            if let Some(known) = self.wish(range_id).filter(|known| *known != wish) {
                return rejected(Rejection::WishUnderWay { range_id, wish: known.to_string() });
            }
        }
        let changes = wishes.iter().map(|wish| put(format!("{WISHES}{}", wish.range_id), wish));
        (DONE, changes.collect())
    }

    fn register(
        &self,
        node_id: Option<NodeId>,
        store_id: StoreId,
        address: &str,
        locality: &Locality,
        software_version: &str,
    ) -> Decision {
        let known = match node_id {
            Some(node_id) => match self.node(node_id) {
                None => return rejected(Rejection::UnknownNode { node_id }),
                Some(node) if node.store_id != store_id => {
                    return rejected(Rejection::StoreMismatch { node_id, known: node.store_id });
                }
                known => known,
            },
            // The answer to an earlier registration may have been lost.
            None => self.nodes.values().find(|node| node.store_id == store_id),
        };
        let mut changes = Vec::new();
        let (node_id, state) = match known {
            Some(node) if node.state == NodeState::Removed => {
                return rejected(Rejection::NodeRemoved { node_id: node.node_id });
            }
            Some(node) => (node.node_id, node.state),
            None => {
                let id = self.next_node_id.max(1);
                changes.push(put(NEXT_NODE_ID, &(id + 1)));
                (NodeId(id), NodeState::Active)
            }
        };
        let node = NodeRecord {
            node_id,
            store_id,
            address: address.to_owned(),
            locality: locality.clone(),
            software_version: software_version.to_owned(),
            state,
        };
        changes.push(put(format!("{NODES}{node_id}"), &node));
        (Response::Node(node), changes)
    }

    fn allocate(&self, count: u32) -> Decision {
        if count > IDS_PER_CALL_MAX {
            return rejected(Rejection::TooManyIds);
        }
        let first = self.next_id.max(1);
        let next = put(NEXT_ID, &(first + u64::from(count)));
        (Response::Ids { first }, if count == 0 { Vec::new() } else { vec![next] })
    }

    fn bootstrap(&self, node_id: NodeId) -> Decision {
        // Once there is a range, the first one was made; it may have been merged away since.
        let first = self.first_range.and_then(|range_id| self.range(range_id));
        if let Some(range) = first.or_else(|| self.ranges.first()) {
            return (Response::FirstRange { range: range.clone(), created: false }, Vec::new());
        }
        if self.node(node_id).is_none() {
            return rejected(Rejection::UnknownNode { node_id });
        }
        let id = self.next_id.max(1);
        let range = RangeDescriptor {
            range_id: RangeId(id),
            span: Span::all(),
            epoch: Epoch { version: 1, conf_version: 1 },
            replicas: vec![Replica {
                replica_id: ReplicaId(id + 1),
                node_id,
                role: ReplicaRole::Voter,
            }],
        };
        let changes =
            vec![put(NEXT_ID, &(id + 2)), put(FIRST_RANGE, &range.range_id), put_range(&range)];
        (Response::FirstRange { range, created: true }, changes)
    }

    fn report(&self, reported: &[RangeDescriptor]) -> Decision {
        if reported.len() > RANGES_PER_REPORT_MAX {
            return rejected(Rejection::TooManyRanges);
        }
        // Judged one after the other, because one report may hold both sides of a split; against a
        // copy of those ranges alone that the report can touch.
        let mut ranges = RangeMap::default();
        for range in reported {
            let same = self.range(range.range_id);
            for known in same.into_iter().chain(self.ranges_overlapping(&range.span)) {
                ranges.insert(known.clone());
            }
        }
        let mut changes = Vec::new();
        let mut accepted = 0;
        for range in reported {
            let valid = range.span.end.is_empty() || range.span.start < range.span.end;
            let Some(replaced) = ranges.judge(range).filter(|_| valid) else { continue };
            for other in replaced {
                ranges.remove(other);
                changes.push((format!("{RANGES}{other}"), None));
            }
            changes.push(put_range(range));
            ranges.insert(range.clone());
            accepted += 1;
        }
        (Response::Ranges { accepted }, changes)
    }

    fn configure(&self, name: &str, value: &str, expected_version: u64) -> Decision {
        let Some(now) = self.setting(name) else {
            let known = settings::names().collect::<Vec<_>>().join(", ");
            return rejected(Rejection::UnknownSetting { name: name.to_owned(), known });
        };
        let value = value.trim();
        if let Some(why) = settings::refusal(name, value).or_else(|| self.conflict(name, value)) {
            return rejected(Rejection::InvalidSetting {
                name: name.to_owned(),
                value: value.to_owned(),
                why,
            });
        }
        if expected_version != 0 && expected_version != now.version {
            return rejected(Rejection::ConfigVersion {
                name: name.to_owned(),
                expected: expected_version,
                actual: now.version,
            });
        }
        let view = settings::view(name, Some((value, 0))).expect("the setting was found above");
        let mut changes = vec![put(format!("{CONFIG}{name}"), &value)];
        changes.extend(self.floor_of(name, value));
        (Response::Config(view), changes)
    }

    /// More is to be kept from now on; what was not kept so far may be gone.
    fn floor_of(&self, name: &str, value: &str) -> Option<Change> {
        if name != settings::GC_RETENTION && name != settings::TRANSACTION_LIFETIME {
            return None;
        }
        let longer = settings::parse_period(value)? > self.kept();
        // The oracle's time lies before the end of its window.
        let floor = hold::before(self.timestamps_until, self.kept());
        longer.then(|| put(SAFE_POINT_FLOOR, &floor.max(self.safe_point_floor)))
    }

    /// Why a value does not go with the other settings.
    fn conflict(&self, name: &str, value: &str) -> Option<String> {
        let value_of = |wanted: &str| {
            let text = if name == wanted { value.to_owned() } else { self.setting_text(wanted) };
            settings::parse_bytes(&text)
        };
        if name != settings::RANGE_MERGE_SIZE && name != settings::RANGE_SPLIT_SIZE {
            return None;
        }
        let merge = value_of(settings::RANGE_MERGE_SIZE)?;
        let split = value_of(settings::RANGE_SPLIT_SIZE)?;
        (merge > split / 2).then(|| {
            "range_merge_size must be at most half of range_split_size, or ranges would be merged and split for ever"
                .to_owned()
        })
    }

    fn put_meta(&self, key: &str, value: &str) -> Decision {
        if let Err(rejection) = check_free(key) {
            return rejected(rejection);
        }
        if value.len() > META_VALUE_BYTES_MAX {
            return rejected(Rejection::ValueTooLong {
                key: key.to_owned(),
                size_bytes: value.len(),
            });
        }
        if serde_json::from_str::<serde::de::IgnoredAny>(value).is_err() {
            return rejected(Rejection::NotJson { key: key.to_owned() });
        }
        (DONE, vec![(key.to_owned(), Some(value.to_owned()))])
    }
}

/// Refuses keys outside the metadata and those that typed commands own.
fn check_free(key: &str) -> Result<(), Rejection> {
    let free = key.len() > META_PREFIX.len()
        && key.len() <= rangedb_types::limits::KEY_BYTES_MAX
        && key.starts_with(META_PREFIX)
        && !OWNED.iter().any(|owned| key.starts_with(owned));
    if free { Ok(()) } else { Err(Rejection::ReservedKey { key: key.to_owned() }) }
}
