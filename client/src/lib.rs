//! rangedb-client
