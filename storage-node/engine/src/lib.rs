//! rangedb-engine
