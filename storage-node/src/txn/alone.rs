//! An action by itself, as one step: for models of transactions, which order the steps themselves.
//!
//! Owns: the order of an action's parts without latches, consensus and reads beside it. Must not know: more than
//! [`super::Actor`] about what an action means. Invariant: the caller applies the mutations before it looks again.

use super::action::{Action, Done, Looked};
use crate::access::Refusal;
use crate::read::View;
use rangedb_mvcc::Mutation;
use rangedb_types::Timestamp;

/// Does an action on a view that nobody changes meanwhile. `oracle` gives a fresh timestamp at each call.
///
/// # Errors
/// As [`super::Actor::act`], but that it waits for nobody.
pub fn act(
    view: &View,
    action: Action,
    oracle: &mut dyn FnMut() -> Timestamp,
) -> Result<(Done, Vec<Mutation>), Refusal> {
    let now = match &action {
        Action::Status { .. } => oracle(),
        _ => Timestamp::ZERO,
    };
    let (mutations, done) = match action.look(view, now)? {
        Looked::Ready { mutations, done, .. } => (mutations, done),
        Looked::Unstamped(plans) => action.stamp(plans, oracle()),
        Looked::Page { plans, resume } => action.stamp_page(plans, resume, oracle()),
        Looked::Held(holds) => action.stamp_holds(holds, oracle()),
    };
    Ok((done, mutations))
}
