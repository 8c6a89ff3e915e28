//! rangedb-service
