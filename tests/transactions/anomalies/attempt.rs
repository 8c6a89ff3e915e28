//! One transaction of the workload, written down as it goes. Owns: the two kinds of transactions of
//! the SDK behind one face, and what is noted of them. Must not know: what is done in which order.

use super::world::World;
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use rangedb_client::{
    Client, Error, PessimisticTransaction, RangeQuery, RetryAdvice, Transaction, TransactionOptions,
};
use rangedb_tests::isolation::{self, Key, Op, Outcome};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use tokio::time::timeout;

enum Handle {
    Optimistic(Transaction),
    Pessimistic(PessimisticTransaction),
}

/// Why a transaction went no further.
#[derive(Debug)]
pub enum Stop {
    /// It lost, or something was away: it is rolled back.
    Lost,
    /// What must not be.
    Broken(anyhow::Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        if error.retry_advice() != RetryAdvice::Never || is_too_old(&error) {
            return Self::Lost;
        }
        Self::Broken(error.into())
    }
}

pub struct Attempt<'a> {
    pub world: &'a World,
    process: u32,
    begun: u64,
    handle: Handle,
    ops: Vec<Op>,
}

impl<'a> Attempt<'a> {
    pub async fn begin(world: &'a World, client: &Client, process: u32) -> Result<Self, Stop> {
        let isolation = world.mode.isolation;
        let options = TransactionOptions { isolation, ..TransactionOptions::default() };
        let begun = world.now();
        let handle = if world.mode.pessimistic {
            Handle::Pessimistic(client.begin_pessimistic(options).await?)
        } else {
            Handle::Optimistic(client.begin(options).await?)
        };
        Ok(Self { world, process, begun, handle, ops: Vec::new() })
    }

    /// If `locked`, a pessimistic transaction takes the key.
    async fn get(&self, key: Key, locked: bool) -> Result<Option<Bytes>, Error> {
        let name = self.world.name(key);
        match &self.handle {
            Handle::Optimistic(txn) => txn.get(name).await,
            Handle::Pessimistic(txn) if locked => txn.get_for_update(name).await,
            Handle::Pessimistic(txn) => txn.get(name).await,
        }
    }

    async fn put(&self, key: Key, value: String) -> Result<(), Error> {
        let name = self.world.name(key);
        match &self.handle {
            Handle::Optimistic(txn) => txn.put(name, value),
            Handle::Pessimistic(txn) => txn.put(name, value).await?,
        }
        Ok(())
    }

    pub async fn read(&mut self, key: Key, locked: bool) -> Result<(), Stop> {
        let found = self.get(key, locked).await?;
        let found = found.map(|value| number(&value)).transpose().map_err(Stop::Broken)?;
        self.ops.push(Op::Read { key, found });
        Ok(())
    }

    /// Writes a value of its own. It is noted first: a write that fails may have come about.
    pub async fn write(&mut self, key: Key) -> Result<(), Stop> {
        let value = self.world.value();
        self.ops.push(Op::Write { key, value });
        Ok(self.put(key, value.to_string()).await?)
    }

    pub async fn read_list(&mut self, key: Key, locked: bool) -> Result<Vec<u64>, Stop> {
        let value = self.get(key, locked).await?.unwrap_or_default();
        let found = elements(&value).map_err(Stop::Broken)?;
        self.world.saw_list(key, found.len());
        self.ops.push(Op::ReadList { key, found: found.clone() });
        Ok(found)
    }

    pub async fn append(&mut self, key: Key, locked: bool) -> Result<(), Stop> {
        let mut list = self.read_list(key, locked).await?;
        let element = self.world.value();
        list.push(element);
        self.ops.push(Op::Append { key, element });
        let text: Vec<String> = list.iter().map(u64::to_string).collect();
        Ok(self.put(key, text.join(" ")).await?)
    }

    /// Only optimistic transactions read spans; of the others it is one key after the other.
    pub async fn read_span(&mut self, span: Range<u32>) -> Result<BTreeMap<Key, u64>, Stop> {
        let (start, end) = (Key(span.start), Key(span.end));
        let mut found = BTreeMap::new();
        let Handle::Optimistic(txn) = &self.handle else {
            for key in span.map(Key) {
                self.read(key, false).await?;
                if let Some(Op::Read { found: Some(value), .. }) = self.ops.last() {
                    found.insert(key, *value);
                }
            }
            return Ok(found);
        };
        let query = RangeQuery::between(self.world.name(start), self.world.name(end));
        for entry in txn.range(query).await? {
            let key = self.world.number(&entry.key).context("a key of another form");
            let value = number(&entry.value).map_err(Stop::Broken)?;
            found.insert(key.map_err(Stop::Broken)?, value);
        }
        self.ops.push(Op::ReadSpan { start, end, found: found.clone() });
        Ok(found)
    }

    /// Commits. After `patience` the client dies, as it were, wherever the commit is by then.
    pub async fn commit(self, patience: Duration) -> Result<isolation::Transaction> {
        let commit = async {
            match &self.handle {
                Handle::Optimistic(txn) => txn.commit().await,
                Handle::Pessimistic(txn) => txn.commit().await,
            }
        };
        let Ok(committed) = timeout(patience, commit).await else {
            return Ok(self.ended(Outcome::Unknown));
        };
        let outcome = match committed {
            Ok(version) => Outcome::Committed(version.0),
            Err(error) if is_too_old(&error) => Outcome::Aborted,
            Err(error) => match error.retry_advice() {
                RetryAdvice::Safe => Outcome::Aborted,
                RetryAdvice::OutcomeUnknown => Outcome::Unknown,
                RetryAdvice::Never => bail!("a commit was refused: {error}"),
            },
        };
        Ok(self.ended(outcome))
    }

    pub async fn roll_back(self) -> isolation::Transaction {
        // What cannot be rolled back now is rolled back by whoever meets it.
        let _unreachable = match &self.handle {
            Handle::Optimistic(txn) => txn.rollback().await,
            Handle::Pessimistic(txn) => txn.rollback().await,
        };
        self.ended(Outcome::Aborted)
    }

    fn ended(self, outcome: Outcome) -> isolation::Transaction {
        let Self { world, process, begun, ops, .. } = self;
        isolation::Transaction { process, begun, ended: world.now(), outcome, ops }
    }
}

/// It took longer than old versions are kept, and is refused for good.
fn is_too_old(error: &Error) -> bool {
    matches!(error, Error::Invalid { message, .. } if message.contains("gc_retention"))
}

fn number(value: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(value)?;
    text.parse().with_context(|| format!("no number: {text}"))
}

fn elements(value: &[u8]) -> Result<Vec<u64>> {
    value.split(|byte| *byte == b' ').filter(|part| !part.is_empty()).map(number).collect()
}
