//! The gateway against a fake cluster: what it does when routes are stale, leaders move, streams
//! break and nodes hang.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail the test")]
#![allow(clippy::result_large_err, reason = "wire types, in a fake")]

mod fake;
mod faults;
mod pipeline;
mod ranges;
mod refusals;
mod routes;
mod throughput;
