//! Every run of a scenario, one after the other.
//!
//! Owns: the search, depth first, by running again from the start with the same first steps; what was seen before is
//! not searched again. Must not know: what a step does. Source: stateless model checking (Godefroid, "Model Checking
//! for Programming Languages using VeriSoft", POPL 1997), with visited states as in explicit-state checkers.

use super::judge::Judge;
use super::script::{Event, key};
use super::world::{LONG, Scenario, Step, World};
use crate::dispatch::{Call, Dispatcher};
use crate::operation::Operation;
use crate::transaction::{Want, Write, write_all};
use rangedb_types::{Random as _, SeededRandom};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Once};
use std::time::Duration;
use tokio::time::Instant;

/// Longer is a run that does not end.
const STEPS_MAX: usize = 600;
const JUDGE_DEADLINE: Duration = Duration::from_secs(60);

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Explored {
    /// Different states in which more than one thing could happen.
    pub(super) states: usize,
    /// Runs from the start.
    pub(super) runs: usize,
    /// Different orders of steps, from the start to the end, that these stand for.
    pub(super) interleavings: u128,
    /// Nothing is left to look at within the bounds.
    pub(super) complete: bool,
}

/// A run that broke a promise.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) why: String,
    /// The names of the steps that were chosen among several.
    pub(super) schedule: Vec<String>,
    pub(super) trace: Vec<String>,
    pub(super) explored: Explored,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n\nwhat happened:", self.why)?;
        self.trace.iter().try_for_each(|line| writeln!(f, "    {line}"))?;
        writeln!(f, "\nto replay it: {:?}", self.schedule)
    }
}

/// A state on the way to where the search is.
struct Fork {
    hash: u128,
    chosen: usize,
    count: usize,
    interleavings: u128,
}

enum End {
    Judged(Result<(), String>),
    /// Everything from here on was seen.
    Known(u128),
}

thread_local! {
    /// What tasks of this thread panicked with: the runtime keeps it from whoever does not ask for their ends.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn keep_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANIC.with_borrow_mut(|panic| drop(panic.replace(info.to_string())));
            before(info);
        }));
    });
}

/// Searches all runs; stops after `runs_max`.
pub(super) fn explore(scenario: &Scenario, runs_max: usize) -> Result<Explored, Box<Broken>> {
    let mut explored = Explored::default();
    let mut known: HashMap<u128, u128> = HashMap::new();
    let mut forks: Vec<Fork> = Vec::new();
    loop {
        explored.runs += 1;
        let run = Run { forks: &mut forks, known: &known };
        let end = in_runtime(async { run.go(scenario).await });
        let mut below = match end {
            End::Judged(Ok(())) => 1,
            End::Known(interleavings) => interleavings,
            End::Judged(Err(why)) => {
                return Err(Box::new(told(scenario, &forks, why, explored)));
            }
        };
        loop {
            let Some(fork) = forks.last_mut() else {
                (explored.interleavings, explored.complete) = (below, true);
                return Ok(explored);
            };
            fork.interleavings = fork.interleavings.saturating_add(below);
            fork.chosen += 1;
            if fork.chosen < fork.count {
                break;
            }
            below = fork.interleavings;
            known.insert(fork.hash, below);
            explored.states += 1;
            forks.pop();
        }
        if explored.runs >= runs_max {
            explored.interleavings = forks.first().map_or(0, |fork| fork.interleavings);
            return Ok(explored);
        }
    }
}

/// Runs with steps by chance, for what is too much to search.
pub(super) fn wander(scenario: &Scenario, seed: u64, runs: usize) -> Result<(), Box<Broken>> {
    let mut random = SeededRandom::new(seed);
    for run in 0..runs {
        let mut forks = Vec::new();
        let end = in_runtime(async {
            let mut world = World::new(scenario, false);
            while let Some(steps) = next(&mut world).await {
                if forks.len() > STEPS_MAX {
                    return Err("it does not end".to_owned());
                }
                let (mut chosen, count) = (0, steps.len());
                if count > 1 {
                    chosen = usize::try_from(random.below(count as u64)).expect("below a count");
                    forks.push(Fork { hash: 0, chosen, count, interleavings: 0 });
                }
                world.take(steps[chosen]).await;
            }
            finish(&mut world, scenario).await
        });
        if let Err(why) = end {
            let explored = Explored { runs: run + 1, ..Explored::default() };
            return Err(Box::new(told(scenario, &forks, why, explored)));
        }
    }
    Ok(())
}

fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    keep_panics();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime").block_on(work)
}

/// Runs what failed again, and writes it down.
fn told(scenario: &Scenario, forks: &[Fork], why: String, explored: Explored) -> Broken {
    let chosen: Vec<usize> = forks.iter().map(|fork| fork.chosen).collect();
    let (schedule, trace) = in_runtime(async {
        let (mut world, mut schedule, mut at) = (World::new(scenario, true), Vec::new(), 0);
        while let Some(steps) = next(&mut world).await {
            let mut step = steps[0];
            if steps.len() > 1 && at < chosen.len() {
                step = steps[chosen[at]];
                at += 1;
                schedule.push(world.name(step));
            }
            world.take(step).await;
        }
        let _ = finish(&mut world, scenario).await;
        (schedule, world.trace.take().unwrap_or_default())
    });
    Broken { why, schedule, trace, explored }
}

/// Runs one schedule: at each fork the step with the next name, and after the last the first there is.
pub(super) fn replay(scenario: &Scenario, schedule: &[&str]) -> Result<(), String> {
    in_runtime(async {
        let (mut world, mut names) = (World::new(scenario, true), schedule.iter());
        while let Some(steps) = next(&mut world).await {
            let mut step = steps[0];
            if steps.len() > 1
                && let Some(name) = names.next()
            {
                let found = steps.iter().find(|step| world.name(**step) == *name);
                let all: Vec<_> = steps.iter().map(|step| world.name(*step)).collect();
                step = *found.ok_or_else(|| format!("no step `{name}`, but {all:?}"))?;
            }
            world.take(step).await;
        }
        let result = finish(&mut world, scenario).await;
        let trace = world.trace.take().unwrap_or_default().join("\n    ");
        result.map_err(|why| format!("{why}\n    {trace}"))
    })
}

/// What can happen next; `None` at the end.
async fn next(world: &mut World) -> Option<Vec<Step>> {
    world.settle().await;
    (!world.is_over()).then(|| world.steps())
}

struct Run<'a> {
    forks: &'a mut Vec<Fork>,
    known: &'a HashMap<u128, u128>,
}

impl Run<'_> {
    async fn go(self, scenario: &Scenario) -> End {
        let (mut world, mut depth, mut taken) = (World::new(scenario, false), 0, 0);
        while let Some(steps) = next(&mut world).await {
            taken += 1;
            if taken > STEPS_MAX {
                return End::Judged(Err("it does not end".to_owned()));
            }
            let mut step = steps[0];
            if steps.len() > 1 {
                if depth == self.forks.len() {
                    let hash = world.hash();
                    if let Some(interleavings) = self.known.get(&hash) {
                        return End::Known(*interleavings);
                    }
                    let count = steps.len();
                    self.forks.push(Fork { hash, chosen: 0, count, interleavings: 0 });
                }
                let fork = &self.forks[depth];
                assert_eq!(fork.count, steps.len(), "the same steps lead to the same state");
                step = steps[fork.chosen];
                depth += 1;
            }
            world.take(step).await;
        }
        End::Judged(finish(&mut world, scenario).await)
    }
}

/// Settles what is left as whoever comes later does, and judges all of it: before and after late messages arrive.
async fn finish(world: &mut World, scenario: &Scenario) -> Result<(), String> {
    let undisturbed = world.is_undisturbed(&scenario.bounds);
    world.no_more_faults();
    let client = world.add_gateway();
    loop {
        world.pass(LONG).await;
        let (reader, dispatcher) = (client.clone(), Arc::clone(&client.dispatcher));
        let work = async move {
            let deadline = Instant::now() + JUDGE_DEADLINE;
            for name in ["a", "b"] {
                let operation = Operation::get(vec![key(name)]);
                let done =
                    dispatcher.execute(&operation, Call::new(Instant::now(), deadline, true)).await;
                done.expect("a read after all is over");
            }
            let at = dispatcher.timestamp(deadline).await.expect("a timestamp");
            reader.read(&["a", "b"], Some(at), deadline).await.expect("a read");
        };
        in_line(world, client.number, work).await?;
        judge(world, scenario)?;
        if world.late() == 0 {
            break;
        }
        while world.late() > 0 {
            world.deliver_late();
        }
        judge(world, scenario)?;
    }
    if undisturbed && scenario.bounds.longs == 0 {
        let open = world.store.versions().into_iter().find(|version| version.open);
        if let Some(version) = open {
            return Err(format!("the clean-up left {version:?} open"));
        }
    }
    world.pass(LONG).await;
    let number = client.number;
    in_line(world, number, overwrite(Arc::clone(&client.dispatcher))).await?;
    let locks = world.store.locks();
    if locks.is_empty() { Ok(()) } else { Err(format!("intents are left: {locks:?}")) }
}

/// A write meets every intent there is.
async fn overwrite(dispatcher: Arc<Dispatcher>) {
    let deadline = Instant::now() + JUDGE_DEADLINE;
    let put = |name: &str| Write { key: key(name), want: Want::Put(key("last")) };
    write_all(&dispatcher, vec![put("a"), put("b")], deadline).await.expect("a last write");
}

/// Does work to its end, messages in the order in which they come.
async fn in_line(
    world: &mut World,
    number: usize,
    work: impl Future<Output = ()> + Send + 'static,
) -> Result<(), String> {
    world.spawn(number, work);
    for _ in 0..STEPS_MAX {
        world.settle().await;
        let Some(step) = world.first_in_line() else {
            let panicked = PANIC.with_borrow_mut(Option::take);
            return panicked.map_or(Ok(()), Err);
        };
        world.take(step).await;
    }
    Err("what is left cannot be settled".to_owned())
}

fn judge(world: &World, scenario: &Scenario) -> Result<(), String> {
    let (events, versions) = (world.log.lock().clone(), world.store.versions());
    let events: Vec<(usize, Event)> = events;
    let judge = Judge {
        scripts: &scenario.clients,
        events: &events,
        versions: &versions,
        shared: world.shared,
    };
    judge.judge().map_err(|why| format!("{why}\n{events:?}\n{versions:?}"))
}
