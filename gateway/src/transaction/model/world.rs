//! Everything that coordinators talk to, as one thing that somebody else drives step by step: which message
//! arrives next, who crashes, when time passes.
//!
//! Owns: messages on their way, the oracle, the clock, what was told to whom. Must not know: in which order things
//! should happen, or whether what happened is right. Invariants: nothing runs but between two steps; a run is
//! determined by its steps.

use super::gateway::{self, Gateway, Pending};
use super::node::{Node, Sabotage, describe, outcome, short};
use super::script::{Client, Log, Script};
use super::store::Store;
use crate::nodes::Outcome;
use prost::Message as _;
use rangedb_proto::internal::v1::data_response::Result as Answer;
use rangedb_proto::internal::v1::{DataRequest, DataResponse};
use rangedb_types::{RequestId, Timestamp};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Longer than any pause between attempts, shorter than a lifetime.
pub(super) const NAP: Duration = Duration::from_millis(1_100);
/// Longer than a lifetime.
pub(super) const LONG: Duration = Duration::from_millis(4_300);

/// Where the keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ranges {
    One,
    /// A range for each key.
    Two,
    /// Two for the first gateway, one for all others: ranges were merged, or will be.
    Merging,
}

/// What is explored.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) ranges: Ranges,
    pub(super) clients: Vec<Script>,
    /// How long a client waits for its answer.
    pub(super) patience: Duration,
    pub(super) bounds: Bounds,
    pub(super) sabotage: Option<Sabotage>,
    /// States are told apart by the order of a gateway's answers, too: more of them, for small scenarios.
    pub(super) exact: bool,
}

/// How often a run may be disturbed.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Bounds {
    pub(super) crashes: usize,
    /// Callers that are told that the connection broke.
    pub(super) losses: usize,
    /// Pauses after which those who wait look again.
    pub(super) naps: usize,
    /// Pauses after which lifetimes are over.
    pub(super) longs: usize,
    /// How often all wait, and still everything may happen after that; from then on all goes its way in turn.
    pub(super) waits: usize,
}

/// One thing that can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The oracle answers a gateway.
    Oracle(usize),
    /// A message is done and answered.
    Deliver(usize),
    /// A message whose sender has given up on it is done.
    DeliverLate(usize),
    /// A message's sender gives up on it; it may be done later, or never.
    Lose(usize),
    /// A gateway dies.
    Crash(usize),
    Nap,
    Long,
}

pub(super) struct World {
    pub(super) store: Store,
    pub(super) log: Log,
    /// What happened, a line each, if somebody wants to read it.
    pub(super) trace: Option<Vec<String>>,
    pub(super) shared: Timestamp,
    gateways: Vec<Gateway>,
    ranges: Ranges,
    pending: Vec<Pending>,
    late: Vec<Pending>,
    left: Bounds,
    /// Nothing is chosen any more.
    in_turn: bool,
    last: Timestamp,
    start: Instant,
    exact: bool,
    /// All clients do the same.
    alike: bool,
    sabotage: Option<Sabotage>,
    patience: Duration,
}

impl World {
    /// Keys with first values, and every client about to begin.
    pub(super) fn new(scenario: &Scenario, traced: bool) -> Self {
        let mut world = Self {
            store: Store::default(),
            log: Log::default(),
            trace: traced.then(Vec::new),
            shared: Timestamp::ZERO,
            gateways: Vec::new(),
            ranges: scenario.ranges,
            pending: Vec::new(),
            late: Vec::new(),
            left: scenario.bounds,
            in_turn: false,
            last: Timestamp::ZERO,
            start: Instant::now(),
            exact: scenario.exact,
            alike: scenario.clients.windows(2).all(|pair| pair[0] == pair[1])
                && scenario.ranges != Ranges::Merging,
            sabotage: scenario.sabotage,
            patience: scenario.patience,
        };
        let first = world.oracle();
        for name in ["a", "b"] {
            let put = rangedb_mvcc::put(name.as_bytes(), b"first", first, RequestId(7));
            world.store.apply(&put);
        }
        world.shared = world.oracle();
        for script in &scenario.clients {
            let client = world.add_gateway();
            let number = client.number;
            world.gateways[number].client = Some(tokio::spawn(client.run(*script)));
        }
        world
    }

    /// A gateway, and a client of it that does nothing yet.
    pub(super) fn add_gateway(&mut self) -> Client {
        let ranges: &[u64] = match self.ranges {
            Ranges::Two => &[2, 3],
            Ranges::Merging if self.gateways.is_empty() => &[2, 3],
            Ranges::One | Ranges::Merging => &[1],
        };
        let (gateway, dispatcher) = Gateway::new(ranges, self.exact);
        let start = Arc::clone(&gateway.start);
        self.gateways.push(gateway);
        Client {
            number: self.gateways.len() - 1,
            dispatcher,
            log: Arc::clone(&self.log),
            shared: self.shared,
            patience: self.patience,
            start,
        }
    }

    pub(super) fn spawn(&mut self, number: usize, work: impl Future<Output = ()> + Send + 'static) {
        self.gateways[number].client = Some(tokio::spawn(work));
    }

    /// A fresh timestamp.
    fn oracle(&mut self) -> Timestamp {
        let now = Timestamp::new(time(self.start), 0);
        self.last = now.max(self.last.next());
        self.last
    }

    /// Lets everybody run until all of them wait.
    pub(super) async fn settle(&mut self) {
        loop {
            // Once through the queue of the runtime for those who were woken, once for whom they woke.
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            if !self.collect() {
                return;
            }
        }
    }

    /// Takes what was sent. False if there was nothing.
    fn collect(&mut self) -> bool {
        let (mut sent, now, last) = (Vec::new(), Instant::now(), self.last);
        let mut anything = false;
        for (number, gateway) in self.gateways.iter_mut().enumerate() {
            for waiter in gateway.timestamps.take_requests() {
                anything = true;
                if gateway.start.only_time.swap(false, Ordering::Relaxed) {
                    let _ = waiter.send(Timestamp::new(time(self.start), 0));
                } else {
                    gateway.asked.push(waiter);
                }
            }
            gateway.asked.retain(|waiter| !waiter.is_closed());
            for request in gateway.link.take_sent() {
                let bytes = DataRequest { tag: 0, ..request.clone() }.encode_to_vec();
                let expires = now + Duration::from_millis(request.timeout_ms.into());
                let tag = request.tag;
                sent.push(Pending { gateway: number, tag, request, bytes, sent: last, expires });
            }
        }
        // Steps that one call makes side by side go out in any order.
        sent.sort_by(|a, b| (a.gateway, &a.bytes).cmp(&(b.gateway, &b.bytes)));
        anything |= !sent.is_empty();
        self.pending.extend(sent);
        anything
    }

    pub(super) fn is_over(&self) -> bool {
        self.gateways.iter().all(Gateway::is_done)
    }

    pub(super) fn late(&self) -> usize {
        self.late.len()
    }

    /// The faults that were not used.
    pub(super) fn is_undisturbed(&self, bounds: &Bounds) -> bool {
        self.left.crashes == bounds.crashes && self.left.losses == bounds.losses
    }

    /// All that can happen next, in the same order every time.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = self.all_steps();
        if self.in_turn {
            steps.truncate(1);
        }
        // Of clients that do the same, the first is the one that begins.
        let begun = |gateway: &Gateway| gateway.begun || gateway.crashed;
        if self.alike && !self.gateways.iter().any(begun) {
            steps.retain(|step| self.gateway_of(*step).is_none_or(|number| number == 0));
        }
        steps
    }

    fn all_steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (number, gateway) in self.gateways.iter().enumerate() {
            if !gateway.asked.is_empty() {
                steps.push(Step::Oracle(number));
            }
        }
        steps.extend((0..self.pending.len()).map(Step::Deliver));
        let stuck = steps.is_empty();
        if self.in_turn && stuck {
            return vec![Step::Nap];
        }
        steps.extend((0..self.late.len()).map(Step::DeliverLate));
        if self.left.losses > 0 {
            steps.extend((0..self.pending.len()).map(Step::Lose));
        }
        if self.left.crashes > 0 {
            let alive = |number: &usize| !self.gateways[*number].is_done();
            steps.extend((0..self.gateways.len()).filter(alive).map(Step::Crash));
        }
        if stuck || (self.left.naps > 0 && self.anybody_sleeps()) {
            steps.push(Step::Nap);
        }
        if self.left.longs > 0 {
            steps.push(Step::Long);
        }
        steps
    }

    fn gateway_of(&self, step: Step) -> Option<usize> {
        match step {
            Step::Oracle(number) | Step::Crash(number) => Some(number),
            Step::Deliver(at) | Step::Lose(at) => Some(self.pending[at].gateway),
            Step::DeliverLate(at) => Some(self.late[at].gateway),
            Step::Nap | Step::Long => None,
        }
    }

    /// Somebody waits for nothing but time.
    fn anybody_sleeps(&self) -> bool {
        self.gateways.iter().enumerate().any(|(number, gateway)| {
            let waits = |pending: &Pending| pending.gateway == number;
            !gateway.is_done() && gateway.asked.is_empty() && !self.pending.iter().any(waits)
        })
    }

    /// A step in words that name it in every run that came here.
    pub(super) fn name(&self, step: Step) -> String {
        let of = |pending: &Pending| format!("{} {}", pending.gateway, describe(&pending.request));
        match step {
            Step::Oracle(gateway) => format!("{gateway} timestamp"),
            Step::Deliver(at) => of(&self.pending[at]),
            Step::DeliverLate(at) => format!("late {}", of(&self.late[at])),
            Step::Lose(at) => format!("lose {}", of(&self.pending[at])),
            Step::Crash(gateway) => format!("{gateway} crashes"),
            Step::Nap => "nap".to_owned(),
            Step::Long => "long".to_owned(),
        }
    }

    pub(super) async fn take(&mut self, step: Step) {
        let name = self.trace.is_some().then(|| self.name(step));
        let result = match step {
            Step::Oracle(number) => {
                let timestamp = self.oracle();
                let gateway = &mut self.gateways[number];
                let waiter = gateway.asked.remove(0);
                gateway.begin(&self.log);
                gateway.note(("asked", timestamp, self.start.elapsed()));
                let reads_latest = std::mem::take(&mut gateway.reads_latest);
                gateway.start.only_time.store(reads_latest, Ordering::Relaxed);
                // Whoever is gone is not in the list.
                let _ = waiter.send(timestamp);
                short(timestamp.0)
            }
            Step::Deliver(at) => {
                let pending = self.pending.remove(at);
                let answer = self.execute(&pending);
                let words = outcome(&answer);
                let bytes = encoded(&answer);
                let gateway = &mut self.gateways[pending.gateway];
                gateway.begin(&self.log);
                gateway.learns_of_lock(&pending.request, &answer);
                gateway.note(("told", &pending.bytes, bytes, self.start.elapsed()));
                gateway.link.end(pending.tag, Outcome::Answered(Some(answer)));
                words
            }
            Step::DeliverLate(at) => {
                let pending = self.late.remove(at);
                outcome(&self.execute(&pending))
            }
            Step::Lose(at) => {
                self.left.losses -= 1;
                let pending = self.pending.remove(at);
                self.give_up(pending, Outcome::Lost);
                String::new()
            }
            Step::Crash(number) => {
                self.left.crashes -= 1;
                self.crash(number);
                String::new()
            }
            Step::Nap => {
                self.nap();
                self.pass(NAP).await;
                String::new()
            }
            Step::Long => {
                self.left.longs -= 1;
                self.pass(LONG).await;
                String::new()
            }
        };
        if let (Some(trace), Some(name)) = (&mut self.trace, name) {
            let arrow = if result.is_empty() { "" } else { " -> " };
            trace.push(format!("{name}{arrow}{result}"));
        }
    }

    fn execute(&mut self, pending: &Pending) -> Answer {
        let range = gateway::range(pending.request.range_id);
        let node = Node {
            store: &self.store,
            range: &range.span,
            sent: pending.sent,
            sabotage: self.sabotage,
        };
        let mut last = self.last;
        let now = Timestamp::new(time(self.start), 0);
        // A question about a lifetime asks for the time only.
        let only_time = describe(&pending.request).starts_with("status");
        let mut oracle = || {
            last = now.max(if only_time { last } else { last.next() });
            last
        };
        let (answer, mutations) = node.answer(&pending.request, &mut oracle);
        self.last = last;
        self.store.apply(&mutations);
        answer
    }

    fn give_up(&mut self, pending: Pending, outcome: Outcome) {
        let gateway = &mut self.gateways[pending.gateway];
        gateway.begin(&self.log);
        gateway.note(("lost", &pending.bytes, self.start.elapsed()));
        gateway.link.end(pending.tag, outcome);
        self.late.push(pending);
    }

    /// Free if nothing else could happen.
    fn nap(&mut self) {
        let all_wait =
            self.pending.is_empty() && self.gateways.iter().all(|gateway| gateway.asked.is_empty());
        if !all_wait {
            self.left.naps -= 1;
            return;
        }
        self.in_turn |= self.left.waits == 0;
        self.left.waits = self.left.waits.saturating_sub(1);
    }

    fn crash(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        gateway.crashed = true;
        gateway.end.cancel();
        if let Some(client) = &gateway.client {
            client.abort();
        }
        gateway.asked.clear();
        let (gone, stays) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|pending: &Pending| pending.gateway == number);
        self.pending = stays;
        self.late.extend::<Vec<_>>(gone);
    }

    /// Time passes; who waited in vain is told so.
    pub(super) async fn pass(&mut self, time: Duration) {
        tokio::time::advance(time).await;
        let now = Instant::now();
        while let Some(at) = self.pending.iter().position(|pending| pending.expires <= now) {
            let pending = self.pending.remove(at);
            self.give_up(pending, Outcome::TimedOut);
        }
    }

    /// Whoever is next in line, for as long as anybody works.
    pub(super) fn first_in_line(&self) -> Option<Step> {
        if self.is_over() {
            return None;
        }
        self.steps().into_iter().next()
    }

    pub(super) fn no_more_faults(&mut self) {
        self.in_turn = true;
    }

    /// The message that was given up on first.
    pub(super) fn deliver_late(&mut self) {
        let pending = self.late.remove(0);
        let answer = self.execute(&pending);
        if let Some(trace) = &mut self.trace {
            let what = describe(&pending.request);
            trace.push(format!("late {} {what} -> {}", pending.gateway, outcome(&answer)));
        }
    }

    /// Equal for worlds that go on in the same ways.
    pub(super) fn hash(&self) -> u128 {
        let half = |seed: u8| {
            let mut hasher = DefaultHasher::new();
            (seed, &self.store, self.last, self.left, self.in_turn, self.start.elapsed())
                .hash(&mut hasher);
            for (number, gateway) in self.gateways.iter().enumerate() {
                let done = gateway.is_done();
                let history = if done { 0 } else { gateway.history };
                let told = gateway.start.told();
                (gateway.crashed, done, history, told, gateway.asked.len()).hash(&mut hasher);
                // What one client saw has an order; of different clients, `told` says what matters.
                for (_, event) in self.log.lock().iter().filter(|(of, _)| *of == number) {
                    format!("{event:?}").hash(&mut hasher);
                }
            }
            for messages in [&self.pending, &self.late] {
                let mut all: Vec<_> = messages
                    .iter()
                    .map(|pending| (pending.gateway, &pending.bytes, self.stamp_of(pending)))
                    .collect();
                all.sort();
                all.hash(&mut hasher);
            }
            hasher.finish()
        };
        u128::from(half(1)) << 64 | u128::from(half(2))
    }

    /// When it was sent, if that matters.
    fn stamp_of(&self, pending: &Pending) -> Timestamp {
        let matters = self.sabotage == Some(Sabotage::OldStamps);
        if matters { pending.sent } else { Timestamp::ZERO }
    }
}

/// Milliseconds of the oracle.
fn time(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).expect("runs are short") + 1
}

fn encoded(answer: &Answer) -> Vec<u8> {
    let result = Some(answer.clone());
    DataResponse { tag: 0, result }.encode_to_vec()
}
