//! Pessimistic transactions: intents at every call, made firm at the commit.

use super::commit::{CLEAN_UP_TIMEOUT, LIFETIME, Reads, Write};
use super::fate::{Fate, Haste, Inquiry};
use super::ranges::{on_each, walk};
use super::reads::Check;
use super::steps::{act, at, commit_primary, finish};
use super::token::{Held, Token};
use crate::dispatch::Dispatcher;
use crate::errors::Failure;
use crate::operation::{Action, Reach};
use bytes::Bytes;
use rangedb_proto::internal::v1::NodeValue;
use rangedb_proto::internal::v1::node_action::{self, Kind, OwnSpan};
use rangedb_types::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The longest key that may decide: it travels in the token.
pub const PRIMARY_BYTES_MAX: usize = 1_500;
/// How long, in oracle time, a transaction lives without being renewed.
const HELD_LIFETIME: Duration = Duration::from_secs(10);
/// Keys that are committed in one round, if they lie in one range.
const AT_ONCE_MAX: u32 = 256;

/// Places tentative intents, in the order of their keys, each once; waits for those that hold them.
/// Gives the values that were there, and the token with them in it. `read`: the values count as read.
///
/// # Errors
/// `WriteConflict`, `Aborted`, `KeyLocked`; then some of the intents may be there. `Deadlock`: the transaction is
/// rolled back.
pub async fn acquire(
    dispatcher: &Arc<Dispatcher>,
    token: &Token,
    now: Timestamp,
    (writes, read): (Vec<Write>, bool),
    deadline: Instant,
) -> Result<(Vec<NodeValue>, Token), Failure> {
    let mut token = token.clone();
    let Some(held) = &mut token.held else { return Err(optimistic()) };
    let first = held.primary.is_empty();
    if first {
        held.primary = writes[0].key.clone();
        if held.primary.len() > PRIMARY_BYTES_MAX {
            let words = format!(
                "the first key of a pessimistic transaction has {PRIMARY_BYTES_MAX} bytes at most"
            );
            return Err(Failure::invalid("writes.key", words));
        }
    }
    held.calls += 1;
    held.keys = held.keys.saturating_add(u32::try_from(writes.len()).unwrap_or(u32::MAX));
    writes.iter().for_each(|write| held.spans.add(&write.key));
    let transaction = wire(&token, now);
    let step = |part: &[usize]| {
        Kind::Acquire(node_action::Acquire {
            transaction: Some(transaction.clone()),
            writes: part.iter().map(|at| writes[*at].to_wire()).collect(),
        })
    };
    // The primary stands before any other, so that nobody who meets another finds nothing there.
    let (before, after) = if first { (vec![0], 1) } else { (Vec::new(), 0) };
    let mut values = vec![NodeValue::default(); writes.len()];
    let mut version = Timestamp::ZERO;
    for wanted in [before, (after..writes.len()).collect()] {
        let done = on_each(dispatcher, &writes, wanted, deadline, &step).await;
        if let Some(failure) = done.failure {
            if let Failure::Deadlock { .. } = failure {
                // Also what this call has taken, which is in no other token.
                give_up(dispatcher, &token);
            }
            return Err(failure);
        }
        for (part, result) in done.results {
            version = version.max(Timestamp(result.version));
            for (at, value) in part.into_iter().zip(result.values) {
                values[at] = value;
            }
        }
    }
    if let Some(held) = &mut token.held
        && read
        && held.snapshot.is_zero()
    {
        // All of it is the newest at the latest of the looks: nobody wrote it since.
        held.snapshot = version;
    }
    Ok((values, token))
}

/// Lengthens the life of a transaction that is at work.
///
/// # Errors
/// `Aborted` or `Committed` if it is over.
pub async fn renew(
    dispatcher: &Dispatcher,
    token: &Token,
    now: Timestamp,
    deadline: Instant,
) -> Result<(), Failure> {
    let held = token.held.as_ref().ok_or_else(optimistic)?;
    if held.primary.is_empty() {
        return Ok(());
    }
    let kind = Kind::Renew(node_action::Renew {
        id: token.id.0,
        primary: held.primary.clone(),
        lifetime_ms: lifetime_ms(token, now),
    });
    act(dispatcher, at(&held.primary, kind), deadline).await.map(|_| ())
}

fn lifetime_ms(token: &Token, now: Timestamp) -> u64 {
    u64::try_from((now.since(token.id) + HELD_LIFETIME).as_millis()).unwrap_or(u64::MAX)
}

fn wire(token: &Token, now: Timestamp) -> node_action::Transaction {
    let held = token.held.clone().unwrap_or_default();
    node_action::Transaction {
        id: token.id.0,
        snapshot_version: token.read_version().0,
        primary: held.primary,
        lifetime_ms: lifetime_ms(token, now),
        sequence: held.calls,
    }
}

fn optimistic() -> Failure {
    let words = "this transaction is optimistic: it holds nothing before its Commit";
    Failure::invalid("token", words)
}

/// Commits what a transaction holds. `reads` are those of a serializable one.
///
/// # Errors
/// `TransactionUnknown` if it may have been committed; anything else means that it surely was not.
pub async fn commit_held(
    dispatcher: &Arc<Dispatcher>,
    token: &Token,
    now: Timestamp,
    reads: Option<Reads>,
    deadline: Instant,
) -> Result<Timestamp, Failure> {
    let held = token.held.clone().ok_or_else(optimistic)?;
    if held.primary.is_empty() {
        return Ok(token.id);
    }
    let commit = Committing { dispatcher, token, held, transaction: wire(token, now), deadline };
    if reads.is_none() && commit.held.keys <= AT_ONCE_MAX {
        match commit.at_once().await {
            Err(Failure::SeveralRanges | Failure::Invalid { .. }) => {}
            done => return done.or_else(|failure| commit.judge(failure)),
        }
    }
    let done = commit.in_two_rounds(reads.as_ref()).await;
    let done = done.or_else(|failure| commit.judge(failure));
    match &done {
        Ok(version) => commit.clean_up(Some(*version)),
        // What it has read is not so any more, or it is the one of two that gives way: nobody need wait for it.
        Err(Failure::WriteConflict { .. } | Failure::KeyLocked { .. }) => {
            give_up(dispatcher, token);
        }
        Err(Failure::TransactionUnknown { .. }) => {}
        // It holds what it held: the client may roll it back, or try again.
        Err(_) => {}
    }
    done
}

/// Rolls a transaction back behind the answer.
fn give_up(dispatcher: &Arc<Dispatcher>, token: &Token) {
    let (after, token) = (Arc::clone(dispatcher), token.clone());
    dispatcher.do_after(async move {
        let deadline = Instant::now() + CLEAN_UP_TIMEOUT;
        if let Err(error) = roll_back_held(&after, &token, deadline).await {
            tracing::debug!(%error, id = %token.id, "a transaction was not rolled back");
        }
    });
}

/// Rolls back what a transaction holds.
///
/// # Errors
/// `Committed` if it was committed.
pub async fn roll_back_held(
    dispatcher: &Arc<Dispatcher>,
    token: &Token,
    deadline: Instant,
) -> Result<(), Failure> {
    let held = token.held.clone().ok_or_else(optimistic)?;
    if held.primary.is_empty() {
        return Ok(());
    }
    let inquiry = Inquiry {
        dispatcher,
        id: token.id,
        primary: &held.primary,
        push_above: Timestamp::ZERO,
        haste: Haste::Now,
        out_of_interest: false,
        deadline,
    };
    match inquiry.fate().await? {
        Fate::Committed(version) => return Err(Failure::Committed { version }),
        Fate::RolledBack | Fate::Undecided { .. } => {}
    }
    let transaction = wire(token, token.id);
    let commit = Committing { dispatcher, token, held, transaction, deadline };
    commit.settle_spans(None).await
}

struct Committing<'a> {
    dispatcher: &'a Arc<Dispatcher>,
    token: &'a Token,
    held: Held,
    transaction: node_action::Transaction,
    deadline: Instant,
}

impl Committing<'_> {
    fn judge(&self, failure: Failure) -> Result<Timestamp, Failure> {
        match failure {
            Failure::Committed { version } => Ok(version),
            Failure::OutcomeUnknown { .. } => Err(Failure::TransactionUnknown {
                id: self.token.id,
                primary: self.held.primary.clone(),
            }),
            failure => Err(failure),
        }
    }

    fn own(&self, start: &Bytes, end: &Bytes) -> OwnSpan {
        let transaction = Some(self.transaction.clone());
        OwnSpan { transaction, start: start.clone(), end: end.clone() }
    }

    /// One round of consensus, if all spans lie in one range.
    async fn at_once(&self) -> Result<Timestamp, Failure> {
        let spans = self.held.spans.as_slice();
        let (Some((start, _)), Some((_, end))) = (spans.first(), spans.last()) else {
            return Ok(self.token.id);
        };
        let kind = Kind::CommitSpan(self.own(start, end));
        let action = Action { first: start.clone(), reach: Reach::Below(end.clone()), kind };
        let result = act(self.dispatcher, action, self.deadline).await?;
        Ok(Timestamp(result.version))
    }

    async fn in_two_rounds(&self, reads: Option<&Reads>) -> Result<Timestamp, Failure> {
        let undecided = |failure| match failure {
            Failure::OutcomeUnknown { .. } => Failure::RangeUnavailable {
                range_id: rangedb_types::RangeId(0),
                why: "its keys could not be made firm in time".to_owned(),
            },
            failure => failure,
        };
        let firm = |start: &Bytes, end: &Bytes| Kind::FirmUp(self.own(start, end));
        let spans = self.held.spans.as_slice();
        walk(self.dispatcher, spans, self.deadline, &firm).await.map_err(undecided)?;
        loop {
            let version = self.dispatcher.timestamp(self.deadline).await?;
            if let Some(reads) = reads {
                let check = Check {
                    dispatcher: self.dispatcher,
                    id: self.token.id,
                    snapshot: self.token.read_version(),
                    version,
                    deadline: self.deadline,
                };
                check.all(reads).await.map_err(undecided)?;
            }
            let (id, primary) = (self.token.id, &self.held.primary);
            match commit_primary(self.dispatcher, id, primary, version, true, self.deadline).await {
                Err(Failure::CommitTooEarly { .. }) => {}
                done => return done,
            }
        }
    }

    async fn settle_spans(&self, version: Option<Timestamp>) -> Result<(), Failure> {
        let resolve = |start: &Bytes, end: &Bytes| {
            Kind::Resolve(node_action::Resolve {
                id: self.token.id.0,
                commit_version: version.unwrap_or_default().0,
                start: start.clone(),
                end: end.clone(),
                keys: Vec::new(),
            })
        };
        walk(self.dispatcher, self.held.spans.as_slice(), self.deadline, &resolve).await
    }

    /// Settles what is left behind the answer.
    fn clean_up(&self, version: Option<Timestamp>) {
        let (dispatcher, token) = (Arc::clone(self.dispatcher), self.token.clone());
        let (held, transaction) = (self.held.clone(), self.transaction.clone());
        self.dispatcher.do_after(async move {
            let deadline = Instant::now() + CLEAN_UP_TIMEOUT.max(LIFETIME);
            let primary = held.primary.clone();
            let left =
                Committing { dispatcher: &dispatcher, token: &token, held, transaction, deadline };
            let settled = async {
                left.settle_spans(version).await?;
                match version {
                    Some(version) => {
                        finish(&dispatcher, token.id, &primary, version, deadline).await
                    }
                    None => Ok(()),
                }
            };
            if let Err(error) = settled.await {
                tracing::debug!(%error, id = %token.id, "a transaction was not cleaned up behind");
            }
        });
    }
}
