//! Snapshots carried from one engine to another by a simulation: what the snapshot threads and their
//! connection do, one step at a call.

use super::stage::{self, Staging};
use super::{SendJob, StagedSnapshot, chunk, install, worker};
use rangedb_engine::Engine;
use rangedb_types::{NodeId, RangeId};
use std::path::{Path, PathBuf};

/// The whole of a snapshot arrives, and is staged in `path`.
pub(crate) fn transfer(
    job: &SendJob,
    from_node: NodeId,
    path: PathBuf,
) -> Result<StagedSnapshot, String> {
    let mut staging = Staging::begin(path, &job.descriptor)?;
    let totals = chunk::read_range(job.data.as_ref(), &job.descriptor, |chunk| {
        staging.add(&(&chunk).into()).is_ok()
    })?;
    Ok(StagedSnapshot {
        from_node,
        to_replica: job.to_replica,
        from_replica: job.from_replica,
        descriptor: (*job.descriptor).clone(),
        position: job.position,
        message: job.message.clone(),
        path: staging.finish(totals)?.keep(),
    })
}

pub(crate) fn install(engine: &dyn Engine, staged: &StagedSnapshot) -> Result<(), String> {
    worker::install_one(engine, staged)
}

pub(crate) fn finish(engine: &dyn Engine, range_id: RangeId) -> Result<(), String> {
    install::remove_intent(engine, range_id)
}

pub(crate) fn discard(path: &Path) {
    stage::remove(path);
}
