//! Clusters under faults: processes killed, power cut, placement gone, nodes left behind. Every test
//! runs a workload that remembers what was promised, and judges the cluster by it.
//!
//! `RANGEDB_TEST_ROUNDS=20` gives the full figures; without it the tests fit continuous integration.

mod catch_up;
mod cut_off;
mod full_disk;
mod kills;
mod one_key;
mod placement;
mod power;
mod replica_reads;
mod slow_disk;
