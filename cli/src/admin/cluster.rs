//! `admin cluster`. Owns: the cluster's state as one document.

use super::nodes::NodeJson;
use super::placement::MemberJson;
use super::{Admin, read};
use crate::exit::Failure;
use crate::output;
use rangedb_proto::v1::{ClusterStatusRequest, ClusterStatusResponse};
use serde::Serialize;

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Members, nodes, ranges, and what is under way or cannot start
    Status,
}

#[derive(Debug, Serialize)]
struct StatusJson {
    cluster_id: String,
    placement: Vec<MemberJson>,
    /// How many there are; `admin nodes list` tells more of each.
    nodes: usize,
    nodes_up: usize,
    ranges: u64,
    operators: Vec<OperatorJson>,
    pending: Vec<PendingJson>,
}

#[derive(Debug, Serialize)]
struct OperatorJson {
    range_id: u64,
    what: String,
    why: String,
}

#[derive(Debug, Serialize)]
struct PendingJson {
    why: String,
}

impl StatusJson {
    fn new(status: &ClusterStatusResponse) -> Self {
        let operator = |operator: &rangedb_proto::v1::OperatorStatus| OperatorJson {
            range_id: operator.range_id,
            what: operator.what.clone(),
            why: operator.why.clone(),
        };
        Self {
            cluster_id: status.cluster_id.clone(),
            placement: status.placement.iter().map(MemberJson::new).collect(),
            nodes: status.nodes.len(),
            nodes_up: status.nodes.iter().filter(|node| node.state == "up").count(),
            ranges: status.ranges,
            operators: status.operators.iter().map(operator).collect(),
            pending: status
                .pending
                .iter()
                .map(|work| PendingJson { why: work.why.clone() })
                .collect(),
        }
    }
}

pub async fn run(action: Action, mut admin: Admin) -> Result<(), Failure> {
    let Action::Status = action;
    let request = admin.request(ClusterStatusRequest {});
    let status = read(admin.client.cluster_status(request).await)?;
    output::print(admin.output, &StatusJson::new(&status), |json| text(json, &status))
}

fn text(json: &StatusJson, status: &ClusterStatusResponse) -> String {
    let nodes: Vec<_> = status.nodes.iter().map(NodeJson::new).collect();
    let mut parts = vec![
        format!("cluster    {}", json.cluster_id),
        format!("nodes      {} ({} up)", json.nodes, json.nodes_up),
        format!("ranges     {}", json.ranges),
        format!("\n{}", super::placement::text(&json.placement)),
        format!("\n{}", super::nodes::text(&nodes)),
    ];
    if !json.operators.is_empty() {
        let rows = json.operators.iter().map(|operator| {
            vec![operator.range_id.to_string(), operator.what.clone(), operator.why.clone()]
        });
        parts.push(format!("\n{}", output::table(&["RANGE", "UNDER WAY", "WHY"], rows)));
    }
    if !json.pending.is_empty() {
        parts.push("\nWANTED, CANNOT START".to_owned());
        parts.extend(json.pending.iter().map(|work| work.why.clone()));
    }
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_proto::v1::{NodeStatus, OperatorStatus, PendingWork, PlacementMember};

    #[test]
    fn the_document_has_the_promised_shape() {
        let status = ClusterStatusResponse {
            cluster_id: "c".into(),
            placement: vec![PlacementMember {
                id: 1,
                address: "h:1".into(),
                role: "leader".into(),
            }],
            nodes: vec![NodeStatus { node_id: 1, state: "up".into(), ..NodeStatus::default() }],
            ranges: 1,
            operators: vec![OperatorStatus { range_id: 1, what: "w".into(), why: "y".into() }],
            pending: vec![PendingWork { why: "too few nodes".into() }],
        };
        let json = StatusJson::new(&status);
        assert_eq!(
            serde_json::to_string(&json).unwrap(),
            concat!(
                r#"{"cluster_id":"c","placement":[{"id":1,"address":"h:1","role":"leader"}],"#,
                r#""nodes":1,"nodes_up":1,"ranges":1,"#,
                r#""operators":[{"range_id":1,"what":"w","why":"y"}],"#,
                r#""pending":[{"why":"too few nodes"}]}"#
            )
        );
        assert!(text(&json, &status).contains("too few nodes"));
    }
}
