//! Reads many keys, whatever ranges they lie in.
//!
//! Owns: grouping keys by range and putting the answers back in order. Must not know: gRPC.
//! Invariants: values stand in the order of the keys; a page that a node cut short is asked for
//! again from where it ended.

use crate::dispatch::{Call, Dispatcher, Reason, Retry, Verdict};
use crate::errors::Failure;
use crate::operation::{Operation, ReadAt};
use crate::service::get_response;
use crate::transaction::Obstacle;
use bytes::Bytes;
use futures::future::join_all;
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_proto::v1::GetResponse;
use rangedb_types::RangeId;
use rangedb_types::limits::MESSAGE_BYTES_MAX;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Keys in one request to a node: with large values even these make a large answer, which the
/// node may cut short.
const GROUP_KEYS_MAX: usize = 256;
/// Bytes of an answer that are not values.
const VALUE_OVERHEAD_BYTES: usize = 16;

/// Keys of one range, by their place in the request.
type Group = Vec<usize>;

/// Reads keys, all as of one version: the one given or, if there is none, one that shows the latest state.
///
/// # Errors
/// That of the first group that failed, or `TooLarge` if the values do not fit in one answer.
pub async fn batch_get(
    dispatcher: &Dispatcher,
    keys: &[Bytes],
    at: ReadAt,
    deadline: Instant,
    patient: bool,
) -> Result<Vec<GetResponse>, Failure> {
    let (mut values, mut missing, mut answer_bytes) = start(keys);
    let fresh = || Call::new(Instant::now(), deadline, patient);
    let mut call = fresh();
    let mut obstacle = Obstacle::new(deadline);
    let mut at = at;
    while !missing.is_empty() {
        let (groups, unrouted) = group(dispatcher, keys, &missing, deadline).await;
        if at.version.is_zero() && (groups.len() > 1 || missing.len() < keys.len()) {
            // More than one answer shows one state only as of one version.
            at.version = dispatcher.timestamp(deadline).await?;
            (values, missing, answer_bytes) = start(keys);
            continue;
        }
        let attempts = groups.into_iter().map(|group| async {
            let keys = group.iter().map(|i| keys[*i].clone()).collect();
            let operation = Operation::Get { keys, at: at.clone() };
            let verdict = match dispatcher.elsewhere(&operation, deadline).await {
                Some(answered) => Verdict::Done(answered.answer),
                None => dispatcher.attempt(&operation, &fresh()).await.0,
            };
            (group, operation, verdict)
        });
        let mut retry = unrouted;
        let (mut cut_short, mut locked) = (false, None);
        for (group, operation, verdict) in join_all(attempts).await {
            match verdict {
                Verdict::Done(Answer::Get(page)) => {
                    cut_short |= page.values.len() < group.len();
                    for (index, value) in group.into_iter().zip(page.values) {
                        answer_bytes += value.value.len() + VALUE_OVERHEAD_BYTES;
                        values[index] = Some(get_response(value));
                    }
                }
                Verdict::Done(_) => return Err(unexpected()),
                Verdict::Failed(failure) => return Err(failure),
                Verdict::Again(again) => retry = Some((operation, again)),
                Verdict::Locked(intent) => locked = Some((operation, intent)),
            }
        }
        if answer_bytes > MESSAGE_BYTES_MAX {
            return Err(too_large());
        }
        let before = missing.len();
        missing.retain(|index| values[*index].is_none());
        if let Some((mut operation, intent)) = locked {
            obstacle.pass(dispatcher, &mut operation, &intent).await?;
            if let Some(now) = operation.read_at() {
                if now.version != at.version {
                    // What was read so far was the latest, not the state at a version.
                    (values, missing, answer_bytes) = start(keys);
                }
                at = std::mem::take(now);
            }
            continue;
        }
        match retry {
            Some((operation, again)) => dispatcher.prepare(&operation, &mut call, again).await?,
            None if cut_short && missing.len() == before => return Err(unexpected()),
            None => {}
        }
    }
    Ok(values.into_iter().flatten().collect())
}

/// Nothing read yet: values, what is missing, bytes.
fn start(keys: &[Bytes]) -> (Vec<Option<GetResponse>>, Vec<usize>, usize) {
    (vec![None; keys.len()], (0..keys.len()).collect(), 0)
}

/// Groups keys by range; also a key that has no route now, if there is one.
async fn group(
    dispatcher: &Dispatcher,
    keys: &[Bytes],
    wanted: &[usize],
    deadline: Instant,
) -> (Vec<Group>, Option<(Operation, Retry)>) {
    let mut open: BTreeMap<RangeId, Group> = BTreeMap::new();
    let mut full = Vec::new();
    let mut unrouted = None;
    for index in wanted {
        let place = crate::operation::Place::At(keys[*index].clone());
        let Ok(route) = dispatcher.routes.find(&place, deadline).await else {
            let retry = Retry { reason: Reason::NoRoute, range_id: RangeId(0), redirected: false };
            unrouted = Some((Operation::get(vec![keys[*index].clone()]), retry));
            break; // The others may wait for the same lookup; do not wait once for each.
        };
        let group = open.entry(route.descriptor.range_id).or_default();
        group.push(*index);
        if group.len() == GROUP_KEYS_MAX {
            full.push(std::mem::take(group));
        }
    }
    full.extend(open.into_values().filter(|group| !group.is_empty()));
    (full, unrouted)
}

fn too_large() -> Failure {
    let message = format!(
        "the values of these keys have more than {} MiB together; ask for fewer keys",
        MESSAGE_BYTES_MAX >> 20
    );
    Failure::TooLarge { message }
}

/// A node that breaks the protocol.
#[must_use]
pub fn unexpected() -> Failure {
    Failure::Internal {
        message: "a storage node answered something else than was asked".to_owned(),
    }
}
