//! Clusters whose ranges split, merge and move while they are written to. Every test runs a workload
//! that remembers what was promised, and judges the cluster by it.

mod bulk;
mod hot;
mod idle;
mod nodes;
mod pauses;
mod sizes;
