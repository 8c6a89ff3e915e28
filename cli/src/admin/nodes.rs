//! `admin nodes`. Owns: storage nodes as a list.

use super::{Admin, read};
use crate::exit::Failure;
use crate::output;
use rangedb_proto::v1::{ListNodesRequest, NodeStatus};
use serde::Serialize;

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Every storage node, its state and its load
    List,
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
    let Action::List = action;
    let request = admin.request(ListNodesRequest {});
    let answer = read(admin.client.list_nodes(request).await)?;
    let nodes: Vec<_> = answer.nodes.iter().map(NodeJson::new).collect();
    output::print(admin.output, &nodes, |nodes| text(nodes))
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
