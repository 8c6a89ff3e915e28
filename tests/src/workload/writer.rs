//! One writer: one write after the other, each settled before the next.

use super::Shared;
use super::history::{Keys, Outcome};
use anyhow::{Result, bail};
use rand::Rng as _;
use rand::rngs::StdRng;
use rangedb_client::{Client, Error, Pipeline, RetryAdvice, Version, WriteId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a write may stay unsettled before the test fails.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Between two attempts at something that is refused at once.
const PAUSE: Duration = Duration::from_millis(20);

enum Way {
    Unary(Client),
    Stream(Pipeline),
}

pub async fn run(
    shared: Arc<Shared>,
    client: Client,
    number: usize,
    mut random: StdRng,
) -> Result<()> {
    let plan = &shared.plan;
    let way =
        if plan.pipeline { Way::Stream(client.pipeline()) } else { Way::Unary(client.clone()) };
    while !shared.stop.is_cancelled() {
        let index = number * plan.keys_per_writer + random.random_range(0..plan.keys_per_writer);
        let deletes = random.random_range(0..1000) < plan.deletes_per_mille;
        let begun = Instant::now();
        let step = shared.keys.begin(index, deletes);
        let key = Keys::name(index);
        let result = match (&way, deletes) {
            (Way::Unary(client), true) => client.delete(key.clone()).await,
            (Way::Stream(pipeline), true) => pipeline.delete(key.clone()).await,
            (Way::Unary(client), false) => {
                client.put(key.clone(), Keys::value(index, step, plan.value_bytes)).await
            }
            (Way::Stream(pipeline), false) => {
                pipeline.put(key.clone(), Keys::value(index, step, plan.value_bytes)).await
            }
        };
        let outcome = match result {
            Ok(version) => {
                shared.acknowledged.add(number, begun);
                done(version)
            }
            Err(Error::OutcomeUnknown { id }) => settle(&client, &key, id).await?,
            Err(error) if error.retry_advice() == RetryAdvice::Safe => {
                pause(&shared).await;
                Outcome::NotDone
            }
            Err(error) => bail!("a write of {key} was refused: {error}"),
        };
        shared.keys.settle(index, step, outcome);
    }
    Ok(())
}

fn done(version: Version) -> Outcome {
    Outcome::Done { version, at: Instant::now() }
}

async fn pause(shared: &Shared) {
    // Refused at once: without a pause the writer would only burn the processor.
    let _ = tokio::time::timeout(PAUSE, shared.stop.cancelled()).await;
}

/// Asks what became of a write until there is an answer.
async fn settle(client: &Client, key: &str, id: WriteId) -> Result<Outcome> {
    let end = Instant::now() + SETTLE_LIMIT;
    loop {
        match client.commit_status(key.to_owned(), id).await {
            Ok(Some(version)) => return Ok(done(version)),
            Ok(None) => return Ok(Outcome::NotDone),
            Err(error) if Instant::now() > end => {
                bail!("the outcome of a write of {key} could not be settled: {error}")
            }
            Err(_) => crate::wait::pause().await,
        }
    }
}
