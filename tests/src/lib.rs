//! rangedb-tests
