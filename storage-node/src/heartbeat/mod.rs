//! The node's one link to placement: it registers, reports what it has, and carries out what it is
//! told.
//!
//! Owns: the stream, its renewal after an election, the node's identity as placement gave it. Must
//! not know: Raft, requests. Invariants: the identity is on disk before it is used; nothing is
//! reported that the store does not say; a stale command is the store's to refuse; a refusal for
//! good (another cluster, a wiped folder) ends the process, everything else is tried again.

mod commands;
mod measure;
pub mod metrics;
mod report;
mod session;

pub use commands::{ClusterSettings, Host, Hosted, Orders};
pub use measure::Measures;
pub use report::Replicas;
pub use session::{Link, LinkError, NodeInfo};

use futures::FutureExt as _;
use measure::Measured;
use rangedb_placement_client::LEADER_METADATA;
use rangedb_proto::internal::v1::{NodeReport, node_report::Report};
use rangedb_types::{Random as _, SystemRandom};
use report::Delta;
use session::Session;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

/// Placement takes a node for suspect after a few of these.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Changes that come closer together share a beat.
const BEAT_GAP_MIN: Duration = Duration::from_millis(20);
/// Sizes change slowly and cost a look into every file.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);
/// A report that cannot be handed to the transport for so long means that the link is dead.
const SEND_LIMIT: Duration = Duration::from_secs(3);
/// Longest pause before the next attempt to open the stream.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(300);

/// Keeps the node in touch with placement.
pub struct Heartbeat {
    link: Link,
    orders: Orders,
    measures: Arc<Measures>,
    /// True while registered with a leader.
    registered: watch::Sender<bool>,
    cancel: CancellationToken,
}

/// Why a conversation ended.
enum End {
    Cancelled,
    Broken(String),
    Refused(LinkError),
}

impl Heartbeat {
    #[must_use]
    pub fn new(
        link: Link,
        orders: Orders,
        measures: Measures,
        registered: watch::Sender<bool>,
        cancel: CancellationToken,
    ) -> Self {
        Self { link, orders, measures: Arc::new(measures), registered, cancel }
    }

    /// Runs until it is cancelled.
    ///
    /// # Errors
    /// Placement refused this node for good.
    pub async fn run(self) -> Result<(), LinkError> {
        let mut measured = Measured::default();
        loop {
            let opened = tokio::select! {
                () = self.cancel.cancelled() => return Ok(()),
                opened = self.link.open() => opened,
            };
            let end = match opened {
                Ok(session) => {
                    metrics::SESSIONS.inc();
                    tracing::info!(placement = session.address(), "registered with placement");
                    self.registered.send_replace(true);
                    self.converse(session, &mut measured).await
                }
                Err(error) if error.is_final() => End::Refused(error),
                Err(error) => End::Broken(error.to_string()),
            };
            let was_registered = self.registered.send_replace(false);
            match end {
                End::Cancelled => return Ok(()),
                End::Refused(error) => return Err(error),
                End::Broken(why) if was_registered => tracing::info!(why, "lost placement"),
                End::Broken(why) => tracing::debug!(why, "placement could not be reached"),
            }
            pause(&self.cancel).await;
        }
    }

    async fn converse(&self, mut session: Session, measured: &mut Measured) -> End {
        let mut delta = Delta::default();
        let mut beats = interval(BEAT_INTERVAL);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut measures = interval(MEASURE_INTERVAL);
        measures.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut measuring: Option<JoinHandle<Measured>> = None;
        let changed = self.orders.hosted.changed();
        // Always listening: armed again before the beat that tells what it was about.
        let news = changed.notified();
        tokio::pin!(news);
        let mut is_news = false;
        let mut last_beat = Instant::now();
        loop {
            let beat = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return End::Cancelled,
                command = session.commands.message() => match command {
                    Ok(Some(command)) => {
                        if let Some(done) = self.orders.carry_out(command).await
                            && let Err(end) = send(&session, done).await
                        {
                            return end;
                        }
                        false
                    }
                    Ok(None) => return End::Broken("placement ended the stream".to_owned()),
                    Err(status) => return self.broken(&session, &status),
                },
                result = finished(&mut measuring), if measuring.is_some() => {
                    measuring = None;
                    match result {
                        Ok(result) => {
                            for (range_id, bytes) in &result.range_bytes {
                                self.orders.hosted.found_size(*range_id, *bytes);
                            }
                            delta.measured(measured, &result);
                            *measured = result;
                        }
                        Err(error) => tracing::warn!(%error, "sizes could not be measured"),
                    }
                    false
                }
                _ = measures.tick(), if measuring.is_none() => {
                    let measures = Arc::clone(&self.measures);
                    let used = delta.subjects(&*self.orders.hosted, measured);
                    measuring = Some(tokio::task::spawn_blocking(move || measures.take(&used)));
                    false
                }
                () = &mut news, if !is_news => {
                    news.set(changed.notified());
                    news.as_mut().enable();
                    is_news = true;
                    false
                }
                () = sleep_until(last_beat + BEAT_GAP_MIN), if is_news => true,
                _ = beats.tick() => true,
            };
            if beat {
                is_news = false;
                last_beat = Instant::now();
                let beat = delta.beat(&*self.orders.hosted, measured);
                metrics::BEATS.inc();
                if let Err(end) = send(&session, Report::Heartbeat(beat)).await {
                    return end;
                }
            }
        }
    }

    fn broken(&self, session: &Session, status: &Status) -> End {
        self.link.failed(session, status);
        let error = LinkError::of_status(status);
        if error.is_final() { End::Refused(error) } else { End::Broken(error.to_string()) }
    }
}

async fn finished(measuring: &mut Option<JoinHandle<Measured>>) -> Result<Measured, JoinError> {
    match measuring {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

async fn send(session: &Session, report: Report) -> Result<(), End> {
    let report = NodeReport { report: Some(report) };
    match timeout(SEND_LIMIT, session.reports.send(report)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Broken("the stream is closed".to_owned())),
        Err(_) => Err(End::Broken("placement does not read the reports".to_owned())),
    }
}

async fn pause(cancel: &CancellationToken) {
    let pause = SystemRandom.jitter(RETRY_PAUSE_MAX);
    tokio::time::timeout(pause, cancel.cancelled()).map(|_| ()).await;
}

/// Registers for the first time, so that the node has an id, and ends the stream again: there is no
/// store yet that could report anything.
///
/// # Errors
/// Placement refused this node for good.
pub async fn register_first(link: &Link, cancel: &CancellationToken) -> Result<(), LinkError> {
    loop {
        let opened = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            opened = link.open() => opened,
        };
        match opened {
            Ok(_) => return Ok(()),
            Err(error) if error.is_final() => return Err(error),
            Err(error) => tracing::debug!(%error, "placement could not be reached"),
        }
        pause(cancel).await;
    }
}

/// True if the refusal would come again at every attempt.
fn is_refusal_for_good(status: &Status) -> bool {
    let code = status.code();
    !status.metadata().contains_key(LEADER_METADATA)
        && matches!(
            code,
            Code::FailedPrecondition
                | Code::InvalidArgument
                | Code::PermissionDenied
                | Code::AlreadyExists
                | Code::Unimplemented
        )
}

#[cfg(test)]
mod tests;
