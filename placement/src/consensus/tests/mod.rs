//! Tests of the quorum: its store alone, and whole quorums over loopback.

mod quorum;
mod storage;
