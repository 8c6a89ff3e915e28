//! What clients do, and what they saw of it.
//!
//! Owns: a client's calls, made as the services make them. Must not know: when its messages arrive.

use super::super::{Isolation, Reads, Token, Want, Write, commit, end, fate_of, write_all};
use crate::batch_get::batch_get;
use crate::dispatch::Dispatcher;
use crate::errors::Failure;
use crate::operation::ReadAt;
use bytes::Bytes;
use parking_lot::Mutex;
use rangedb_types::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

pub(super) type Keys = &'static [&'static str];

/// How a transaction commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    ReadCommitted,
    Snapshot,
    /// As `Snapshot`, but its fate is its primary's alone, as for more keys than an intent can name.
    InTwoRounds,
    Serializable,
}

/// One client's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// Begins, reads at its snapshot, writes, commits.
    Update { reads: Keys, writes: Keys, how: How },
    /// One batch.
    WriteAll(Keys),
    /// Keys as of one version, the latest.
    Read(Keys),
    /// Commits the transaction that began before all others, and is everybody's.
    CommitShared { writes: Keys, how: How },
    /// Rolls it back; the key is its primary.
    RollBackShared(&'static str),
    /// Asks what became of it.
    FateOfShared(&'static str),
}

/// What the values of a shared transaction are.
pub(super) const SHARED: &str = "shared";

/// A value and its version.
pub(super) type Seen = Option<(Vec<u8>, Timestamp)>;

/// What a client saw, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Its transaction, and the greatest version that anybody was told of before.
    Began {
        id: Timestamp,
        told: Timestamp,
    },
    /// Values at a version; `None`: at one that is not known, but shows whatever was told before.
    Read {
        at: Option<Timestamp>,
        told: Timestamp,
        seen: Vec<(&'static str, Seen)>,
    },
    /// A commit's answer.
    Committed(Result<Timestamp, Failure>),
    /// A rollback's.
    RolledBack(Result<(), Failure>),
    /// A question's.
    Fate(Result<Option<Timestamp>, Failure>),
    ReadFailed(Failure),
}

/// All events, with whose they are, in the order in which they came.
pub(super) type Log = Arc<Mutex<Vec<(usize, Event)>>>;

#[derive(Clone)]
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) log: Log,
    pub(super) shared: Timestamp,
    pub(super) patience: Duration,
    pub(super) start: Arc<Start>,
}

/// What a client and its gateway's world know of each other.
#[derive(Default)]
pub(super) struct Start {
    /// The greatest version that anybody was told of before the client's first message was done.
    pub(super) told: AtomicU64,
    /// Of the next answer of the oracle only the time matters: it need not wait for its turn.
    pub(super) only_time: AtomicBool,
}

impl Start {
    pub(super) fn told(&self) -> Timestamp {
        Timestamp(self.told.load(Ordering::Relaxed))
    }
}

pub(super) fn key(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

fn keys(names: Keys) -> Vec<Bytes> {
    names.iter().map(|name| key(name)).collect()
}

/// What a client writes everywhere.
pub(super) fn value_of(number: usize) -> String {
    format!("of {number}")
}

fn puts(names: Keys, value: &str) -> Vec<Write> {
    names.iter().map(|name| Write { key: key(name), want: Want::Put(key(value)) }).collect()
}

impl Client {
    pub(super) async fn run(self, script: Script) {
        let deadline = Instant::now() + self.patience;
        let own = value_of(self.number);
        let event = match script {
            Script::Update { reads, writes, how } => {
                let Ok(id) = self.dispatcher.timestamp(deadline).await else { return };
                self.note(Event::Began { id, told: self.start.told() });
                match self.read(reads, Some(id), deadline).await {
                    Ok(()) => {
                        let reads = if how == How::Serializable { reads } else { &[] };
                        let writes = puts(writes, &own);
                        Event::Committed(self.commit(id, how, writes, reads, deadline).await)
                    }
                    Err(failure) => Event::ReadFailed(failure),
                }
            }
            Script::WriteAll(names) => {
                let done = write_all(&self.dispatcher, puts(names, &own), deadline).await;
                Event::Committed(done)
            }
            Script::Read(names) => match self.read(names, None, deadline).await {
                Ok(()) => return,
                Err(failure) => Event::ReadFailed(failure),
            },
            Script::CommitShared { writes, how } => {
                let writes = puts(writes, SHARED);
                Event::Committed(self.commit(self.shared, how, writes, &[], deadline).await)
            }
            Script::RollBackShared(primary) => {
                Event::RolledBack(end(&self.dispatcher, self.shared, &key(primary), deadline).await)
            }
            Script::FateOfShared(primary) => {
                Event::Fate(fate_of(&self.dispatcher, self.shared, &key(primary), deadline).await)
            }
        };
        self.note(event);
    }

    /// Reads at a version, or the latest.
    pub(super) async fn read(
        &self,
        names: Keys,
        at: Option<Timestamp>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        if names.is_empty() {
            return Ok(());
        }
        let version = ReadAt { version: at.unwrap_or_default(), ..ReadAt::default() };
        let values = batch_get(&self.dispatcher, &keys(names), version, deadline, true).await?;
        let seen = names.iter().zip(values).map(|(name, found)| {
            (*name, found.found.then(|| (found.value.to_vec(), Timestamp(found.version))))
        });
        self.note(Event::Read { at, told: self.start.told(), seen: seen.collect() });
        Ok(())
    }

    async fn commit(
        &self,
        id: Timestamp,
        how: How,
        writes: Vec<Write>,
        reads: Keys,
        deadline: Instant,
    ) -> Result<Timestamp, Failure> {
        let isolation = match how {
            How::ReadCommitted => Isolation::ReadCommitted,
            How::Snapshot | How::InTwoRounds => Isolation::Snapshot,
            How::Serializable => Isolation::Serializable,
        };
        let token = Token { id, isolation, timeout: Duration::from_secs(60), held: None };
        let reads = Reads { keys: keys(reads), spans: Vec::new() };
        let reads = matches!(how, How::Serializable | How::InTwoRounds).then_some(reads);
        self.start.only_time.store(true, Ordering::Relaxed);
        let now = self.dispatcher.timestamp(deadline).await?;
        commit(&self.dispatcher, &token, now, (writes, reads), deadline).await
    }

    fn note(&self, event: Event) {
        self.log.lock().push((self.number, event));
    }
}

/// The greatest version that any client was told of.
pub(super) fn told(log: &Log) -> Timestamp {
    let log = log.lock();
    let told = log.iter().map(|(_, event)| match event {
        Event::Committed(Ok(version)) | Event::Fate(Ok(Some(version))) => *version,
        Event::Read { seen, .. } => {
            let versions = seen.iter().flat_map(|(_, seen)| seen).map(|(_, version)| *version);
            versions.max().unwrap_or_default()
        }
        _ => Timestamp::ZERO,
    });
    told.max().unwrap_or_default()
}
