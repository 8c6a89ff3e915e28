//! What the clients do: short random transactions, most of which meet others. Owns: the mixture.
//! Must not know: what is right.

use super::attempt::{Attempt, Stop};
use super::world::World;
use anyhow::Result;
use rand::Rng as _;
use rand::rngs::StdRng;
use rangedb_client::Client;
use rangedb_tests::isolation::{Key, Transaction};
use std::sync::Arc;
use std::time::Duration;

const STEPS_MAX: u32 = 4;
/// Of all transactions, how many are given up at the end: nobody may have seen them.
const GIVEN_UP: f64 = 0.03;
/// How many end with their client, in the middle of the commit. What they hold nobody else gets for seconds.
const DIES: f64 = 0.005;
const DIES_WITHIN_MS: u64 = 20;

/// Runs transactions until told to stop; gives what became of them.
pub async fn run(
    world: Arc<World>,
    client: Client,
    process: u32,
    mut random: StdRng,
) -> Result<Vec<Transaction>> {
    let mut history = Vec::new();
    while !world.stopped() {
        let mut attempt = match Attempt::begin(&world, &client, process).await {
            Ok(attempt) => attempt,
            Err(Stop::Lost) => continue,
            Err(Stop::Broken(error)) => return Err(error),
        };
        let done = steps(&mut attempt, &mut random).await;
        history.push(match done {
            Ok(()) if random.random_bool(GIVEN_UP) => attempt.roll_back().await,
            Ok(()) => attempt.commit(patience(&mut random)).await?,
            Err(Stop::Lost) => attempt.roll_back().await,
            Err(Stop::Broken(error)) => return Err(error),
        });
    }
    Ok(history)
}

fn patience(random: &mut StdRng) -> Duration {
    if random.random_bool(DIES) {
        Duration::from_millis(random.random_range(0..DIES_WITHIN_MS))
    } else {
        Duration::MAX
    }
}

async fn steps(attempt: &mut Attempt<'_>, random: &mut StdRng) -> Result<(), Stop> {
    match random.random_range(0..10) {
        0..3 => skew(attempt, random).await,
        3..5 => insert(attempt, random).await,
        _ => {
            for _ in 0..random.random_range(1..=STEPS_MAX) {
                step(attempt, random).await?;
            }
            Ok(())
        }
    }
}

/// Looks at both of a pair, and writes one of them.
async fn skew(attempt: &mut Attempt<'_>, random: &mut StdRng) -> Result<(), Stop> {
    let pair = World::pair(random);
    for key in pair {
        attempt.read(key, false).await?;
    }
    attempt.write(pair[random.random_range(0..pair.len())]).await
}

/// Looks at a block of keys, and adds one that is not there.
async fn insert(attempt: &mut Attempt<'_>, random: &mut StdRng) -> Result<(), Stop> {
    let block = attempt.world.block();
    let found = attempt.read_span(block.clone()).await?;
    attempt.world.saw_block(&block, found.len());
    let free: Vec<Key> = block.map(Key).filter(|key| !found.contains_key(key)).collect();
    if !free.is_empty() {
        attempt.write(free[random.random_range(0..free.len())]).await?;
    }
    Ok(())
}

async fn step(attempt: &mut Attempt<'_>, random: &mut StdRng) -> Result<(), Stop> {
    let locked = random.random_bool(0.5);
    let (list, register) = (attempt.world.list(random), World::register(random));
    match random.random_range(0..8) {
        0..3 => attempt.append(list, locked).await,
        3 => attempt.read_list(list, false).await.map(|_| ()),
        4 => attempt.read(register, false).await,
        5 => attempt.write(register).await,
        _ => {
            attempt.read(register, locked).await?;
            attempt.write(register).await
        }
    }
}

/// Everything there is, read by one transaction after all others.
pub async fn look_at_all(world: &World, client: &Client, process: u32) -> Result<Transaction> {
    loop {
        let mut attempt = match Attempt::begin(world, client, process).await {
            Ok(attempt) => attempt,
            Err(Stop::Lost) => continue,
            Err(Stop::Broken(error)) => return Err(error),
        };
        match look(&mut attempt).await {
            Ok(()) => return attempt.commit(Duration::MAX).await,
            Err(Stop::Lost) => drop(attempt.roll_back().await),
            Err(Stop::Broken(error)) => return Err(error),
        }
    }
}

async fn look(attempt: &mut Attempt<'_>) -> Result<(), Stop> {
    for key in attempt.world.all_lists() {
        attempt.read_list(key, false).await?;
    }
    for span in attempt.world.all_registers() {
        attempt.read_span(span).await?;
    }
    Ok(())
}
