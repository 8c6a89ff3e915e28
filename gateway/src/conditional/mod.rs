//! Conditions on several keys, and one of two lists of operations, all in one moment.
//!
//! Owns: evaluating the conditions and repeating what lost against others. Must not know: gRPC. It is an
//! optimistic transaction: all keys are read at one version, and committed with them are the writes, and
//! checks that nobody has written the others since. So whatever it did was done at the commit.

mod wire;

pub use wire::{from_wire, to_wire};

use crate::backoff::Backoff;
use crate::batch_get::batch_get;
use crate::dispatch::Dispatcher;
use crate::errors::Failure;
use crate::operation::ReadAt;
use crate::transaction::{Want, Write, commit_read};
use bytes::Bytes;
use rangedb_proto::v1::GetResponse;
use rangedb_types::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Pauses before it is tried again.
const AGAIN_FIRST: Duration = Duration::from_millis(2);
const AGAIN_LONGEST: Duration = Duration::from_millis(100);

/// What must hold of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Must {
    VersionIs(Timestamp),
    ValueIs(Bytes),
    Absent,
    Present,
}

impl Must {
    fn holds(&self, found: &GetResponse) -> bool {
        match self {
            Self::VersionIs(version) => found.found && found.version == version.0,
            Self::ValueIs(value) => found.found && found.value == *value,
            Self::Absent => !found.found,
            Self::Present => found.found,
        }
    }
}

/// One of the two lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Branch {
    /// In the order in which their answers are wanted.
    pub gets: Vec<Bytes>,
    /// In the order of their keys, each once.
    pub writes: Vec<Write>,
}

/// The whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditional {
    pub conditions: Vec<(Bytes, Must)>,
    pub then: Branch,
    pub otherwise: Branch,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub held: bool,
    /// Of the writes, or of the reads if there are none.
    pub version: Timestamp,
    /// Of the conditions' keys, in their order.
    pub current: Vec<GetResponse>,
    pub values: Vec<GetResponse>,
}

impl Conditional {
    /// Evaluates the conditions and does what follows.
    ///
    /// # Errors
    /// `TransactionUnknown` if its writes may have been committed; else nothing was written.
    pub async fn run(
        self,
        dispatcher: &Arc<Dispatcher>,
        deadline: Instant,
    ) -> Result<Outcome, Failure> {
        let mut backoff = Backoff::new(AGAIN_FIRST, AGAIN_LONGEST);
        loop {
            match self.once(dispatcher, deadline).await {
                // Others were faster.
                Err(
                    failure @ (Failure::WriteConflict { .. }
                    | Failure::KeyLocked { .. }
                    | Failure::Aborted),
                ) => {
                    let pause = backoff.pause();
                    if Instant::now() + pause >= deadline {
                        return Err(failure);
                    }
                    tokio::time::sleep(pause).await;
                }
                done => return done,
            }
        }
    }

    async fn once(
        &self,
        dispatcher: &Arc<Dispatcher>,
        deadline: Instant,
    ) -> Result<Outcome, Failure> {
        let id = dispatcher.timestamp(deadline).await?;
        let found = self.read(dispatcher, id, deadline).await?;
        let held = self.conditions.iter().all(|(key, must)| must.holds(&found[key]));
        let branch = if held { &self.then } else { &self.otherwise };
        let version = if branch.writes.is_empty() {
            id
        } else {
            commit_read(dispatcher, id, self.with_checks(branch), deadline).await?
        };
        let of = |key: &Bytes| found[key].clone();
        Ok(Outcome {
            held,
            version,
            current: self.conditions.iter().map(|(key, _)| of(key)).collect(),
            values: branch.gets.iter().map(of).collect(),
        })
    }

    /// All keys that may matter, as of one version.
    async fn read(
        &self,
        dispatcher: &Dispatcher,
        version: Timestamp,
        deadline: Instant,
    ) -> Result<BTreeMap<Bytes, GetResponse>, Failure> {
        let conditions = self.conditions.iter().map(|(key, _)| key);
        let gets = self.then.gets.iter().chain(&self.otherwise.gets);
        let mut keys: Vec<Bytes> = conditions.chain(gets).cloned().collect();
        keys.sort_unstable();
        keys.dedup();
        let at = ReadAt { version, ..ReadAt::default() };
        let values = batch_get(dispatcher, &keys, at, deadline, false).await?;
        Ok(keys.into_iter().zip(values).collect())
    }

    /// The writes of a branch, and checks of what they depend on, in the order of the keys.
    fn with_checks(&self, branch: &Branch) -> Vec<Write> {
        let mut all: BTreeMap<Bytes, Want> = BTreeMap::new();
        let read = self.conditions.iter().map(|(key, _)| key).chain(&branch.gets);
        all.extend(read.map(|key| (key.clone(), Want::Check)));
        all.extend(branch.writes.iter().map(|write| (write.key.clone(), write.want.clone())));
        all.into_iter().map(|(key, want)| Write { key, want }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(value: &'static [u8], version: u64) -> GetResponse {
        GetResponse { found: true, value: Bytes::from_static(value), version }
    }

    #[test]
    fn conditions_hold_or_not() {
        let absent = GetResponse::default();
        assert!(Must::Absent.holds(&absent) && !Must::Absent.holds(&found(b"", 1)));
        assert!(Must::Present.holds(&found(b"", 1)) && !Must::Present.holds(&absent));
        assert!(Must::ValueIs(Bytes::new()).holds(&found(b"", 1)));
        assert!(!Must::ValueIs(Bytes::new()).holds(&absent), "no value is not an empty one");
        assert!(Must::VersionIs(Timestamp(1)).holds(&found(b"x", 1)));
        assert!(!Must::VersionIs(Timestamp(2)).holds(&found(b"x", 1)));
    }

    #[test]
    fn what_is_read_and_not_written_is_checked() {
        let write = |key: &'static str, want| Write { key: Bytes::from(key), want };
        let conditional = Conditional {
            conditions: vec![("b".into(), Must::Absent), ("d".into(), Must::Present)],
            then: Branch {
                gets: vec!["a".into()],
                writes: vec![write("b", Want::Put("1".into())), write("c", Want::Delete)],
            },
            otherwise: Branch { gets: vec!["z".into()], ..Branch::default() },
        };
        let all = conditional.with_checks(&conditional.then);
        let expected = [
            write("a", Want::Check),
            write("b", Want::Put("1".into())),
            write("c", Want::Delete),
            write("d", Want::Check),
        ];
        assert_eq!(all, expected);
    }
}
