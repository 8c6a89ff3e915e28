//! Conditions on several keys, with a then and an else.

use crate::transaction::{Transaction, TransactionOptions};
use crate::{Client, Error, Value, Version};
use bytes::Bytes;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operation {
    Put(Bytes, Bytes),
    Delete(Bytes),
    Get(Bytes),
}

/// What is done in one of the two cases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    operations: Vec<Operation>,
}

impl Operations {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a key.
    #[must_use]
    pub fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.operations.push(Operation::Put(key.into(), value.into()));
        self
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Bytes>) -> Self {
        self.operations.push(Operation::Delete(key.into()));
        self
    }

    /// Reads a key, as it is before the writes.
    #[must_use]
    pub fn get(mut self, key: impl Into<Bytes>) -> Self {
        self.operations.push(Operation::Get(key.into()));
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Must {
    VersionIs(Version),
    ValueIs(Bytes),
    Absent,
    Present,
}

impl Must {
    fn holds(&self, found: Option<&Value>) -> bool {
        match self {
            Self::VersionIs(version) => found.is_some_and(|value| value.version == *version),
            Self::ValueIs(wanted) => found.is_some_and(|value| value.value == *wanted),
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
        }
    }
}

/// Conditions, and what is to be done if all of them hold, or else.
///
/// ```
/// use rangedb_client::{Conditional, Operations};
///
/// let take = Conditional::new()
///     .absent("lock/printer")
///     .value_is("printer", "ready")
///     .then(Operations::new().put("lock/printer", "me"))
///     .otherwise(Operations::new().get("lock/printer"));
/// # let _ = take;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditional {
    conditions: Vec<(Bytes, Must)>,
    then: Operations,
    otherwise: Operations,
}

impl Conditional {
    /// Without conditions yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The key must not exist.
    #[must_use]
    pub fn absent(self, key: impl Into<Bytes>) -> Self {
        self.when(key.into(), Must::Absent)
    }

    /// The key must exist.
    #[must_use]
    pub fn present(self, key: impl Into<Bytes>) -> Self {
        self.when(key.into(), Must::Present)
    }

    /// The key's current version must be this one.
    #[must_use]
    pub fn version_is(self, key: impl Into<Bytes>, version: Version) -> Self {
        self.when(key.into(), Must::VersionIs(version))
    }

    /// The key must have this value.
    #[must_use]
    pub fn value_is(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.when(key.into(), Must::ValueIs(value.into()))
    }

    /// What is done if all conditions hold.
    #[must_use]
    pub fn then(mut self, operations: Operations) -> Self {
        self.then = operations;
        self
    }

    /// What is done if one does not.
    #[must_use]
    pub fn otherwise(mut self, operations: Operations) -> Self {
        self.otherwise = operations;
        self
    }

    fn when(mut self, key: Bytes, must: Must) -> Self {
        self.conditions.push((key, must));
        self
    }

    async fn run(&self, txn: Transaction) -> Result<ConditionalOutcome, Error> {
        let keys: Vec<Bytes> = self.conditions.iter().map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| txn.check(key.clone()));
        let current = txn.values(keys).await?;
        let compared = self.conditions.iter().zip(&current);
        let held = compared.into_iter().all(|((_, must), found)| must.holds(found.as_ref()));
        let branch = if held { &self.then } else { &self.otherwise };
        let gets: Vec<Bytes> = branch.operations.iter().filter_map(Operation::wanted).collect();
        gets.iter().for_each(|key| txn.check(key.clone()));
        let values = if gets.is_empty() { Vec::new() } else { txn.values(gets).await? };
        let mut writes = 0;
        for operation in &branch.operations {
            match operation {
                Operation::Put(key, value) => txn.put(key.clone(), value.clone()),
                Operation::Delete(key) => txn.delete(key.clone()),
                Operation::Get(_) => continue,
            }
            writes += 1;
        }
        // What only looks needs no commit: it looked at one moment.
        let version = if writes > 0 { txn.commit().await? } else { txn.id() };
        Ok(ConditionalOutcome { held, version, current, values })
    }
}

impl Operation {
    fn wanted(&self) -> Option<Bytes> {
        match self {
            Self::Get(key) => Some(key.clone()),
            Self::Put(..) | Self::Delete(_) => None,
        }
    }
}

/// What a conditional call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionalOutcome {
    /// All conditions held.
    pub held: bool,
    /// Of the writes; if there were none, the one at which all was read.
    pub version: Version,
    /// What the conditions' keys were compared with, in their order.
    pub current: Vec<Option<Value>>,
    /// What the gets found, in their order.
    pub values: Vec<Option<Value>>,
}

impl Client {
    /// Compares, and does one of two things, all in one moment, over any keys. It is a transaction, so that a
    /// lost answer does not do it twice; the gateways' `Conditional` does the same in one call, for those that
    /// have no SDK.
    ///
    /// # Errors
    /// [`Error::Conflict`] if others were faster until the time was over: nothing was written. See [`Error`].
    pub async fn conditional(&self, conditional: Conditional) -> Result<ConditionalOutcome, Error> {
        self.again(TransactionOptions::default(), |txn| conditional.run(txn)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold_or_not() {
        let value = Value { value: Bytes::from_static(b"x"), version: Version(3) };
        assert!(Must::Absent.holds(None) && !Must::Absent.holds(Some(&value)));
        assert!(Must::Present.holds(Some(&value)) && !Must::Present.holds(None));
        assert!(Must::ValueIs("x".into()).holds(Some(&value)));
        assert!(!Must::ValueIs(Bytes::new()).holds(None));
        assert!(Must::VersionIs(Version(3)).holds(Some(&value)));
        assert!(!Must::VersionIs(Version(4)).holds(Some(&value)));
    }
}
