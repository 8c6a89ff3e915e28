//! One operation as the gateway carries it from validation to a storage node.
//!
//! Owns: the shape of an operation and its translation to the nodes' wire. Must not know: routes,
//! links, gRPC. Invariant: cloning copies no key or value (they are reference-counted slices).

use bytes::Bytes;
use rangedb_proto::internal::v1 as wire;
use rangedb_types::Timestamp;
use wire::data_request::Operation as WireOperation;
use wire::write_condition::Must;

/// Bytes that a request costs beside its keys and values.
const ENVELOPE_BYTES: usize = 96;

/// Names one logical write over all its attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Sixteen bytes.
    pub request_id: Bytes,
    /// Oracle time at or before the first attempt.
    pub seen: Timestamp,
    /// True if the caller says that an earlier attempt of his may have been applied.
    pub retry: bool,
}

/// What must hold for a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    VersionIs(Timestamp),
    Absent,
}

/// Where in the key space an operation belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The range that holds this key.
    At(Bytes),
    /// The range that holds the keys just below this bound; empty: the last range.
    Below(Bytes),
}

/// One operation inside one range.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    Get {
        keys: Vec<Bytes>,
        at: ReadAt,
    },
    Put {
        key: Bytes,
        value: Bytes,
        condition: Option<Condition>,
        identity: Identity,
    },
    Delete {
        key: Bytes,
        condition: Option<Condition>,
        identity: Identity,
    },
    DeleteRange {
        start: Bytes,
        end: Bytes,
        identity: Identity,
    },
    Scan(Scan),
    CommitStatus {
        key: Bytes,
        request_id: Bytes,
        seen: Timestamp,
    },
    Action(Action),
    /// Closes a version of the range at a place.
    Claim {
        place: Place,
        version: Timestamp,
    },
}

/// What a read sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadAt {
    /// Zero: the latest.
    pub version: Timestamp,
    /// Transactions that surely commit above it.
    pub pass_over: Vec<Timestamp>,
    /// Who may answer.
    pub source: Source,
}

/// Who may answer a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    #[default]
    Leader,
    /// The leader, too: a transaction asks, at its snapshot.
    LeaderOfSnapshot,
    /// Any replica that has closed the version.
    Closed,
    /// Any replica that has applied what the leader says is needed.
    Claimed,
}

/// A step of a transaction, on keys of one range. It may be repeated.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// The smallest key it is about.
    pub first: Bytes,
    pub reach: Reach,
    pub kind: wire::node_action::Kind,
}

/// How far an action reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To this key.
    Key(Bytes),
    /// To just below this bound; empty: to the end of all keys.
    Below(Bytes),
}

/// One page of a range read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    pub start: Bytes,
    pub end: Bytes,
    /// 0: as many as fit.
    pub limit: u64,
    pub bytes_max: u64,
    pub reverse: bool,
    pub keys_only: bool,
    pub at: ReadAt,
}

impl Operation {
    /// Where the operation is routed to.
    #[must_use]
    pub fn place(&self) -> Place {
        match self {
            Self::Get { keys, .. } => Place::At(keys.first().cloned().unwrap_or_default()),
            Self::Action(action) => Place::At(action.first.clone()),
            Self::Claim { place, .. } => place.clone(),
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::CommitStatus { key, .. } => {
                Place::At(key.clone())
            }
            Self::DeleteRange { start, .. } => Place::At(start.clone()),
            Self::Scan(scan) if scan.reverse => Place::Below(scan.end.clone()),
            Self::Scan(scan) => Place::At(scan.start.clone()),
        }
    }

    /// The write's identity; `None` for reads.
    #[must_use]
    pub const fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Put { identity, .. }
            | Self::Delete { identity, .. }
            | Self::DeleteRange { identity, .. } => Some(identity),
            Self::Get { .. }
            | Self::Scan(_)
            | Self::CommitStatus { .. }
            | Self::Action(_)
            | Self::Claim { .. } => None,
        }
    }

    /// Bytes that the request holds while it waits in a queue.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        ENVELOPE_BYTES
            + match self {
                Self::Get { keys, .. } => keys.iter().map(Bytes::len).sum(),
                Self::Action(action) => action.kind.encoded_len(),
                Self::Put { key, value, .. } => key.len() + value.len(),
                Self::Delete { key, .. } | Self::CommitStatus { key, .. } => key.len(),
                Self::DeleteRange { start, end, .. } => start.len() + end.len(),
                Self::Scan(scan) => scan.start.len() + scan.end.len(),
                Self::Claim { .. } => 0,
            }
    }

    /// The nodes' form of the operation. `repeated`: an earlier attempt of this gateway's may have
    /// been applied.
    #[must_use]
    pub fn to_wire(&self, repeated: bool) -> WireOperation {
        match self.clone() {
            Self::Get { keys, at } => WireOperation::Get(wire::NodeGet {
                keys,
                read_version: at.version.0,
                pass_over: at.pass_over.iter().map(|id| id.0).collect(),
            }),
            Self::Action(action) => {
                WireOperation::Action(wire::NodeAction { kind: Some(action.kind) })
            }
            Self::Put { key, value, condition, identity } => WireOperation::Put(wire::NodePut {
                key,
                value,
                condition: condition.map(Into::into),
                identity: Some(identity.into_wire(repeated)),
            }),
            Self::Delete { key, condition, identity } => WireOperation::Delete(wire::NodeDelete {
                key,
                condition: condition.map(Into::into),
                identity: Some(identity.into_wire(repeated)),
            }),
            Self::DeleteRange { start, end, identity } => {
                WireOperation::DeleteRange(wire::NodeDeleteRange {
                    start,
                    end,
                    identity: Some(identity.into_wire(repeated)),
                })
            }
            Self::Scan(scan) => WireOperation::Scan(wire::NodeScan {
                start: scan.start,
                end: scan.end,
                limit: scan.limit,
                bytes_max: scan.bytes_max,
                reverse: scan.reverse,
                keys_only: scan.keys_only,
                read_version: scan.at.version.0,
                pass_over: scan.at.pass_over.iter().map(|id| id.0).collect(),
            }),
            Self::Claim { version, .. } => {
                WireOperation::Claim(wire::NodeClaim { version: version.0 })
            }
            Self::CommitStatus { key, request_id, seen } => {
                WireOperation::CommitStatus(wire::NodeCommitStatus {
                    key,
                    request_id,
                    seen_version: seen.0,
                })
            }
        }
    }
}

impl Operation {
    /// A read of the latest state of some keys.
    #[must_use]
    pub fn get(keys: Vec<Bytes>) -> Self {
        Self::Get { keys, at: ReadAt::default() }
    }

    /// The version of a read, and who may answer it.
    #[must_use]
    pub const fn source(&self) -> Option<(Timestamp, Source)> {
        match self {
            Self::Get { at, .. } => Some((at.version, at.source)),
            Self::Scan(scan) => Some((scan.at.version, scan.at.source)),
            _ => None,
        }
    }

    /// What a read sees; `None` for anything else.
    pub const fn read_at(&mut self) -> Option<&mut ReadAt> {
        match self {
            Self::Get { at, .. } => Some(at),
            Self::Scan(scan) => Some(&mut scan.at),
            _ => None,
        }
    }
}

impl Identity {
    fn into_wire(self, repeated: bool) -> wire::WriteIdentity {
        wire::WriteIdentity {
            request_id: self.request_id,
            seen_version: self.seen.0,
            retry: self.retry || repeated,
        }
    }
}

impl From<Condition> for wire::WriteCondition {
    fn from(condition: Condition) -> Self {
        let must = match condition {
            Condition::VersionIs(version) => Must::VersionIs(version.0),
            Condition::Absent => Must::Absent(true),
        };
        Self { must: Some(must) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_write_keeps_its_id_and_says_so() {
        let identity =
            Identity { request_id: Bytes::from_static(&[7; 16]), seen: Timestamp(5), retry: false };
        let put = Operation::Put {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"v"),
            condition: Some(Condition::Absent),
            identity,
        };
        let WireOperation::Put(first) = put.to_wire(false) else { panic!("a put") };
        let WireOperation::Put(second) = put.to_wire(true) else { panic!("a put") };
        let (first, second) = (first.identity.unwrap(), second.identity.unwrap());
        assert_eq!(first.request_id, second.request_id);
        assert_eq!((first.retry, second.retry), (false, true));
        assert_eq!(second.seen_version, 5);
    }

    #[test]
    fn reverse_scans_are_routed_by_their_end() {
        let scan = Scan {
            start: Bytes::from_static(b"a"),
            end: Bytes::from_static(b"m"),
            limit: 0,
            bytes_max: 1,
            reverse: true,
            keys_only: false,
            at: ReadAt::default(),
        };
        assert_eq!(Operation::Scan(scan.clone()).place(), Place::Below(scan.end.clone()));
        let forward = Scan { reverse: false, ..scan };
        assert_eq!(Operation::Scan(forward).place(), Place::At(Bytes::from_static(b"a")));
    }
}
