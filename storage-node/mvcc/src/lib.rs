//! rangedb-mvcc
