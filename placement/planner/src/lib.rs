//! rangedb-planner
