//! The writes of one message, done side by side by one task.

use super::metrics;
use super::writer::{NotProposed, Settling, StatusQuery, Write, Writer, propose, refusal_of_latch};
use crate::access::Refusal;
use crate::latch::{Latch, Mode, Scope};
use bytes::Bytes;
use futures::future::{BoxFuture, try_join_all};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use rangedb_types::Timestamp;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Steps before a proposal end at the deadline with words of their own; only what is open this much
/// later is called unknown.
const DEADLINE_GRACE: Duration = Duration::from_millis(20);

/// One request of a batch.
pub enum Work {
    Write(Write),
    Status(StatusQuery),
}

/// A write's version, or what became of the write that was asked about.
pub type WorkResult = Result<Option<Timestamp>, Refusal>;

/// Where one request stands.
struct Slot {
    /// The caller's name for it.
    id: usize,
    deadline: Instant,
    answered: bool,
}

/// A write that needs nothing but a timestamp.
struct Plain {
    slot: usize,
    /// Which of the timestamps it gets: writes of one key get different ones.
    turn: usize,
    write: Write,
    latch: Latch,
}

/// Requests that have taken their places at their latches.
pub struct Batch {
    writer: Arc<Writer>,
    slots: Vec<Slot>,
    plain: Vec<Plain>,
    running: FuturesUnordered<Running>,
    /// Answers that are there already.
    answers: Vec<(usize, WorkResult)>,
}

/// What one future of the batch comes to.
enum Event {
    Done { slot: usize, result: WorkResult },
    Stamped { plain: Vec<Plain>, versions: Result<Vec<Timestamp>, Refusal> },
}

/// One future of the batch. The common one is kept out of a box of its own.
enum Running {
    Settling { slot: usize, settling: Settling },
    Boxed(BoxFuture<'static, Event>),
}

impl Future for Running {
    type Output = Event;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Event> {
        match &mut *self {
            Self::Settling { slot, settling } => {
                let slot = *slot;
                let settled = Pin::new(settling).poll(context);
                settled.map(|result| Event::Done { slot, result: result.map(Some) })
            }
            Self::Boxed(future) => future.as_mut().poll(context),
        }
    }
}

impl Batch {
    /// Takes a place at the latch of every request, in their order.
    #[must_use]
    pub fn new(writer: &Arc<Writer>, work: Vec<(usize, Work)>) -> Self {
        let mut batch = Self {
            writer: Arc::clone(writer),
            slots: Vec::with_capacity(work.len()),
            plain: Vec::with_capacity(work.len()),
            running: FuturesUnordered::new(),
            answers: Vec::new(),
        };
        for (id, work) in work {
            batch.add(id, work);
        }
        batch
    }

    fn add(&mut self, id: usize, work: Work) {
        let (target, scope, mode, deadline) = match &work {
            Work::Write(write) => {
                (&write.target, write.change.scope(), write.mode(), write.deadline)
            }
            Work::Status(query) => {
                let scope = Scope::Key(query.key.clone());
                (&query.target, scope, Mode::Exclusive, query.deadline)
            }
        };
        let latch = match target.state().latches.enqueue(scope, mode) {
            Ok(latch) => latch,
            Err(error) => {
                self.answers.push((id, Err(refusal_of_latch(error))));
                return;
            }
        };
        let slot = self.slots.len();
        let deadline = deadline + DEADLINE_GRACE;
        self.slots.push(Slot { id, deadline, answered: false });
        let writer = Arc::clone(&self.writer);
        let running = match work {
            Work::Write(write) if latch.is_held() && self.writer.is_plain(&write) => {
                self.plain.push(Plain { slot, turn: 0, write, latch });
                return;
            }
            Work::Write(write) => async move {
                let result = writer.write(write, latch).await;
                Event::Done { slot, result: result.map(Some) }
            }
            .boxed(),
            Work::Status(query) => {
                async move { Event::Done { slot, result: writer.status(query, latch).await } }
                    .boxed()
            }
        };
        metrics::PATHS.with_label_values(&["looked"]).inc();
        self.running.push(Running::Boxed(running));
    }

    /// Does the batch, to the end: it returns when every write is settled at this leader, though
    /// every request is answered by its deadline. `answer` gets every id once.
    pub async fn run(mut self, mut answer: impl FnMut(Vec<(usize, WorkResult)>)) {
        let unsettled = i64::try_from(self.slots.len()).unwrap_or(i64::MAX);
        metrics::UNSETTLED.add(unsettled);
        self.fetch_timestamps();
        let now = Instant::now();
        let first = self.slots.iter().map(|slot| slot.deadline).min().unwrap_or(now);
        let timer = sleep_until(first);
        tokio::pin!(timer);
        let mut timer_needed = true;
        loop {
            if !self.answers.is_empty() {
                answer(std::mem::take(&mut self.answers));
            }
            tokio::select! {
                biased;
                event = self.running.next() => {
                    let Some(event) = event else { break };
                    self.handle(event);
                    // Proposals of one Raft entry are settled together: answer them together.
                    while let Some(Some(event)) = self.running.next().now_or_never() {
                        self.handle(event);
                    }
                }
                () = &mut timer, if timer_needed => match self.expire() {
                    Some(next) => timer.as_mut().reset(next),
                    None => timer_needed = false,
                }
            }
        }
        metrics::UNSETTLED.sub(unsettled);
    }

    /// All latches of the plain writes are held now, so one timestamp fetched from here on is
    /// right for all of them that touch different keys; as many are fetched as there are writes of
    /// one key.
    fn fetch_timestamps(&mut self) {
        let mut plain = std::mem::take(&mut self.plain);
        let Some(deadline) = plain.iter().map(|plain| plain.write.deadline).min() else { return };
        metrics::PATHS.with_label_values(&["plain"]).inc_by(plain.len() as u64);
        let turns = take_turns(&mut plain);
        let writer = Arc::clone(&self.writer);
        let fetch = async move {
            let versions = try_join_all((0..turns).map(|_| writer.timestamp(deadline))).await;
            Event::Stamped { plain, versions }
        };
        self.running.push(Running::Boxed(fetch.boxed()));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Done { slot, result } => {
                let slot = &mut self.slots[slot];
                if !slot.answered {
                    slot.answered = true;
                    self.answers.push((slot.id, result));
                }
            }
            Event::Stamped { plain, versions: Ok(versions) } => {
                for plain in plain {
                    let version = versions[plain.turn];
                    self.propose(plain, version);
                }
            }
            Event::Stamped { plain, versions: Err(refusal) } => {
                for Plain { slot, .. } in plain {
                    self.handle(Event::Done { slot, result: Err(refusal.clone()) });
                }
            }
        }
    }

    fn propose(&mut self, plain: Plain, version: Timestamp) {
        let Plain { slot, write, latch, .. } = plain;
        match propose(&write, version) {
            Ok(proposal) => {
                let settling = Settling::new(proposal, latch, write.target);
                self.running.push(Running::Settling { slot, settling });
            }
            Err(NotProposed::Behind) => {
                let writer = Arc::clone(&self.writer);
                let again = async move {
                    let result = writer.stamp_and_propose(write, latch).await;
                    Event::Done { slot, result: result.map(Some) }
                };
                self.running.push(Running::Boxed(again.boxed()));
            }
            Err(NotProposed::Refused(refusal)) => {
                self.handle(Event::Done { slot, result: Err(refusal) });
            }
        }
    }

    /// Answers what is past its deadline; says when to look again. Steps before a proposal end by
    /// themselves at the deadline, so what is still open may be in a log.
    fn expire(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut next = None;
        for slot in self.slots.iter_mut().filter(|slot| !slot.answered) {
            if slot.deadline <= now {
                slot.answered = true;
                let refusal = Refusal::OutcomeUnknown("the deadline passed while it was under way");
                self.answers.push((slot.id, Err(refusal)));
            } else {
                next = Some(next.map_or(slot.deadline, |next: Instant| next.min(slot.deadline)));
            }
        }
        next
    }
}

/// Gives writes of one key different turns, in their order; says how many turns there are.
fn take_turns(plain: &mut [Plain]) -> usize {
    if plain.len() < 2 {
        return plain.len();
    }
    let mut of_keys: HashMap<Bytes, usize> = HashMap::with_capacity(plain.len());
    for plain in plain.iter_mut() {
        let turns = of_keys.entry(plain.write.change.extent().0).or_default();
        plain.turn = *turns;
        *turns += 1;
    }
    of_keys.into_values().max().unwrap_or(0)
}
