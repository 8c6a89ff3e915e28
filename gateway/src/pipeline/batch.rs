//! The requests that one message of operations turns into, grouped so that each node's link is
//! locked and woken once.

use super::waiters::{GetWaiter, StreamContext, Ticket, WriteWaiter};
use crate::nodes::waiter::Waiter;
use crate::nodes::{Outcome, Submission};
use crate::operation::Operation;
use crate::routing::Route;
use bytes::Bytes;
use rangedb_types::NodeId;
use std::sync::Arc;
use tokio::time::Instant;

/// Keys read by one request. More save little, and a group ends as late as its largest value.
const GROUP_KEYS_MAX: usize = 64;
/// Open groups that a key is compared with; a message over more ranges makes smaller groups.
const OPEN_GROUPS_MAX: usize = 16;

struct Group {
    route: Arc<Route>,
    node: NodeId,
    deadline: Instant,
    keys: Vec<Bytes>,
    tickets: Vec<Ticket>,
}

/// Requests that are ready to be sent.
#[derive(Default)]
pub struct Batch {
    groups: Vec<Group>,
    by_node: Vec<(NodeId, Vec<Submission>)>,
}

impl Batch {
    /// Adds a read.
    pub fn get(&mut self, route: Arc<Route>, node: NodeId, ticket: Ticket, key: Bytes) {
        let fits = |group: &&mut Group| {
            Arc::ptr_eq(&group.route, &route)
                && group.node == node
                && group.deadline == ticket.deadline
                && group.keys.len() < GROUP_KEYS_MAX
        };
        if let Some(group) = self.groups.iter_mut().rev().take(OPEN_GROUPS_MAX).find(fits) {
            group.keys.push(key);
            group.tickets.push(ticket);
            return;
        }
        let (keys, tickets) = (vec![key], vec![ticket]);
        self.groups.push(Group { route, node, deadline: ticket.deadline, keys, tickets });
    }

    /// Adds a write.
    pub fn write(
        &mut self,
        context: &Arc<StreamContext>,
        route: Arc<Route>,
        node: NodeId,
        ticket: Ticket,
        operation: Operation,
    ) {
        let waiter = Box::new(WriteWaiter {
            context: Arc::clone(context),
            ticket,
            operation: operation.clone(),
            route: Arc::clone(&route),
            node,
        });
        self.add(context, &route, node, ticket.deadline, &operation, waiter);
    }

    fn add(
        &mut self,
        context: &StreamContext,
        route: &Route,
        node: NodeId,
        deadline: Instant,
        operation: &Operation,
        waiter: Box<dyn Waiter>,
    ) {
        let submission = context.dispatcher.submission(operation, route, false, deadline, waiter);
        match self.by_node.iter_mut().find(|(known, _)| *known == node) {
            Some((_, submissions)) => submissions.push(submission),
            None => self.by_node.push((node, vec![submission])),
        }
    }

    /// Hands everything to the links.
    pub fn send(mut self, context: &Arc<StreamContext>) {
        for group in std::mem::take(&mut self.groups) {
            let Group { route, node, deadline, keys, tickets } = group;
            let operation = Operation::get(keys);
            let waiter = Box::new(GetWaiter {
                context: Arc::clone(context),
                tickets,
                operation: operation.clone(),
                route: Arc::clone(&route),
                node,
            });
            self.add(context, &route, node, deadline, &operation, waiter);
        }
        for (node, submissions) in self.by_node {
            if let Some(link) = context.dispatcher.link(node) {
                link.submit(submissions);
                continue;
            }
            let mut wakes = crate::nodes::waiter::Wakes::default();
            for submission in submissions {
                submission.waiter.done(Outcome::NotSent, &mut wakes);
            }
            wakes.fire();
        }
    }
}
