//! Steps on many keys, cut by ranges.

use super::pace::Pace;
use super::steps::act;
use crate::dispatch::Dispatcher;
use crate::errors::Failure;
use crate::operation::{Action, Place, Reach};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use rangedb_proto::internal::v1::NodeActionResult;
use rangedb_proto::internal::v1::node_action::Kind;
use tokio::time::Instant;

/// Most of one step of something small, which is to be one round of consensus; and how many of its steps are under
/// way at a time.
const SMALL: Limits = Limits { bytes: 1 << 20, keys: 256 };
const SMALL_AT_A_TIME: usize = 8;
/// Keys that are looked at before others get their turn.
const KEYS_A_TURN: usize = 512;
/// How often keys, or parts of a span, are cut anew because the bounds of their ranges changed.
const CUTS_MAX: usize = 64;

/// How much one step may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) bytes: usize,
    pub(super) keys: usize,
}

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

/// Cuts keys by ranges, as far as those are known.
struct Cutter<'a> {
    dispatcher: &'a Dispatcher,
    deadline: Instant,
    /// Of the range that the last part is in.
    end: Option<Vec<u8>>,
}

impl<'a> Cutter<'a> {
    const fn new(dispatcher: &'a Dispatcher, deadline: Instant) -> Self {
        Self { dispatcher, deadline, end: None }
    }

    /// How many of `wanted` (indexes into `items`, which are in the order of their keys; at least one) are the next
    /// step.
    async fn next<T: AtKey>(
        &mut self,
        items: &[T],
        wanted: &[usize],
        limits: Limits,
    ) -> Result<usize, Failure> {
        let inside = |end: &[u8], key: &Bytes| end.is_empty() || key[..] < *end;
        let first = items[wanted[0]].key();
        let end = match self.end.take() {
            Some(end) if inside(&end, first) => end,
            _ => self.range_end(first).await?,
        };
        let mut bytes = 0;
        let fits = |index: &&usize| {
            let item = &items[**index];
            bytes += item.byte_size();
            bytes <= limits.bytes && inside(&end, item.key())
        };
        let count = wanted.iter().take(limits.keys).take_while(fits).count();
        self.end = Some(end);
        // What is larger than a step is a step.
        Ok(count.max(1))
    }

    async fn range_end(&self, key: &Bytes) -> Result<Vec<u8>, Failure> {
        let found = self.dispatcher.routes.find(&Place::At(key.clone()), self.deadline).await;
        let route =
            found.map_err(|error| Failure::PlacementUnavailable { why: error.to_string() })?;
        Ok(route.descriptor.span.end.clone())
    }

    /// All of `wanted` in steps of something small.
    async fn all<T: AtKey>(
        &mut self,
        items: &[T],
        mut wanted: &[usize],
    ) -> Result<Vec<Vec<usize>>, Failure> {
        let (mut parts, mut keys) = (Vec::new(), 0);
        while !wanted.is_empty() {
            let (part, rest) = wanted.split_at(self.next(items, wanted, SMALL).await?);
            parts.push(part.to_vec());
            wanted = rest;
            keys += part.len();
            if keys >= KEYS_A_TURN {
                // Others share this thread.
                tokio::task::yield_now().await;
                keys = 0;
            }
        }
        Ok(parts)
    }
}

/// How many of the writes, from the first on, are their first step.
pub(super) async fn first_step<T: AtKey>(
    dispatcher: &Dispatcher,
    items: &[T],
    deadline: Instant,
) -> Result<usize, Failure> {
    let all: Vec<_> = (0..items.len()).collect();
    let limits = if is_large(items, &all) { Pace::new().limits() } else { SMALL };
    Cutter::new(dispatcher, deadline).next(items, &all, limits).await
}

/// True for what is written in small steps, one at a time.
pub(super) fn is_large<T: AtKey>(items: &[T], wanted: &[usize]) -> bool {
    if !T::WRITTEN {
        return false;
    }
    let bytes = wanted.iter().map(|index| items[*index].byte_size()).sum::<usize>();
    bytes > SMALL.bytes || wanted.len() > SMALL.keys * SMALL_AT_A_TIME
}

/// Does a step for every part, and again for what has to be cut anew. Once one has failed, none is begun.
pub(super) async fn on_each<T: AtKey>(
    dispatcher: &Dispatcher,
    items: &[T],
    wanted: Vec<usize>,
    deadline: Instant,
    step: &(dyn Fn(&[usize]) -> Kind + Sync),
) -> Done {
    let steps = Steps { dispatcher, items, deadline, step };
    let mut results = Vec::new();
    let done = if is_large(items, &wanted) {
        steps.in_turn(&wanted, &mut results).await
    } else {
        steps.side_by_side(wanted, &mut results).await
    };
    Done { results, failure: done.err() }
}

/// What [`on_each`] does.
struct Steps<'a, T> {
    dispatcher: &'a Dispatcher,
    items: &'a [T],
    deadline: Instant,
    step: &'a (dyn Fn(&[usize]) -> Kind + Sync),
}

type Results = Vec<(Vec<usize>, NodeActionResult)>;

impl<T: AtKey> Steps<'_, T> {
    async fn side_by_side(&self, wanted: Vec<usize>, done: &mut Results) -> Result<(), Failure> {
        let mut left = wanted;
        for _ in 0..CUTS_MAX {
            let parts = Cutter::new(self.dispatcher, self.deadline).all(self.items, &left).await?;
            left = Vec::new();
            let steps = stream::iter(parts).map(async |part| (self.act(&part).await, part));
            let mut steps = std::pin::pin!(steps.buffer_unordered(SMALL_AT_A_TIME));
            while let Some((result, part)) = steps.next().await {
                match result {
                    Err(Failure::SeveralRanges) => left.extend(part),
                    result => done.push((part, result?)),
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            left.sort_unstable();
        }
        Err(Failure::SeveralRanges)
    }

    async fn in_turn(&self, wanted: &[usize], done: &mut Results) -> Result<(), Failure> {
        let (mut pace, mut cuts) = (Pace::new(), 0);
        let mut cutter = Cutter::new(self.dispatcher, self.deadline);
        let mut left = wanted;
        while !left.is_empty() {
            let count = cutter.next(self.items, left, pace.limits()).await?;
            let (part, rest) = left.split_at(count);
            let begun = Instant::now();
            match self.act(part).await {
                Err(Failure::SeveralRanges) if cuts < CUTS_MAX => {
                    cuts += 1;
                    cutter = Cutter::new(self.dispatcher, self.deadline);
                }
                result => {
                    done.push((part.to_vec(), result?));
                    pace.took(begun.elapsed());
                    left = rest;
                    cuts = 0;
                }
            }
        }
        Ok(())
    }

    async fn act(&self, part: &[usize]) -> Result<NodeActionResult, Failure> {
        let key = |index: usize| self.items[index].key().clone();
        let (first, last) = (key(part[0]), key(part[part.len() - 1]));
        let action = Action { first, reach: Reach::Key(last), kind: (self.step)(part) };
        act(self.dispatcher, action, self.deadline).await
    }
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
