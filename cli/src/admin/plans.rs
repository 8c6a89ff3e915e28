//! What a command does or would do, as output; and the flags all such commands share.

use crate::exit::Failure;
use crate::output::{self, OutputFormat};
use rangedb_proto::v1::{NodePlan, RangePlan};
use serde::Serialize;

/// How a command is given.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Manner {
    /// Wait until it is done, with progress on stderr; --timeout limits it, and exit code 3 says
    /// that it is still going on
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// Check it and print the plan, and start nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl Manner {
    /// How far the command got when its plan is printed.
    pub const fn state(self, nothing_to_do: bool) -> &'static str {
        match self {
            Self { dry_run: true, .. } => "planned",
            Self { wait: true, .. } => "done",
            _ if nothing_to_do => "done",
            _ => "begun",
        }
    }
}

#[derive(Debug, Serialize)]
pub struct RangePlanJson {
    range_id: u64,
    version: u64,
    conf_version: u64,
    /// planned | begun | done
    state: &'static str,
    steps: Vec<String>,
}

impl RangePlanJson {
    pub fn new(plan: &RangePlan, manner: Manner) -> Self {
        Self {
            range_id: plan.range_id,
            version: plan.version,
            conf_version: plan.conf_version,
            state: manner.state(plan.steps.is_empty()),
            steps: plan.steps.clone(),
        }
    }

    fn text(&self) -> String {
        let head = format!("range {} ({}.{})", self.range_id, self.version, self.conf_version);
        text(&head, self.state, &self.steps)
    }
}

#[derive(Debug, Serialize)]
struct NodePlanJson {
    node_id: u64,
    /// planned | begun | done
    state: &'static str,
    replicas_left: u64,
    steps: Vec<String>,
}

fn text(head: &str, state: &str, steps: &[String]) -> String {
    let mut lines = vec![format!("{head}: {state}")];
    if steps.is_empty() {
        lines.push("  nothing to do: it is so already".to_owned());
    }
    lines.extend(steps.iter().zip(1..).map(|(step, number)| format!("  {number}. {step}")));
    lines.join("\n")
}

/// Prints the plan for one range.
pub fn print_range(format: OutputFormat, plan: &RangePlan, manner: Manner) -> Result<(), Failure> {
    output::print(format, &RangePlanJson::new(plan, manner), RangePlanJson::text)
}

/// Prints the plans for many ranges.
pub fn print_ranges(
    format: OutputFormat,
    plans: &[RangePlan],
    manner: Manner,
) -> Result<(), Failure> {
    let plans: Vec<_> = plans.iter().map(|plan| RangePlanJson::new(plan, manner)).collect();
    output::print(format, &plans, |plans| match plans.len() {
        0 => "nothing to do: it is spread evenly already".to_owned(),
        _ => plans.iter().map(RangePlanJson::text).collect::<Vec<_>>().join("\n"),
    })
}

/// Prints the plan for one node. `replicas_left` is what the node has by now.
pub fn print_node(
    format: OutputFormat,
    plan: &NodePlan,
    state: &'static str,
    replicas_left: u64,
) -> Result<(), Failure> {
    let (node_id, steps) = (plan.node_id, plan.steps.clone());
    let json = NodePlanJson { node_id, state, replicas_left, steps };
    output::print(format, &json, |json| text(&format!("node {node_id}"), json.state, &json.steps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_tells_how_far_it_got() {
        let plan = RangePlan {
            range_id: 7,
            version: 2,
            conf_version: 3,
            steps: vec!["a".to_owned(), "b".to_owned()],
        };
        let json = |wait, dry_run| RangePlanJson::new(&plan, Manner { wait, dry_run });
        assert_eq!(
            serde_json::to_string(&json(false, true)).unwrap(),
            r#"{"range_id":7,"version":2,"conf_version":3,"state":"planned","steps":["a","b"]}"#
        );
        assert_eq!(json(false, false).state, "begun");
        assert_eq!(json(true, false).state, "done");
        assert_eq!(json(true, false).text(), "range 7 (2.3): done\n  1. a\n  2. b");
        assert!(text("x", "done", &[]).contains("already"));
    }
}
