//! Many writers of one key, some with a condition, while processes are killed: versions order them all.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use rangedb_client::{Client, Condition, Error, Version};
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::{Processes, Shape, admin, rounds, wait};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const KEY: &str = "hot";
const WRITERS: usize = 16;
const READERS: usize = 4;
/// Time between two kills.
const CALM: Duration = Duration::from_secs(2);
/// Versions that are read again at the end, at most.
const LOOKED_AT: usize = 500;

/// A write that was acknowledged, or a read that found something.
#[derive(Clone, Debug)]
struct Event {
    begun: Instant,
    ended: Instant,
    version: Version,
    value: Bytes,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put,
    /// Written where this version was the newest.
    Instead(Version),
    Read,
}

/// What all clients share.
struct Shared {
    stop: AtomicBool,
    next: AtomicU64,
}

/// Writes values of its own; every other writer only if the newest is still the one it has read.
async fn write(client: Client, number: usize, shared: Arc<Shared>) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let value = Bytes::from(shared.next.fetch_add(1, Ordering::Relaxed).to_string());
        // Leaves the others moments in which nothing comes between.
        wait::let_run(Duration::from_millis(3 * number as u64)).await;
        let (mut kind, mut condition) = (Kind::Put, None);
        if number.is_multiple_of(2) {
            let Ok(Some(found)) = client.get(KEY).await else { continue };
            kind = Kind::Instead(found.version);
            condition = Some(Condition::VersionIs(found.version));
        }
        let begun = Instant::now();
        let written = match condition {
            None => client.put(KEY, value.clone()).await,
            Some(condition) => client.put_if(KEY, value.clone(), condition).await,
        };
        match written {
            Ok(version) => {
                events.push(Event { begun, ended: Instant::now(), version, value, kind });
            }
            // While a process is away, calls may fail in any way that does not claim success.
            Err(Error::ConditionFailed { .. } | Error::OutcomeUnknown { .. }) => {}
            Err(_) => wait::let_run(Duration::from_millis(5)).await,
        }
    }
    Ok(events)
}

async fn read(client: Client, shared: Arc<Shared>) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        if let Ok(Some(found)) = client.get(KEY).await {
            let (version, value, kind) = (found.version, found.value, Kind::Read);
            events.push(Event { begun, ended: Instant::now(), version, value, kind });
        }
    }
    Ok(events)
}

/// What ended before something began has a lower version, or the same if that is a read; a version has one
/// value, and a value one version.
fn judge(events: &[Event]) -> Result<()> {
    let mut ended: Vec<&Event> = events.iter().collect();
    ended.sort_by_key(|event| event.ended);
    let mut begun: Vec<&Event> = events.iter().collect();
    begun.sort_by_key(|event| event.begun);
    let (mut ended, mut newest) = (ended.into_iter().peekable(), None::<&Event>);
    for event in begun {
        while let Some(before) = ended.next_if(|before| before.ended < event.begun) {
            if newest.is_none_or(|newest| newest.version < before.version) {
                newest = Some(before);
            }
        }
        let Some(before) = newest else { continue };
        let follows = match event.kind {
            Kind::Read => before.version <= event.version,
            Kind::Put | Kind::Instead(_) => before.version < event.version,
        };
        ensure!(follows, "{before:?} ended before this began: {event:?}");
    }
    let (mut versions, mut values) = (HashMap::new(), HashMap::new());
    for event in events {
        let same = versions.entry(event.version).or_insert(event);
        ensure!(same.value == event.value, "two values of one version: {same:?} {event:?}");
        let same = values.entry(&event.value).or_insert(event);
        ensure!(same.version == event.version, "one value, two versions: {same:?} {event:?}");
    }
    Ok(())
}

/// Every version is still what was acknowledged, and what was written instead of another follows it.
async fn look_again(client: &Client, events: &[Event]) -> Result<usize> {
    let written: Vec<_> = events.iter().filter(|event| event.kind != Kind::Read).collect();
    let step = written.len().div_ceil(LOOKED_AT).max(1);
    let looked: Vec<_> = written.iter().step_by(step).collect();
    for event in &looked {
        let found = client.get_at(KEY, event.version).await?.context("a version is gone")?;
        ensure!(
            found.version == event.version && found.value == event.value,
            "{event:?} {found:?}"
        );
    }
    for event in &written {
        let Kind::Instead(of) = event.kind else { continue };
        let before = Version(event.version.0 - 1);
        let found = client.get_at(KEY, before).await?.context("what it replaced is gone")?;
        ensure!(found.version == of, "{event:?} replaced {found:?}");
    }
    Ok(looked.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_order_all_writes_of_one_key_while_processes_are_killed() -> Result<()> {
    let mut cluster = Processes::start(Shape::default()).await?;
    cluster.replicated().await?;
    let client = cluster.client().await?;
    client.put(KEY, "first").await?;
    let shared = Arc::new(Shared { stop: AtomicBool::new(false), next: AtomicU64::new(0) });
    let writers =
        (0..WRITERS).map(|number| tokio::spawn(write(client.clone(), number, Arc::clone(&shared))));
    let mut tasks: Vec<_> = writers.collect();
    tasks.extend((0..READERS).map(|_| tokio::spawn(read(client.clone(), Arc::clone(&shared)))));
    for round in 0..rounds(4) {
        wait::let_run(CALM).await;
        let range = admin::ranges(&client).await?.into_iter().next().context("there is one")?;
        let nodes = admin::nodes(&client).await?;
        let leader = nodes.iter().find(|node| node.node_id == range.leader_node_id);
        let leader = leader.map(|node| node.address.clone()).unwrap_or_default();
        let victim = match round % 4 {
            3 => 0,
            _ => cluster.nodes.iter().position(|node| node.grpc == leader).unwrap_or(0),
        };
        let part =
            if round % 4 == 3 { &mut cluster.gateways[0] } else { &mut cluster.nodes[victim] };
        part.kill()?;
        part.start()?;
        part.ready().await?;
    }
    wait::let_run(CALM).await;
    shared.stop.store(true, Ordering::Relaxed);
    let mut events = Vec::new();
    for task in tasks {
        events.extend(task.await??);
    }
    judge(&events)?;
    let reads = events.iter().filter(|event| event.kind == Kind::Read).count();
    let puts = events.iter().filter(|event| event.kind == Kind::Put).count();
    let looked = look_again(&client, &events).await?;
    println!(
        "{puts} puts, {} instead of what was read, {reads} reads; {looked} looked at again",
        events.len() - reads - puts
    );
    let instead = events.len() - reads - puts;
    ensure!(puts > 100 && reads > 100 && instead > 10, "too few to tell anything");
    cluster.finish(PEER_LOST).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(begun: u64, ended: u64, version: u64, kind: Kind) -> Event {
        let start = *START.get_or_init(Instant::now);
        let at = |millis| start + Duration::from_millis(millis);
        let value = Bytes::from(version.to_string());
        Event { begun: at(begun), ended: at(ended), version: Version(version), value, kind }
    }

    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

    #[test]
    fn what_is_wrong_is_noticed() {
        let put = event(0, 10, 5, Kind::Put);
        let read = |begun, version| event(begun, begun + 5, version, Kind::Read);
        assert!(judge(&[put.clone(), event(5, 15, 4, Kind::Put), read(11, 5)]).is_ok());
        assert!(judge(&[put.clone(), read(11, 4)]).is_err(), "a stale read");
        assert!(judge(&[put.clone(), event(11, 15, 4, Kind::Put)]).is_err(), "goes back");
        assert!(judge(&[read(0, 7), read(11, 6)]).is_err(), "reads go back");
        let other = Event { value: "x".into(), ..event(3, 8, 5, Kind::Put) };
        assert!(judge(&[put.clone(), other]).is_err(), "one version twice");
        let twice = Event { value: "5".into(), ..event(12, 18, 9, Kind::Read) };
        assert!(judge(&[put, twice]).is_err(), "one write twice");
    }
}
