//! The stream of timestamps: all fetches that wait are served by one batch, in order.

use super::refusal::of_timestamps;
use super::{CALL_TIMEOUT, Services, not_leader};
use crate::leader::Office;
use crate::metrics::{TIMESTAMP_REQUESTS, TIMESTAMP_SECONDS, TIMESTAMPS};
use crate::tso::BATCH_MAX;
use futures::{FutureExt as _, StreamExt as _};
use rangedb_proto::internal::v1 as wire;
use rangedb_types::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// Most fetches taken off a stream at once.
const FETCHES_MAX: usize = 64;

type Outgoing = mpsc::Sender<Result<wire::TimestampBatch, Status>>;

/// Serves the stream until it ends. An error is what the caller is told last.
pub(super) async fn serve(
    services: &Services,
    office: &Office,
    mut requests: Streaming<wire::TimestampRequest>,
    outgoing: &Outgoing,
) -> Result<(), Status> {
    let mut kept = None;
    loop {
        let first = match kept.take() {
            Some(request) => request,
            None => tokio::select! {
                () = office.ended().cancelled() => return Err(not_leader(&services.consensus)),
                () = outgoing.closed() => return Ok(()),
                request = requests.next() => match request {
                    Some(Ok(request)) => request,
                    // The caller went away, and with it whoever could hear an answer.
                    Some(Err(_)) | None => return Ok(()),
                },
            },
        };
        let mut total = checked(&first)?;
        let mut fetches = vec![first];
        while fetches.len() < FETCHES_MAX {
            let Some(Some(Ok(request))) = requests.next().now_or_never() else { break };
            let count = checked(&request)?;
            if total + count > BATCH_MAX {
                kept = Some(request);
                break;
            }
            total += count;
            fetches.push(request);
        }
        let first = tokio::select! {
            () = office.ended().cancelled() => return Err(not_leader(&services.consensus)),
            first = batch(services, total) => first?,
        };
        TIMESTAMP_REQUESTS.inc_by(fetches.len() as u64);
        if !answer(office, outgoing, &fetches, first).await {
            return Ok(());
        }
    }
}

fn checked(request: &wire::TimestampRequest) -> Result<u32, Status> {
    if (1..=BATCH_MAX).contains(&request.count) {
        return Ok(request.count);
    }
    Err(Status::invalid_argument(format!("`count` must be from 1 to {BATCH_MAX}")))
}

async fn batch(services: &Services, total: u32) -> Result<Timestamp, Status> {
    let timer = TIMESTAMP_SECONDS.start_timer();
    let made = services.timestamps.batch(total, Instant::now() + CALL_TIMEOUT).await;
    timer.observe_duration();
    let (first, _count) = made.map_err(|error| of_timestamps(&services.consensus, &error))?;
    TIMESTAMPS.inc_by(u64::from(total));
    Ok(first)
}

/// Deals the batch out. False if nobody listens any more.
async fn answer(
    office: &Office,
    outgoing: &Outgoing,
    fetches: &[wire::TimestampRequest],
    first: Timestamp,
) -> bool {
    let mut next = first.0;
    for fetch in fetches {
        let reply = wire::TimestampBatch { tag: fetch.tag, first: next, count: fetch.count };
        next += u64::from(fetch.count);
        let sent = tokio::select! {
            sent = outgoing.send(Ok(reply)) => sent.is_ok(),
            () = office.ended().cancelled() => true,
        };
        if !sent {
            return false;
        }
    }
    true
}
