//! Raft messages as they go over the wire.

use super::{Identity, Inbound, Outbound};
use crate::replica::Sleep;
use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use rangedb_proto::convert::Malformed;
use rangedb_proto::internal::v1 as wire;
use rangedb_types::{NodeId, RangeDescriptor, RangeId, ReplicaId, Span};

/// The greeting that opens every stream.
pub(crate) fn hello(identity: Identity, to: NodeId) -> wire::RaftHello {
    wire::RaftHello {
        cluster_id: identity.cluster_id.to_string(),
        from_node_id: identity.node_id.get(),
        to_node_id: to.get(),
    }
}

/// What a message takes in a queue, near enough.
pub(super) fn queued_bytes(outbound: &Outbound) -> usize {
    /// Message, bounds and epoch without payloads.
    const OVERHEAD: usize = 256;
    let entries = outbound.message.as_ref().map_or(0, |message| {
        message.entries.iter().map(|entry| entry.data.len() + entry.context.len() + 32).sum()
    });
    OVERHEAD + entries
}

pub(super) fn encode(outbound: &Outbound, from_node: NodeId) -> wire::RaftMessage {
    let mut message = encode_parts(
        from_node,
        outbound.range_id,
        outbound.from_replica,
        outbound.to_replica,
        outbound.message.as_ref(),
    );
    message.epoch = Some(outbound.epoch.into());
    message.start = outbound.span.start.clone().into();
    message.end = outbound.span.end.clone().into();
    message.sleep =
        outbound.sleep.map(|sleep| wire::RangeSleep { term: sleep.term, index: sleep.index });
    message.removed_by = outbound.removed_by.as_deref().map(Into::into);
    message
}

/// A wire message without epoch and bounds.
pub(crate) fn encode_parts(
    from_node: NodeId,
    range_id: RangeId,
    from_replica: ReplicaId,
    to_replica: ReplicaId,
    message: Option<&Message>,
) -> wire::RaftMessage {
    let message = message.map_or_else(Bytes::new, |message| {
        message.write_to_bytes().expect("writing to memory does not fail").into()
    });
    wire::RaftMessage {
        range_id: range_id.get(),
        from_replica_id: from_replica.get(),
        to_replica_id: to_replica.get(),
        from_node_id: from_node.get(),
        message,
        ..wire::RaftMessage::default()
    }
}

/// Reads a message that came from `from_node`.
pub(crate) fn decode_inbound(
    from_node: NodeId,
    message: &wire::RaftMessage,
) -> Result<Inbound, Malformed> {
    if message.from_node_id != from_node.get() {
        return Err(Malformed("a message of another node than the stream's"));
    }
    let removed_by = message.removed_by.as_ref().map(RangeDescriptor::try_from).transpose()?;
    let span = Span::new(message.start.to_vec(), message.end.to_vec())
        .map_err(|_| Malformed("range bounds in the wrong order"))?;
    Ok(Inbound {
        from_node,
        range_id: RangeId(message.range_id),
        from_replica: ReplicaId(message.from_replica_id),
        to_replica: ReplicaId(message.to_replica_id),
        epoch: message.epoch.ok_or(Malformed("a raft message without an epoch"))?.into(),
        span,
        message: decode_message(message)?,
        removed_by,
        sleep: message.sleep.map(|sleep| Sleep { term: sleep.term, index: sleep.index }),
    })
}

fn decode_message(outer: &wire::RaftMessage) -> Result<Option<Message>, Malformed> {
    if outer.message.is_empty() {
        return Ok(None);
    }
    let message = Message::parse_from_bytes(&outer.message)
        .map_err(|_| Malformed("a raft message that cannot be read"))?;
    if message.from != outer.from_replica_id || message.to != outer.to_replica_id {
        return Err(Malformed("a raft message of another replica than it says"));
    }
    Ok(Some(message))
}

/// False for messages that must never come from another node on this stream: those that a replica
/// sends itself, those that are forwarded to leaders (proposals are made by leaders alone, and a
/// read confirmed under another's context could be stale), and snapshots, which have a stream of
/// their own.
pub(super) fn may_travel(message: &Message) -> bool {
    match message.get_msg_type() {
        MessageType::MsgAppend
        | MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTimeoutNow
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse => true,
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgSnapshot
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp => false,
    }
}
