//! What is proposed for a write.

use super::writer::{Change, Identity};
use crate::access::Refusal;
use rangedb_mvcc::{Mutation, fence};
use rangedb_proto::internal::v1 as wire;
use rangedb_types::limits::RAFT_ENTRY_BYTES_MAX;
use rangedb_types::{RangeId, RequestId, Timestamp};

/// Bytes of an entry that are not keys and values, generously.
const ENTRY_OVERHEAD_BYTES: usize = 1 << 10;

/// The command of a write at its commit timestamp.
///
/// # Errors
/// `Invalid` if it does not fit in a Raft entry.
pub(super) fn of_change(
    change: &Change,
    identity: &Identity,
    version: Timestamp,
) -> Result<wire::WriteCommand, Refusal> {
    let request_id = identity.request_id;
    let mutations = match change {
        Change::Put { key, value, .. } => rangedb_mvcc::put(key, value, version, request_id),
        Change::Delete { key, .. } => rangedb_mvcc::delete(key, version, request_id),
        Change::DeleteRange { span } => rangedb_mvcc::delete_range(span, version, request_id),
    };
    of_mutations(mutations, version)
}

/// The command of some mutations that make versions at a commit timestamp, or none at zero.
///
/// # Errors
/// `Invalid` if it does not fit in a Raft entry.
pub(crate) fn of_mutations(
    mutations: Vec<Mutation>,
    version: Timestamp,
) -> Result<wire::WriteCommand, Refusal> {
    let bytes: usize = mutations.iter().map(Mutation::byte_size).sum();
    if bytes + ENTRY_OVERHEAD_BYTES > RAFT_ENTRY_BYTES_MAX {
        return Err(Refusal::Invalid(format!(
            "the write takes {bytes} bytes; one write may take {} bytes",
            RAFT_ENTRY_BYTES_MAX - ENTRY_OVERHEAD_BYTES
        )));
    }
    Ok(command(mutations, version))
}

/// The command that fences a request off, and forgets fences that are too old to matter.
pub(super) fn of_fence(
    range_id: RangeId,
    request_id: RequestId,
    now: Timestamp,
    expired: &[RequestId],
) -> wire::WriteCommand {
    let mut mutations = vec![fence::fence(range_id, request_id, now)];
    mutations.extend(expired.iter().map(|expired| fence::remove_fence(range_id, *expired)));
    command(mutations, Timestamp::ZERO)
}

fn command(mutations: Vec<Mutation>, version: Timestamp) -> wire::WriteCommand {
    let mutations = mutations.into_iter().map(|mutation| wire::Mutation {
        family: mutation.family.number(),
        key: mutation.key,
        value: mutation.value,
    });
    wire::WriteCommand { mutations: mutations.collect(), commit_version: version.0, freed_bytes: 0 }
}
