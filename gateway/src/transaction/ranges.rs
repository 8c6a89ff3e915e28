//! Steps on many keys, cut by ranges.

use super::steps::act;
use crate::dispatch::Dispatcher;
use crate::errors::Failure;
use crate::operation::{Action, Place, Reach};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use rangedb_proto::internal::v1::NodeActionResult;
use rangedb_proto::internal::v1::node_action::Kind;
use tokio::time::Instant;

/// Most keys of one step.
const KEYS_MAX: usize = 256;
/// Most bytes of one step of something small, which is to be one round of consensus; and how many of its steps
/// are under way at a time.
const BYTES_MAX: usize = 1 << 20;
const AT_A_TIME: usize = 8;
/// The same of writes that are large, that is of more bytes than one such step or more keys than so many: others'
/// writes share processors, logs and disks with it, and wait no longer than such a step takes.
const LARGE_BYTES_MAX: usize = 8 << 10;
const LARGE_KEYS_MAX: usize = 32;
const LARGE_AT_A_TIME: usize = 1;
/// Keys that are looked at before others get their turn.
const KEYS_A_TURN: usize = 512;
/// How often keys, or parts of a span, are cut anew because the bounds of their ranges changed.
const CUTS_MAX: usize = 64;

/// Something to be done at a key.
pub trait AtKey: Sync {
    /// Steps on many of it are cut small: they go into logs.
    const WRITTEN: bool = true;

    fn key(&self) -> &Bytes;
    fn byte_size(&self) -> usize;
}

impl AtKey for Bytes {
    const WRITTEN: bool = false;

    fn key(&self) -> &Bytes {
        self
    }

    fn byte_size(&self) -> usize {
        self.len()
    }
}

/// What became of the parts.
pub(super) struct Done {
    pub(super) results: Vec<(Vec<usize>, NodeActionResult)>,
    /// The first that failed; some others may have been done.
    pub(super) failure: Option<Failure>,
}

/// Parts of `wanted` (indexes into `items`, which are in the order of their keys), each in one range as far as is
/// known, and small enough for one step.
pub(super) async fn cut<T: AtKey>(
    dispatcher: &Dispatcher,
    items: &[T],
    wanted: &[usize],
    deadline: Instant,
) -> Result<Vec<Vec<usize>>, Failure> {
    let mut parts: Vec<Vec<usize>> = Vec::new();
    let mut end: Option<Vec<u8>> = None;
    let large = is_large(items, wanted);
    let (bytes_max, keys_max) =
        if large { (LARGE_BYTES_MAX, LARGE_KEYS_MAX) } else { (BYTES_MAX, KEYS_MAX) };
    let mut bytes = 0;
    for (number, index) in wanted.iter().enumerate() {
        if number % KEYS_A_TURN == KEYS_A_TURN - 1 {
            // Others share this thread.
            tokio::task::yield_now().await;
        }
        let item = &items[*index];
        let inside = end.as_ref().is_some_and(|end| end.is_empty() || item.key()[..] < end[..]);
        bytes += item.byte_size();
        let full = parts.last().is_none_or(|part| part.len() >= keys_max) || bytes > bytes_max;
        if !inside || full {
            if !inside {
                let place = Place::At(item.key().clone());
                let found = dispatcher.routes.find(&place, deadline).await;
                let route = found
                    .map_err(|error| Failure::PlacementUnavailable { why: error.to_string() })?;
                end = Some(route.descriptor.span.end.clone());
            }
            parts.push(Vec::new());
            bytes = item.byte_size();
        }
        parts.last_mut().expect("pushed above").push(*index);
    }
    Ok(parts)
}

/// True for what is written in small steps, one at a time.
pub(super) fn is_large<T: AtKey>(items: &[T], wanted: &[usize]) -> bool {
    if !T::WRITTEN {
        return false;
    }
    let bytes = wanted.iter().map(|index| items[*index].byte_size()).sum::<usize>();
    bytes > BYTES_MAX || wanted.len() > KEYS_MAX * AT_A_TIME
}

/// Does a step for every part, side by side, and again for what has to be cut anew. Once one has failed,
/// none is begun.
pub(super) async fn on_each<T: AtKey>(
    dispatcher: &Dispatcher,
    items: &[T],
    wanted: Vec<usize>,
    deadline: Instant,
    step: &(dyn Fn(&[usize]) -> Kind + Sync),
) -> Done {
    let mut done = Done { results: Vec::new(), failure: None };
    let large = is_large(items, &wanted);
    let at_a_time = if large { LARGE_AT_A_TIME } else { AT_A_TIME };
    let mut left = wanted;
    for _ in 0..CUTS_MAX {
        let parts = match cut(dispatcher, items, &left, deadline).await {
            Ok(parts) => parts,
            Err(failure) => {
                done.failure = Some(failure);
                return done;
            }
        };
        left = Vec::new();
        let steps = stream::iter(parts).map(|part| async move {
            let first = items[part[0]].key().clone();
            let last = items[part[part.len() - 1]].key().clone();
            let action = Action { first, reach: Reach::Key(last), kind: step(&part) };
            let result = act(dispatcher, action, deadline).await;
            (part, result)
        });
        let mut steps = std::pin::pin!(steps.buffer_unordered(at_a_time));
        while let Some((part, result)) = steps.next().await {
            match result {
                Ok(result) => done.results.push((part, result)),
                Err(Failure::SeveralRanges) => left.extend(part),
                Err(failure) => {
                    done.failure.get_or_insert(failure);
                }
            }
            if done.failure.is_some() {
                return done;
            }
        }
        if left.is_empty() {
            return done;
        }
        left.sort_unstable();
    }
    done.failure = Some(Failure::SeveralRanges);
    done
}

/// Does a step in every part of every span (start, and exclusive end or nothing), page by page; each is in one
/// range.
pub(super) async fn walk(
    dispatcher: &Dispatcher,
    spans: &[(Bytes, Bytes)],
    deadline: Instant,
    step: &(dyn Fn(&Bytes, &Bytes) -> Kind + Sync),
) -> Result<(), Failure> {
    for (start, end) in spans {
        let (mut start, mut cuts) = (start.clone(), 0);
        loop {
            let place = Place::At(start.clone());
            let range_end = dispatcher.range_end(&place, deadline).await?;
            let is_last = range_end.is_empty() || (!end.is_empty() && *end <= range_end);
            let part_end = if is_last { end.clone() } else { range_end };
            let reach = Reach::Below(part_end.clone());
            let action = Action { first: start.clone(), reach, kind: step(&start, &part_end) };
            match act(dispatcher, action, deadline).await {
                Ok(NodeActionResult { resume: Some(resume), .. }) => start = resume,
                Ok(_) if is_last => break,
                Ok(_) => start = part_end,
                Err(Failure::SeveralRanges) if cuts < CUTS_MAX => cuts += 1,
                Err(failure) => return Err(failure),
            }
        }
    }
    Ok(())
}
