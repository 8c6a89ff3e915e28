//! One data request by itself, from the wire to the wire: for models, which order the requests themselves.
//!
//! Owns: what of a request means something without replicas: reads, and steps of transactions. Must not know: more
//! than [`super::DataPlane`] about either.

use super::decode::{Op, decode};
use super::{actions, convert};
use crate::access::Refusal;
use crate::read::View;
use crate::txn::{Action, alone};
use rangedb_engine::Snapshot;
use rangedb_mvcc::{Mutation, Seen, TombstoneSet, multi_get};
use rangedb_proto::internal::v1::DataRequest;
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_types::{Span, Timestamp};
use std::sync::Arc;

/// Does a request on a snapshot of the range with this span; `oracle` gives a fresh timestamp at each call. The
/// caller applies the mutations.
pub fn answer(
    snapshot: Arc<dyn Snapshot>,
    range: &Span,
    request: DataRequest,
    oracle: &mut dyn FnMut() -> Timestamp,
) -> (Answer, Vec<Mutation>) {
    attempt(snapshot, range, request, oracle)
        .unwrap_or_else(|refusal| (convert::error(refusal), Vec::new()))
}

fn attempt(
    snapshot: Arc<dyn Snapshot>,
    range: &Span,
    request: DataRequest,
    oracle: &mut dyn FnMut() -> Timestamp,
) -> Result<(Answer, Vec<Mutation>), Refusal> {
    match decode(request)?.operation {
        Op::Get { keys, at } => {
            let read_ts = if at.version.is_zero() { Timestamp::MAX } else { at.version };
            let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
            let seen = Seen { read_ts, pass_over: &at.pass_over };
            let values = multi_get(&*snapshot, &TombstoneSet::empty(), &keys, seen)?;
            Ok((convert::values(values), Vec::new()))
        }
        Op::Action(action) => {
            let action = inside(action, range)?;
            let (done, mutations) = alone::act(&View::alone(snapshot), action, oracle)?;
            Ok((actions::done(done), mutations))
        }
        Op::Scan { .. } | Op::Write { .. } | Op::Status { .. } | Op::Claim { .. } => {
            Err(Refusal::Invalid("a request of another kind".to_owned()))
        }
    }
}

/// As the data plane cuts it.
fn inside(action: Action, range: &Span) -> Result<Action, Refusal> {
    let outside = || Refusal::Invalid("the action leaves the range".to_owned());
    let cut = |span: &Span| range.intersect(span).ok_or_else(outside);
    Ok(match action {
        Action::Resolve { id, span, commit_ts } => {
            Action::Resolve { id, span: cut(&span)?, commit_ts }
        }
        Action::FirmUp { transaction, span } => Action::FirmUp { transaction, span: cut(&span)? },
        Action::CheckReads { id, snapshot_ts, commit_ts, keys, spans } => {
            let spans = spans.iter().map(cut).collect::<Result<_, _>>()?;
            Action::CheckReads { id, snapshot_ts, commit_ts, keys, spans }
        }
        action => {
            let span = action.span();
            if range.intersect(&span).is_none_or(|inside| inside != span) {
                return Err(outside());
            }
            action
        }
    })
}
