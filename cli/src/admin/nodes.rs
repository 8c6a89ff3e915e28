//! `admin nodes`. Owns: storage nodes as a list, and how they are emptied and removed.

use super::plans::{Manner, print_node};
use super::wait::{self, NODE_LIMIT};
use super::{Admin, read, written};
use crate::exit::Failure;
use crate::output;
use rangedb_proto::v1::{
    DrainNodeRequest, ListNodesRequest, NodePlan, NodeStatus, RemoveNodeRequest, UndrainNodeRequest,
};
use serde::Serialize;

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Every storage node, its state and its load
    List,
    /// Move everything off a node; then it can be removed
    Drain {
        #[arg(value_name = "ID")]
        node_id: u64,
        #[command(flatten)]
        manner: Manner,
    },
    /// Take a drain back
    Undrain {
        #[arg(value_name = "ID")]
        node_id: u64,
        #[command(flatten)]
        manner: Manner,
    },
    /// Forget a node that is drained, or down and without replicas
    Remove {
        #[arg(value_name = "ID")]
        node_id: u64,
        #[command(flatten)]
        manner: Manner,
    },
}

#[derive(Debug, Serialize)]
pub struct NodeJson {
    node_id: u64,
    address: String,
    zone: String,
    state: String,
    replicas: u64,
    leaders: u64,
    used_bytes: u64,
    capacity_bytes: u64,
    region: String,
    rack: String,
    software_version: String,
}

impl NodeJson {
    pub fn new(node: &NodeStatus) -> Self {
        Self {
            node_id: node.node_id,
            address: node.address.clone(),
            zone: node.zone.clone(),
            state: node.state.clone(),
            replicas: node.replicas,
            leaders: node.leaders,
            used_bytes: node.used_bytes,
            capacity_bytes: node.capacity_bytes,
            region: node.region.clone(),
            rack: node.rack.clone(),
            software_version: node.software_version.clone(),
        }
    }
}

pub async fn run(action: Action, mut admin: Admin) -> Result<(), Failure> {
    match action {
        Action::List => list(admin).await,
        Action::Drain { node_id, manner } => drain(node_id, manner, admin).await,
        Action::Undrain { node_id, manner } => {
            let request = admin.request(UndrainNodeRequest { node_id, dry_run: manner.dry_run });
            let plan = written(admin.client.undrain_node(request).await)?;
            at_once(&plan, manner, &admin)
        }
        Action::Remove { node_id, manner } => {
            let request = admin.request(RemoveNodeRequest { node_id, dry_run: manner.dry_run });
            let plan = written(admin.client.remove_node(request).await)?;
            at_once(&plan, manner, &admin)
        }
    }
}

async fn list(mut admin: Admin) -> Result<(), Failure> {
    let request = admin.request(ListNodesRequest {});
    let answer = read(admin.client.list_nodes(request).await)?;
    let nodes: Vec<_> = answer.nodes.iter().map(NodeJson::new).collect();
    output::print(admin.output, &nodes, |nodes| text(nodes))
}

async fn drain(node_id: u64, manner: Manner, mut admin: Admin) -> Result<(), Failure> {
    let request = admin.request(DrainNodeRequest { node_id, dry_run: manner.dry_run });
    let plan = written(admin.client.drain_node(request).await)?;
    let mut left = plan.replicas_left;
    if manner.wait {
        let deadline = admin.wait_until(NODE_LIMIT);
        wait::for_drain(&mut admin, node_id, deadline).await?;
        left = 0;
    }
    // A drain that was asked for before may still be going on.
    let done = plan.steps.is_empty() && left == 0;
    print_node(admin.output, &plan, manner.state(done), left)
}

/// Of commands that have nothing to wait for.
fn at_once(plan: &NodePlan, manner: Manner, admin: &Admin) -> Result<(), Failure> {
    print_node(admin.output, plan, manner.state(true), plan.replicas_left)
}

pub fn text(nodes: &[NodeJson]) -> String {
    let head = ["NODE", "ADDRESS", "ZONE", "STATE", "REPLICAS", "LEADERS", "USED", "CAPACITY"];
    let row = |node: &NodeJson| {
        vec![
            node.node_id.to_string(),
            node.address.clone(),
            node.zone.clone(),
            node.state.clone(),
            node.replicas.to_string(),
            node.leaders.to_string(),
            indicatif::BinaryBytes(node.used_bytes).to_string(),
            indicatif::BinaryBytes(node.capacity_bytes).to_string(),
        ]
    };
    output::table(&head, nodes.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_the_promised_fields() {
        let node = NodeStatus {
            node_id: 3,
            address: "h:1".into(),
            zone: "z".into(),
            state: "up".into(),
            replicas: 4,
            leaders: 1,
            used_bytes: 5,
            capacity_bytes: 6,
            ..NodeStatus::default()
        };
        let json = serde_json::to_string(&[NodeJson::new(&node)]).unwrap();
        let promised = concat!(
            r#"[{"node_id":3,"address":"h:1","zone":"z","state":"up","replicas":4,"leaders":1,"#,
            r#""used_bytes":5,"capacity_bytes":6,"#
        );
        assert!(json.starts_with(promised), "{json}");
    }
}
