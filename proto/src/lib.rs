//! rangedb-proto
