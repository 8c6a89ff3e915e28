//! rangedb-placement
