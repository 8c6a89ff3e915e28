//! The open streams of storage nodes.
//!
//! Invariant: at most one stream a node; a new one ends the old one.

use crate::view::SessionId;
use rangedb_proto::internal::v1 as wire;
use rangedb_types::NodeId;
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// What is sent down a node's stream.
pub type Outgoing = mpsc::Sender<Result<wire::NodeCommand, Status>>;

/// One open stream of a registered node.
#[derive(Clone, Debug)]
pub struct Session {
    pub node_id: NodeId,
    pub id: SessionId,
    /// Ends the stream.
    pub ended: CancellationToken,
    outgoing: Outgoing,
}

#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: BTreeMap<NodeId, Session>,
    last_id: u64,
}

impl Sessions {
    pub(super) fn open(
        &mut self,
        node_id: NodeId,
        outgoing: Outgoing,
        ended: CancellationToken,
    ) -> Session {
        self.last_id += 1;
        let session = Session { node_id, id: SessionId(self.last_id), ended, outgoing };
        if let Some(old) = self.open.insert(node_id, session.clone()) {
            old.ended.cancel();
        }
        session
    }

    pub(super) fn close(&mut self, session: &Session) {
        if self.open.get(&session.node_id).is_some_and(|open| open.id == session.id) {
            self.open.remove(&session.node_id);
        }
    }

    /// Ends a node's stream, if it has one.
    pub(super) fn end(&mut self, node_id: NodeId) {
        if let Some(session) = self.open.remove(&node_id) {
            session.ended.cancel();
        }
    }

    pub(super) fn node_ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.open.keys().copied()
    }

    /// Hands a command to a node. False if it has no stream, or does not read it; then the stream
    /// is ended, so that the node comes back and is told everything anew.
    pub(super) fn send(&self, node_id: NodeId, command: wire::NodeCommand) -> bool {
        let Some(session) = self.open.get(&node_id) else { return false };
        let sent = session.outgoing.try_send(Ok(command)).is_ok();
        if !sent {
            session.ended.cancel();
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_stream_ends_the_old_one_and_outlives_its_end() {
        let mut sessions = Sessions::default();
        let node = NodeId(1);
        let (outgoing, _commands) = mpsc::channel(1);
        let old = sessions.open(node, outgoing.clone(), CancellationToken::new());
        let new = sessions.open(node, outgoing, CancellationToken::new());
        assert!(old.ended.is_cancelled() && !new.ended.is_cancelled());
        sessions.close(&old);
        assert_eq!(sessions.node_ids().collect::<Vec<_>>(), [node]);
        sessions.close(&new);
        assert_eq!(sessions.node_ids().count(), 0);
    }

    #[test]
    fn a_node_that_does_not_read_its_commands_loses_its_stream() {
        let mut sessions = Sessions::default();
        let (outgoing, _commands) = mpsc::channel(1);
        let session = sessions.open(NodeId(1), outgoing, CancellationToken::new());
        assert!(sessions.send(NodeId(1), wire::NodeCommand::default()));
        assert!(!sessions.send(NodeId(1), wire::NodeCommand::default()));
        assert!(session.ended.is_cancelled());
        assert!(!sessions.send(NodeId(2), wire::NodeCommand::default()));
    }
}
