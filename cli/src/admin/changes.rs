//! `admin ranges split|merge|move|transfer-leader|scatter`. Owns: their arguments, and when they
//! count as done.

use super::plans::{Manner, print_range, print_ranges};
use super::wait::{self, RANGE_LIMIT};
use super::{Admin, written};
use crate::exit::{Exit, Failure};
use bytes::Bytes;
use rangedb_proto::v1::split_range_request::At;
use rangedb_proto::v1::{
    MergeRangeRequest, MoveReplicaRequest, RangePlan, RangeStatus, ScatterRangesRequest, SplitBy,
    SplitRangeRequest, TransferLeaderRequest,
};

#[derive(Debug, clap::Subcommand)]
pub enum Change {
    /// Cut a range in two
    Split {
        #[arg(value_name = "ID")]
        range_id: u64,
        /// The first key of the right part
        #[arg(long, value_name = "KEY", conflicts_with = "by")]
        at: Option<String>,
        /// Let its leader choose the key: halves of equal size, or of equal load
        #[arg(long, value_enum, default_value_t = By::Size)]
        by: By,
        #[command(flatten)]
        manner: Manner,
    },
    /// Make its right neighbour part of a range
    Merge {
        #[arg(value_name = "ID")]
        range_id: u64,
        #[command(flatten)]
        manner: Manner,
    },
    /// Move a replica of a range from one node to another
    Move {
        #[arg(value_name = "ID")]
        range_id: u64,
        #[arg(long, value_name = "NODE")]
        from: u64,
        #[arg(long, value_name = "NODE")]
        to: u64,
        #[command(flatten)]
        manner: Manner,
    },
    /// Let the replica on another node lead a range
    TransferLeader {
        #[arg(value_name = "ID")]
        range_id: u64,
        #[arg(long, value_name = "NODE")]
        to: u64,
        #[command(flatten)]
        manner: Manner,
    },
    /// Spread the replicas and leaders of all ranges between two keys over the nodes
    Scatter {
        /// The first key; empty or left out: from the beginning
        #[arg(default_value = "")]
        start: String,
        /// The key to stop at; empty or left out: to the end
        #[arg(default_value = "")]
        end: String,
        #[command(flatten)]
        manner: Manner,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum By {
    Size,
    Load,
}

/// Gives one command.
pub async fn run(change: Change, admin: Admin) -> Result<(), Failure> {
    match change {
        Change::Split { range_id, at, by, manner } => {
            let at = match (at, by) {
                (Some(key), _) => At::AtKey(key.into_bytes().into()),
                (None, By::Size) => At::By(SplitBy::Size.into()),
                (None, By::Load) => At::By(SplitBy::Load.into()),
            };
            split(range_id, at, manner, admin).await
        }
        Change::Merge { range_id, manner } => merge(range_id, manner, admin).await,
        Change::Move { range_id, from, to, manner } => {
            move_replica(range_id, from, to, manner, admin).await
        }
        Change::TransferLeader { range_id, to, manner } => {
            transfer(range_id, to, manner, admin).await
        }
        Change::Scatter { start, end, manner } => scatter(start, end, manner, admin).await,
    }
}

async fn split(range_id: u64, at: At, manner: Manner, mut admin: Admin) -> Result<(), Failure> {
    named(range_id)?;
    let request =
        SplitRangeRequest { range_id, key: Bytes::new(), at: Some(at), dry_run: manner.dry_run };
    let request = admin.request(request);
    let plan = written(admin.client.split_range(request).await)?;
    let version = plan.version;
    finish(&plan, manner, admin, |range| range.version > version).await
}

async fn merge(range_id: u64, manner: Manner, mut admin: Admin) -> Result<(), Failure> {
    named(range_id)?;
    let request = MergeRangeRequest { range_id, right_range_id: 0, dry_run: manner.dry_run };
    let request = admin.request(request);
    let plan = written(admin.client.merge_range(request).await)?;
    let version = plan.version;
    finish(&plan, manner, admin, |range| range.version > version).await
}

async fn move_replica(
    range_id: u64,
    from: u64,
    to: u64,
    manner: Manner,
    mut admin: Admin,
) -> Result<(), Failure> {
    named(range_id)?;
    let dry_run = manner.dry_run;
    let request = MoveReplicaRequest { range_id, from_node_id: from, to_node_id: to, dry_run };
    let request = admin.request(request);
    let plan = written(admin.client.move_replica(request).await)?;
    let on = |range: &RangeStatus, node_id| {
        range.replicas.iter().any(|replica| replica.node_id == node_id)
    };
    finish(&plan, manner, admin, |range| on(range, to) && !on(range, from)).await
}

async fn transfer(range_id: u64, to: u64, manner: Manner, mut admin: Admin) -> Result<(), Failure> {
    named(range_id)?;
    let request = TransferLeaderRequest { range_id, to_node_id: to, dry_run: manner.dry_run };
    let request = admin.request(request);
    let plan = written(admin.client.transfer_leader(request).await)?;
    finish(&plan, manner, admin, |range| range.leader_node_id == to).await
}

async fn scatter(
    start: String,
    end: String,
    manner: Manner,
    mut admin: Admin,
) -> Result<(), Failure> {
    let (start, end) = (start.into_bytes().into(), end.into_bytes().into());
    let request = admin.request(ScatterRangesRequest { start, end, dry_run: manner.dry_run });
    let plans = written(admin.client.scatter_ranges(request).await)?.plans;
    let mut given_up = Vec::new();
    if manner.wait {
        let deadline = admin.wait_until(RANGE_LIMIT);
        for plan in &plans {
            // What a new leader of placement knows nothing of has ended.
            match wait::for_range(&mut admin, plan.range_id, deadline, |_| true).await {
                Err(failure) if failure.exit == Exit::NotMet => given_up.push(failure.message),
                other => other?,
            }
        }
    }
    print_ranges(admin.output, &plans, manner)?;
    if let Some(first) = given_up.first() {
        let (count, total) = (given_up.len(), plans.len());
        return Err(Failure::not_met(format!("{count} of {total} were given up; {first}")));
    }
    Ok(())
}

/// 0 would let the server choose the range by a key.
fn named(range_id: u64) -> Result<(), Failure> {
    if range_id == 0 {
        return Err(Failure::usage("the id of a range is at least 1; see `admin ranges list`"));
    }
    Ok(())
}

async fn finish(
    plan: &RangePlan,
    manner: Manner,
    mut admin: Admin,
    reached: impl Fn(&RangeStatus) -> bool,
) -> Result<(), Failure> {
    if manner.wait && !plan.steps.is_empty() {
        let deadline = admin.wait_until(RANGE_LIMIT);
        wait::for_range(&mut admin, plan.range_id, deadline, reached).await?;
    }
    print_range(admin.output, plan, manner)
}
