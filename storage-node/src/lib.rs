//! rangedb-storage-node
