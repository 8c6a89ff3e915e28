//! rangedb-gateway
