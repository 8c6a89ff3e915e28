//! What the leader does again and again: store what was reported, create the first range, plan, and
//! send commands.
//!
//! Everything is computed from the state and the view as they are, so a round that was missed, or a
//! leader that was lost, costs time and nothing else.

use super::office::Office;
use super::quiet::{Inputs, Quiet};
use crate::consensus::{LeadershipError, ProposeError};
use crate::metrics;
use crate::operator::planner_seed;
use crate::state::{Command, NodeState, RANGES_PER_REPORT_MAX, Response, Wish};
use crate::view::policy;
use crate::wishes::Ended;
use rangedb_planner::{ClusterView, Liveness, plan};
use rangedb_proto::internal::v1 as wire;
use rangedb_types::{Epoch, MonotonicTime, NodeId, RangeDescriptor, RangeId, Span};
use std::collections::HashMap;
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

/// How often a round is made when nothing asks for one.
const ROUND_INTERVAL: Duration = Duration::from_millis(500);
/// Shortest time between two rounds.
const ROUND_PAUSE: Duration = Duration::from_millis(20);
/// Planning for very many ranges takes long: it rests for so many times as long as it took when there
/// is much to do, and when there is nothing.
const BUSY_REST: u32 = 3;
const IDLE_REST: u32 = 30;
/// How often leadership is confirmed although nobody asks: a leader that is cut off must let go.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long a node may take to show the first range before it is told again to create it.
const BOOTSTRAP_RESEND_AFTER: Duration = Duration::from_secs(2);
/// Epoch of the first range as it is created. No range has it again after its first change.
const FIRST_EPOCH: Epoch = Epoch { version: 1, conf_version: 1 };

/// Why the office is laid down.
enum Lost {
    Leadership,
}

/// What a plan leaves to do, besides sending its commands.
struct Planned {
    /// Ids that it has not got yet.
    wanted: usize,
    over: Vec<Ended>,
}

struct Duties<'a> {
    office: &'a Office,
    bootstrap_sent_at: Option<MonotonicTime>,
    confirmed_at: Instant,
    /// How long the last plan took.
    planned_for: Duration,
    quiet: Quiet,
}

/// Runs until leadership is lost.
pub(super) async fn run(office: &Office) {
    let mut duties = Duties {
        office,
        bootstrap_sent_at: None,
        confirmed_at: Instant::now(),
        planned_for: Duration::ZERO,
        quiet: Quiet::default(),
    };
    let mut revisions = office.consensus.revisions();
    loop {
        if duties.round().await.is_err() {
            return;
        }
        sleep((duties.planned_for * BUSY_REST).clamp(ROUND_PAUSE, ROUND_INTERVAL)).await;
        let rest = (duties.planned_for * IDLE_REST).clamp(ROUND_INTERVAL, CONFIRM_INTERVAL);
        tokio::select! {
            () = sleep(rest) => {}
            () = office.wake.notified() => {}
            changed = revisions.changed() => if changed.is_err() { return },
        }
    }
}

/// Does long work while others of this runtime's tasks go on: with very many ranges a plan takes longer
/// than a leader may be silent.
fn aside<R>(work: impl FnOnce() -> R) -> R {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => block_in_place(work),
        _ => work(),
    }
}

impl Duties<'_> {
    async fn round(&mut self) -> Result<(), Lost> {
        self.confirm().await?;
        self.office.publish();
        self.store_news().await?;
        self.bootstrap().await?;
        self.schedule().await?;
        self.mark_drained().await
    }

    async fn confirm(&mut self) -> Result<(), Lost> {
        if self.confirmed_at.elapsed() < CONFIRM_INTERVAL {
            return Ok(());
        }
        match self.office.consensus.confirm_leadership(Instant::now() + TIMEOUT).await {
            Ok(_) => {
                self.confirmed_at = Instant::now();
                Ok(())
            }
            Err(error) => {
                if error == LeadershipError::Timeout {
                    tracing::warn!("a quorum of placement cannot be reached");
                }
                Err(Lost::Leadership)
            }
        }
    }

    async fn propose(&self, command: Command) -> Result<Option<Response>, Lost> {
        let deadline = Instant::now() + TIMEOUT;
        match self.office.consensus.propose(command, deadline).await {
            Ok(Response::Rejected(rejection)) => {
                tracing::warn!(%rejection, "placement's own command was rejected");
                Ok(None)
            }
            Ok(response) => Ok(Some(response)),
            // The next round looks at what became of it.
            Err(ProposeError::OutcomeUnknown) => Ok(None),
            Err(ProposeError::NotLeader { .. } | ProposeError::Stopped) => Err(Lost::Leadership),
        }
    }

    async fn store_news(&self) -> Result<(), Lost> {
        while self.office.has_news() {
            let taken = self.office.take_news(RANGES_PER_REPORT_MAX);
            let news: Vec<_> = self
                .office
                .consensus
                .read(|state| taken.into_iter().filter(|range| state.is_news(range)).collect());
            if news.is_empty() {
                continue;
            }
            let count = news.len() as u64;
            let report = Command::ReportRanges(news.clone());
            if self.propose(report).await?.is_none() {
                self.office.add_news(news);
                return Ok(());
            }
            metrics::RANGE_REPORTS.inc_by(count);
        }
        Ok(())
    }

    /// Sees to it that there is a first range. Only the state machine decides which node has it, and
    /// only once; this tells that node until the range is seen.
    async fn bootstrap(&mut self) -> Result<(), Lost> {
        let Some(first) = self.first_range().await? else { return Ok(()) };
        let now = self.office.now();
        let seen = self.office.view.lock().range(first.range_id).is_some();
        let waits = self
            .bootstrap_sent_at
            .is_some_and(|sent_at| now.since(sent_at) < BOOTSTRAP_RESEND_AFTER);
        let Some(replica) = first.replicas.first().filter(|_| !seen && !waits) else {
            return Ok(());
        };
        let bootstrap = wire::BootstrapRange { range: Some((&first).into()) };
        let command = wire::NodeCommand {
            command: Some(wire::node_command::Command::BootstrapRange(bootstrap)),
        };
        if self.office.sessions.lock().send(replica.node_id, command) {
            self.bootstrap_sent_at = Some(now);
            metrics::COMMANDS.with_label_values(&["bootstrap"]).inc();
            tracing::info!(node_id = %replica.node_id, range_id = %first.range_id, "told a node to create the first range");
        }
        Ok(())
    }

    /// The first range while it is still as it was created.
    async fn first_range(&self) -> Result<Option<RangeDescriptor>, Lost> {
        let stored = self.office.consensus.read(|state| {
            let everything = Span::all();
            let range = state.ranges_overlapping(&everything).next().cloned();
            (state.range_count(), range)
        });
        let range = match stored {
            (0, _) => {
                let chosen: Option<NodeId> = self.office.sessions.lock().node_ids().next();
                let Some(node_id) = chosen else { return Ok(None) };
                match self.propose(Command::BootstrapFirstRange { node_id }).await? {
                    Some(Response::FirstRange { range, .. }) => Some(range),
                    _ => None,
                }
            }
            (1, range) => range,
            _ => None,
        };
        Ok(range.filter(|range| range.epoch == FIRST_EPOCH))
    }

    async fn schedule(&mut self) -> Result<(), Lost> {
        let inputs = Inputs::of(self.office);
        if self.quiet.holds(inputs, self.office.now()) {
            return Ok(());
        }
        let Planned { wanted, over } = aside(|| self.plan(inputs));
        let office = self.office;
        if wanted > 0 {
            let count = u32::try_from(wanted).unwrap_or(u32::MAX);
            let count = count.min(crate::state::IDS_PER_CALL_MAX);
            if let Some(Response::Ids { first }) =
                self.propose(Command::AllocateIds { count }).await?
            {
                office.operators.lock().give_ids(first..first + u64::from(count));
            }
        }
        self.send_commands();
        self.end_wishes(over).await
    }

    /// Plans for all ranges, which may take long.
    fn plan(&mut self, inputs: Inputs) -> Planned {
        let office = self.office;
        let begun = Instant::now();
        let (mut view, policy, seed, wishes) = office.look(|state, view, now| {
            let policy = policy(state);
            let seed = state.cluster_id().map_or(0, planner_seed);
            let wishes: Vec<Wish> = state.wishes().cloned().collect();
            (view.snapshot(state, now), policy, seed, wishes)
        });
        office.wishes.lock().keep_apart(&wishes, &mut view, &policy);
        let timer = metrics::PLAN_SECONDS.start_timer();
        let (mut operators, explanation) = plan(&view, &policy, seed);
        let now = office.now();
        let over = office.wishes.lock().round(&wishes, &view, &policy, &mut operators, now);
        timer.observe_duration();
        self.count(&view, operators.len(), explanation.pending().len());
        let frozen = view.ranges.iter().any(|range| range.merging.is_some());
        let idle = operators.is_empty()
            && explanation.pending().is_empty()
            && wishes.is_empty()
            && !frozen;
        *office.explanation.lock() = explanation;
        let replicas: HashMap<RangeId, usize> = view
            .ranges
            .iter()
            .map(|range| (range.descriptor.range_id, range.descriptor.replicas.len()))
            .collect();
        let replicas = |range_id| replicas.get(&range_id).copied().unwrap_or_default();
        let mut under_way = office.operators.lock();
        under_way.accept(operators, replicas, office.now());
        let nothing_under_way = under_way.under_way().next().is_none();
        self.quiet.planned(inputs, office.now(), idle && nothing_under_way);
        self.planned_for = begun.elapsed();
        Planned { wanted: under_way.ids_wanted(), over }
    }

    async fn end_wishes(&self, over: Vec<Ended>) -> Result<(), Lost> {
        if over.is_empty() {
            return Ok(());
        }
        let wishes = over.iter().map(|ended| ended.wish.clone()).collect();
        // What could not be stored is judged again in the next round.
        if self.propose(Command::EndWishes(wishes)).await?.is_some() {
            for ended in &over {
                let (wish, fulfilled, why) = (&ended.wish, ended.fulfilled, &ended.why);
                let range_id = wish.range_id;
                tracing::info!(%range_id, fulfilled, why, "a command by hand has ended");
            }
            self.office.wishes.lock().ended(over, self.office.now());
        }
        Ok(())
    }

    /// Tells that nodes which were to be emptied are empty: as the map has it, and as they say.
    async fn mark_drained(&self) -> Result<(), Lost> {
        let drained: Vec<NodeId> = self.office.look(|state, view, _| {
            let draining = state.nodes().filter(|node| node.state == NodeState::Draining);
            let empty = draining.filter(|node| {
                view.has_told_all(node.node_id) && view.stats(node.node_id).replicas == 0
            });
            let everything = Span::all();
            empty
                .map(|node| node.node_id)
                .filter(|node_id| view.replicas_named(state, &everything, *node_id) == 0)
                .collect()
        });
        for node_id in drained {
            let command = Command::SetNodeState { node_id, state: NodeState::Drained };
            if self.propose(command).await?.is_some() {
                tracing::info!(%node_id, "the node is drained");
            }
        }
        Ok(())
    }

    fn send_commands(&self) {
        let office = self.office;
        let due = office.operators.lock().due(office.now());
        for dispatch in due {
            let (node_id, range_id, kind) = (dispatch.node_id, dispatch.range_id, dispatch.kind);
            if office.sessions.lock().send(node_id, dispatch.command) {
                metrics::COMMANDS.with_label_values(&[kind]).inc();
                tracing::info!(%range_id, %node_id, kind, "sent a command");
            } else {
                office.operators.lock().not_sent(range_id);
            }
        }
    }

    fn count(&self, view: &ClusterView, operators: usize, pending: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (liveness, state) in
            [(Liveness::Up, "up"), (Liveness::Suspect, "suspect"), (Liveness::Down, "down")]
        {
            let count = view.nodes.iter().filter(|node| node.liveness == liveness).count();
            metrics::NODES.with_label_values(&[state]).set(number(count));
        }
        let silent = view.ranges.iter().filter(|range| range.leader.is_none()).count();
        metrics::RANGES.set(number(view.ranges.len()));
        metrics::RANGES_WITHOUT_LEADER.set(number(silent));
        metrics::OPERATORS.set(number(operators));
        metrics::PENDING.set(number(pending));
        let revision = self.office.consensus.read(|state| {
            self.office.view.lock().retain_ranges(state, self.office.now());
            state.revision()
        });
        metrics::REVISION.set(i64::try_from(revision).unwrap_or(i64::MAX));
    }
}
