//! Waiting for what a command began. Owns: polling, and progress on stderr. Must not know: how
//! placement carries commands out. Invariant: a wait ends at its limit, and what was begun goes on.

use super::{Admin, read};
use crate::exit::{Exit, Failure};
use rangedb_proto::v1::wish_status::State;
use rangedb_proto::v1::{
    DrainNodeRequest, GetRangeRequest, GetRangeResponse, ListNodesRequest, RangeStatus,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic::Request;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// How long one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for a range unless told otherwise.
pub const RANGE_LIMIT: Duration = Duration::from_secs(60);
/// How long to wait for a node to be empty unless told otherwise.
pub const NODE_LIMIT: Duration = Duration::from_secs(600);

/// Says what changed since it was last said.
#[derive(Default)]
struct Progress {
    told: String,
}

impl Progress {
    fn tell(&mut self, words: String) {
        if words != self.told {
            eprintln!("rangedb-cli: {words}");
            self.told = words;
        }
    }
}

fn look<T>(message: T) -> Request<T> {
    crate::connect::request(message, LOOK_TIMEOUT)
}

fn too_late(what: &str) -> Failure {
    Failure::new(
        Exit::Unavailable,
        format!(
            "{what} is not done yet, and goes on; wait longer with --timeout, or look at `admin cluster status`"
        ),
    )
}

/// What one look at a range tells of a command.
enum Verdict {
    Done,
    GivenUp(String),
    UnderWay(String),
}

fn judge(answer: &GetRangeResponse, reached: impl Fn(&RangeStatus) -> bool) -> Verdict {
    match &answer.wish {
        Some(wish) => match wish.state() {
            State::Done => Verdict::Done,
            State::GivenUp => Verdict::GivenUp(wish.why.clone()),
            State::UnderWay | State::Unspecified => Verdict::UnderWay(wish.why.clone()),
        },
        // A new leader of placement does not know how it ended; the range itself shows it.
        None if answer.range.as_ref().is_some_and(reached) => Verdict::Done,
        None => Verdict::GivenUp("placement does not know of it any more".to_owned()),
    }
}

/// Waits until the command for a range has ended.
///
/// # Errors
/// `NotMet` if it was given up, `Unavailable` if it takes too long.
pub async fn for_range(
    admin: &mut Admin,
    range_id: u64,
    deadline: Instant,
    reached: impl Fn(&RangeStatus) -> bool,
) -> Result<(), Failure> {
    let mut progress = Progress::default();
    loop {
        match read(admin.client.get_range(look(GetRangeRequest { range_id })).await) {
            Ok(answer) => match judge(&answer, &reached) {
                Verdict::Done => return Ok(()),
                Verdict::GivenUp(why) => {
                    return Err(Failure::not_met(format!("range {range_id}: given up: {why}")));
                }
                Verdict::UnderWay(now) if now.is_empty() => {}
                Verdict::UnderWay(now) => progress.tell(format!("range {range_id}: {now}")),
            },
            // Placement may be between two leaders.
            Err(failure) if failure.exit == Exit::Unavailable => progress.tell(failure.message),
            Err(failure) => return Err(failure),
        }
        if Instant::now() >= deadline {
            return Err(too_late(&format!("the command for range {range_id}")));
        }
        sleep(PAUSE).await;
    }
}

/// Waits until a node is drained.
///
/// # Errors
/// `NotMet` if the drain was taken back, `Unavailable` if it takes too long.
pub async fn for_drain(admin: &mut Admin, node_id: u64, deadline: Instant) -> Result<(), Failure> {
    let mut progress = Progress::default();
    loop {
        match drained(admin, node_id, &mut progress).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(failure) if failure.exit == Exit::Unavailable => progress.tell(failure.message),
            Err(failure) => return Err(failure),
        }
        if Instant::now() >= deadline {
            return Err(too_late(&format!("the drain of node {node_id}")));
        }
        sleep(PAUSE).await;
    }
}

async fn drained(
    admin: &mut Admin,
    node_id: u64,
    progress: &mut Progress,
) -> Result<bool, Failure> {
    let nodes = read(admin.client.list_nodes(look(ListNodesRequest {})).await)?.nodes;
    let Some(node) = nodes.iter().find(|node| node.node_id == node_id) else {
        return Err(Failure::not_met(format!("node {node_id} was removed")));
    };
    match node.state.as_str() {
        "drained" => return Ok(true),
        "up" => {
            return Err(Failure::not_met(format!("the drain of node {node_id} was taken back")));
        }
        _ => {}
    }
    // A node that is away cannot say that it is empty; the range map can.
    let rehearsal = DrainNodeRequest { node_id, dry_run: true };
    let left = read(admin.client.drain_node(look(rehearsal)).await)?.replicas_left;
    progress.tell(format!(
        "node {node_id} ({}): {left} replicas and {} leaders left",
        node.state, node.leaders
    ));
    Ok(node.state == "down" && left == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_proto::v1::WishStatus;

    #[test]
    fn a_command_is_judged_by_its_wish_and_else_by_the_range() {
        let range = RangeStatus { range_id: 1, version: 3, ..RangeStatus::default() };
        let with = |state: Option<State>| GetRangeResponse {
            range: Some(range.clone()),
            operator: None,
            wish: state.map(|state| WishStatus { state: state.into(), ..WishStatus::default() }),
        };
        let never = |_: &RangeStatus| false;
        assert!(matches!(judge(&with(Some(State::Done)), never), Verdict::Done));
        assert!(matches!(judge(&with(Some(State::GivenUp)), |_| true), Verdict::GivenUp(_)));
        assert!(matches!(judge(&with(Some(State::UnderWay)), |_| true), Verdict::UnderWay(_)));
        assert!(matches!(judge(&with(None), |range| range.version == 3), Verdict::Done));
        assert!(matches!(judge(&with(None), never), Verdict::GivenUp(_)));
    }
}
