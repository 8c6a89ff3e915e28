//! The identity and the condition of a write.

use crate::Version;
use rangedb_proto::v1;
use rangedb_types::{Random as _, RequestId, SystemRandom};
use std::fmt;

/// Names one logical write over all its attempts; what [`crate::Client::commit_status`] needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteId {
    /// 128 random bits.
    pub request_id: RequestId,
    /// A version seen before the first attempt; zero if none was known.
    pub seen: Version,
}

impl WriteId {
    /// A new write's identity.
    #[must_use]
    pub fn new(seen: Version) -> Self {
        Self { request_id: RequestId(SystemRandom.next_id()), seen }
    }

    pub(crate) fn context(&self, repeated: bool) -> v1::RequestContext {
        v1::RequestContext {
            request_id: bytes::Bytes::copy_from_slice(&self.request_id.to_bytes()),
            seen_version: self.seen.0,
            retry: repeated,
            ..Default::default()
        }
    }
}

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.request_id.fmt(f)
    }
}

/// What must hold for a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The key's current version must be this one.
    VersionIs(Version),
    /// The key must not exist.
    Absent,
}

impl From<Condition> for v1::Condition {
    fn from(condition: Condition) -> Self {
        use v1::condition::{Absent, Must};
        let must = match condition {
            Condition::VersionIs(version) => Must::VersionIs(version.0),
            Condition::Absent => Must::Absent(Absent {}),
        };
        Self { must: Some(must) }
    }
}
