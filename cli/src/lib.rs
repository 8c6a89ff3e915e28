//! rangedb-cli
