//! What an action is, what it comes to, and what it proposes.

use crate::access::Refusal;
use crate::latch::Scope;
use crate::read::View;
use bytes::Bytes;
use rangedb_engine::Snapshot;
use rangedb_mvcc::txn::{
    ActionError, Hold, KeyState, Plan, Status, StatusQuery, Transaction, Want, acquire,
    check_reads, commit, finish, firm_up, intents_of, plan, renew, resolve, resolve_keys,
    roll_back, states, status,
};
use rangedb_mvcc::{Mutation, Value};
use rangedb_types::{Span, Timestamp};

/// Intents that one page of `FirmUp` makes firm, and that `CommitSpan` commits.
const FIRM_AT_ONCE: usize = 256;
const TOO_MANY: &str = "too many keys for one round";
/// Intents that one page of `Resolve` settles.
const RESOLVED_AT_ONCE: usize = 512;

/// Versions that one page of `CheckReads` looks at.
const CHECKED_AT_ONCE: usize = 50_000;

const TOO_OLD: Refusal =
    Refusal::OutcomeUnknown("the transaction began too long ago to tell what became of it");

/// One step of a transaction in one range. See `docs/transactions.md`.
#[derive(Clone, Debug)]
pub enum Action {
    Prewrite {
        transaction: Transaction,
        writes: Vec<(Bytes, Want)>,
        /// For the primary, if it is among the writes: the other keys.
        secondaries: Option<Vec<Vec<u8>>>,
    },
    CommitAtOnce {
        transaction: Transaction,
        writes: Vec<(Bytes, Want)>,
    },
    Commit {
        id: Timestamp,
        commit_ts: Timestamp,
        keys: Vec<Bytes>,
        /// Of a primary: other keys are settled after it, and `Finish` follows.
        open: bool,
    },
    Finish {
        id: Timestamp,
        commit_ts: Timestamp,
        primary: Bytes,
    },
    RollBack {
        id: Timestamp,
        keys: Vec<Bytes>,
    },
    Status {
        /// `now` is filled in here.
        query: StatusQuery,
        /// No intent is behind the question: if there is no trace, there may have been one once.
        out_of_interest: bool,
    },
    States {
        id: Timestamp,
        keys: Vec<Bytes>,
        roll_back_absent: bool,
    },
    Resolve {
        id: Timestamp,
        span: Span,
        commit_ts: Option<Timestamp>,
    },
    ResolveKeys {
        id: Timestamp,
        keys: Vec<Bytes>,
        commit_ts: Option<Timestamp>,
    },
    /// Places tentative intents, and gives back what is there.
    Acquire {
        transaction: Transaction,
        writes: Vec<(Bytes, Want)>,
    },
    /// Makes a page of tentative intents firm.
    FirmUp {
        transaction: Transaction,
        span: Span,
    },
    /// Turns all tentative intents of a span into versions, if they are few enough: for transactions all of whose keys
    /// lie in one range.
    CommitSpan {
        transaction: Transaction,
        span: Span,
    },
    Renew {
        id: Timestamp,
        primary: Bytes,
        lifetime_ms: u64,
    },
    CheckReads {
        id: Timestamp,
        snapshot_ts: Timestamp,
        commit_ts: Timestamp,
        keys: Vec<Bytes>,
        /// Cut to the range by the caller; one, if there are no keys.
        spans: Vec<Span>,
    },
}

/// What an action came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The greatest least commit timestamp of its intents.
    Prewritten(Timestamp),
    /// Of a page: the greatest least commit timestamp, and where the next page begins.
    Firm {
        least: Timestamp,
        resume: Option<Bytes>,
    },
    /// The newest committed values, and a timestamp at which they are the newest.
    Acquired {
        values: Vec<Option<Value>>,
        version: Timestamp,
    },
    Committed(Timestamp),
    Status(Status),
    States(Vec<KeyState>),
    /// Where the next page begins.
    Resolved(Option<Bytes>),
    /// The same.
    Checked(Option<Bytes>),
    Nothing,
}

/// What a look came to.
pub(super) enum Looked {
    /// To be proposed as it is; the timestamp is of the versions it makes, or zero.
    Ready {
        mutations: Vec<Mutation>,
        version: Timestamp,
        done: Done,
    },
    /// To be stamped first.
    Unstamped(Vec<Plan>),
    /// The same, of a page of a span.
    Page {
        plans: Vec<Plan>,
        resume: Option<Bytes>,
    },
    Held(Vec<Hold>),
}

impl Action {
    /// What it latches; `None` if it changes nothing.
    pub(super) fn scope(&self) -> Option<Scope> {
        let keys = |writes: &[(Bytes, Want)]| {
            Scope::keys(writes.iter().map(|(key, _)| key.clone()).collect())
        };
        Some(match self {
            Self::Prewrite { writes, .. }
            | Self::CommitAtOnce { writes, .. }
            | Self::Acquire { writes, .. } => keys(writes),
            Self::FirmUp { span, .. } | Self::CommitSpan { span, .. } => Scope::Span(span.clone()),
            Self::Commit { keys, .. }
            | Self::RollBack { keys, .. }
            | Self::ResolveKeys { keys, .. }
            | Self::States { keys, .. } => Scope::keys(keys.clone()),
            Self::Status { query, .. } => Scope::Key(Bytes::copy_from_slice(&query.primary)),
            Self::Renew { primary, .. } | Self::Finish { primary, .. } => {
                Scope::Key(primary.clone())
            }
            Self::Resolve { span, .. } => Scope::Span(span.clone()),
            Self::CheckReads { .. } => return None,
        })
    }

    /// The smallest span that holds all it touches.
    #[must_use]
    pub fn span(&self) -> Span {
        match self {
            Self::Resolve { span, .. }
            | Self::FirmUp { span, .. }
            | Self::CommitSpan { span, .. } => span.clone(),
            Self::Status { query, .. } => Span::of_key(&query.primary),
            Self::Renew { primary, .. } | Self::Finish { primary, .. } => Span::of_key(primary),
            Self::Prewrite { writes, .. }
            | Self::CommitAtOnce { writes, .. }
            | Self::Acquire { writes, .. } => around(writes.iter().map(|(key, _)| key)),
            Self::Commit { keys, .. }
            | Self::RollBack { keys, .. }
            | Self::ResolveKeys { keys, .. }
            | Self::States { keys, .. } => around(keys.iter()),
            Self::CheckReads { keys, spans, .. } => match spans.first() {
                Some(span) => span.clone(),
                None => around(keys.iter()),
            },
        }
    }

    /// Which transaction places firm intents.
    pub(super) const fn prewrites(&self) -> Option<Timestamp> {
        match self {
            Self::Prewrite { transaction, .. } | Self::CommitAtOnce { transaction, .. } => {
                Some(transaction.id)
            }
            _ => None,
        }
    }

    /// Whether it says that no intents are left of what it was to settle.
    pub(super) const fn leaves_none(&self) -> bool {
        matches!(self, Self::Resolve { .. } | Self::ResolveKeys { .. })
    }

    /// Which transaction acquires keys, and the first of them.
    pub(super) fn acquires(&self) -> Option<(Timestamp, Bytes)> {
        let Self::Acquire { transaction, writes } = self else { return None };
        Some((transaction.id, writes.first()?.0.clone()))
    }

    /// Where it begins, and how many bytes it brings.
    #[must_use]
    pub fn extent(&self) -> (Bytes, usize) {
        let bytes = match self {
            Self::Prewrite { writes, .. }
            | Self::CommitAtOnce { writes, .. }
            | Self::Acquire { writes, .. } => writes
                .iter()
                .map(|(key, want)| match want {
                    Want::Put(value) => key.len() + value.len(),
                    Want::Delete | Want::Check => key.len(),
                })
                .sum(),
            _ => 0,
        };
        (Bytes::from(self.span().start), bytes)
    }

    /// Looks at a snapshot. Blocks on the engine.
    // tidy: long because it is one list: an arm for every action.
    pub(super) fn look(&self, view: &View, now: Timestamp) -> Result<Looked, Refusal> {
        let snapshot = &*view.snapshot;
        let ready = |mutations, version, done| Ok(Looked::Ready { mutations, version, done });
        match self {
            Self::Prewrite { transaction, writes, .. }
            | Self::CommitAtOnce { transaction, writes } => {
                let at_once = matches!(self, Self::CommitAtOnce { .. });
                plans(view, transaction, writes, at_once).map(Looked::Unstamped)
            }
            Self::Finish { id, commit_ts, primary } => {
                let mutations = finish(snapshot, *id, primary, *commit_ts)?;
                ready(mutations, Timestamp::ZERO, Done::Nothing)
            }
            Self::Commit { id, commit_ts, keys, open } => {
                let mut mutations = Vec::new();
                for key in keys {
                    mutations.extend(commit(snapshot, *id, key, *commit_ts, *open)?);
                }
                ready(mutations, *commit_ts, Done::Committed(*commit_ts))
            }
            Self::RollBack { id, keys } => {
                let mut mutations = Vec::new();
                for key in keys {
                    mutations.extend(roll_back(snapshot, *id, key)?);
                }
                ready(mutations, Timestamp::ZERO, Done::Nothing)
            }
            Self::Status { query, out_of_interest } => {
                let query = StatusQuery { now, ..query.clone() };
                let (status, mutations) = status(snapshot, &query)?;
                let unknown = status == Status::Absent || !mutations.is_empty();
                if *out_of_interest && unknown && query.id <= view.specials.safe_point {
                    return Err(TOO_OLD);
                }
                ready(mutations, Timestamp::ZERO, Done::Status(status))
            }
            Self::States { id, keys, roll_back_absent } => {
                let (found, mutations) = states(snapshot, *id, keys, *roll_back_absent)?;
                ready(mutations, Timestamp::ZERO, Done::States(found))
            }
            Self::Resolve { id, span, commit_ts } => {
                let page = resolve(snapshot, *id, span, *commit_ts, RESOLVED_AT_ONCE)?;
                let resume = page.resume.map(Bytes::from);
                ready(page.mutations, commit_ts.unwrap_or_default(), Done::Resolved(resume))
            }
            Self::ResolveKeys { id, keys, commit_ts } => {
                let mutations = resolve_keys(snapshot, *id, keys, *commit_ts)?;
                ready(mutations, commit_ts.unwrap_or_default(), Done::Nothing)
            }
            Self::Acquire { transaction, writes } => {
                let tombstones = &view.specials.tombstones;
                let holds = writes.iter().map(|(key, want)| {
                    acquire(snapshot, tombstones, transaction, key.clone(), want.clone())
                });
                let holds: Vec<_> = holds.collect::<Result<_, _>>()?;
                if transaction.id <= view.specials.safe_point {
                    return Err(TOO_OLD);
                }
                Ok(Looked::Held(holds))
            }
            Self::FirmUp { transaction, span } => own_page(snapshot, transaction, span),
            Self::CommitSpan { transaction, span } => {
                let looked = own_page(snapshot, transaction, span)?;
                let Looked::Page { plans, resume: None } = &looked else {
                    return Err(Refusal::Invalid(TOO_MANY.to_owned()));
                };
                if plans.iter().all(|plan| plan.key() != transaction.primary) {
                    // Then it was decided, or says now that it is over.
                    let _ended =
                        commit(snapshot, transaction.id, &transaction.primary, now, false)?;
                    return Err(Refusal::Aborted);
                }
                refuse_firm(plans)?;
                Ok(looked)
            }
            Self::Renew { id, primary, lifetime_ms } => {
                let mutations = renew(snapshot, *id, primary, *lifetime_ms)?;
                ready(mutations, Timestamp::ZERO, Done::Nothing)
            }
            Self::CheckReads { id, snapshot_ts, commit_ts, keys, spans } => {
                view.check_version(*snapshot_ts)?;
                let tombstones = &view.specials.tombstones;
                let times = (*snapshot_ts, *commit_ts);
                let resume =
                    check_reads(snapshot, tombstones, *id, times, keys, spans, CHECKED_AT_ONCE)?;
                ready(Vec::new(), Timestamp::ZERO, Done::Checked(resume.map(Bytes::from)))
            }
        }
    }

    /// What is proposed for plans at a timestamp.
    pub(super) fn stamp(self, plans: Vec<Plan>, version: Timestamp) -> (Vec<Mutation>, Done) {
        match self {
            Self::Prewrite { transaction, secondaries, .. } => {
                let least =
                    plans.iter().map(|plan| plan.least_at(version)).max().unwrap_or(version);
                let mutations = plans.into_iter().flat_map(|plan| {
                    let primary = plan.key() == transaction.primary;
                    let others = secondaries.clone().filter(|_| primary);
                    plan.intent(&transaction, version, others)
                });
                (mutations.collect(), Done::Prewritten(least))
            }
            Self::CommitAtOnce { transaction, .. } => {
                let versions =
                    plans.into_iter().flat_map(|plan| plan.version(&transaction, version));
                (versions.collect(), Done::Committed(version))
            }
            _ => unreachable!("only these make plans"),
        }
    }

    /// The same for a page of a span.
    pub(super) fn stamp_page(
        self,
        plans: Vec<Plan>,
        resume: Option<Bytes>,
        version: Timestamp,
    ) -> (Vec<Mutation>, Done) {
        match self {
            Self::FirmUp { transaction, .. } => {
                let least = plans.iter().map(|plan| plan.least_at(version)).max();
                let mutations =
                    plans.into_iter().flat_map(|plan| plan.intent(&transaction, version, None));
                let least = least.unwrap_or_default();
                (mutations.collect(), Done::Firm { least, resume })
            }
            Self::CommitSpan { transaction, .. } => {
                let versions =
                    plans.into_iter().flat_map(|plan| plan.version(&transaction, version));
                (versions.collect(), Done::Committed(version))
            }
            _ => unreachable!("only these have pages"),
        }
    }

    /// What is proposed for holds at a timestamp.
    pub(super) fn stamp_holds(self, holds: Vec<Hold>, version: Timestamp) -> (Vec<Mutation>, Done) {
        let Self::Acquire { transaction, .. } = self else { unreachable!("only it makes holds") };
        let values = holds.iter().map(|hold| hold.value.clone()).collect();
        let mutations = holds.into_iter().flat_map(|hold| hold.intent(&transaction, version));
        (mutations.collect(), Done::Acquired { values, version })
    }
}

/// A page of a transaction's own intents in a span, to be made firm or committed.
fn own_page(
    snapshot: &dyn Snapshot,
    transaction: &Transaction,
    span: &Span,
) -> Result<Looked, Refusal> {
    let page = intents_of(snapshot, transaction.id, span, FIRM_AT_ONCE)?;
    let plans = page.intents.into_iter().map(|(key, lock)| firm_up(Bytes::from(key), lock));
    Ok(Looked::Page { plans: plans.collect(), resume: page.resume.map(Bytes::from) })
}

/// What is to be written, if nothing stands in the way. That the transaction was committed or rolled back
/// already counts more than anything else that is found.
fn plans(
    view: &View,
    transaction: &Transaction,
    writes: &[(Bytes, Want)],
    at_once: bool,
) -> Result<Vec<Plan>, Refusal> {
    let (mut plans, mut obstacle) = (Vec::with_capacity(writes.len()), None);
    for (key, want) in writes {
        let tombstones = &view.specials.tombstones;
        match plan(&*view.snapshot, tombstones, transaction, key.clone(), want.clone()) {
            Ok(plan) => plans.push(plan),
            Err(over @ (ActionError::Committed { .. } | ActionError::Aborted { .. })) => {
                return Err(over.into());
            }
            Err(error) => drop(obstacle.get_or_insert(error)),
        }
    }
    if let Some(obstacle) = obstacle {
        return Err(obstacle.into());
    }
    // Marks of rolled back transactions below it may be gone, and versions of committed ones.
    if transaction.id <= view.specials.safe_point && plans.iter().any(Plan::is_new) {
        return Err(TOO_OLD);
    }
    if at_once {
        refuse_firm(&plans)?;
    }
    Ok(plans)
}

/// A firm intent of the own transaction: it may be committed by now, at another timestamp. Its primary knows.
fn refuse_firm(plans: &[Plan]) -> Result<(), Refusal> {
    match plans.iter().find_map(|plan| Some((plan.key(), plan.firm()?))) {
        Some((key, lock)) => {
            let key = Bytes::copy_from_slice(key);
            Err(Refusal::KeyLocked { key, lock: Box::new(lock.clone()) })
        }
        None => Ok(()),
    }
}

fn around<'a>(keys: impl Iterator<Item = &'a Bytes> + Clone) -> Span {
    let start = keys.clone().min().map_or_else(Vec::new, |key| key.to_vec());
    let end = keys.max().map_or_else(Vec::new, |key| Span::of_key(key).end);
    Span { start, end }
}
