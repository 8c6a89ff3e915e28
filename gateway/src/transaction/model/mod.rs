//! A model check of the coordinator: the real one, on the real steps of nodes, with every order of messages of two
//! transactions over two keys, and crashes anywhere.
//!
//! Only the network, the clock and the oracle are replaced (`world`). Whenever nobody can go on, a search
//! (`explore`) decides what happens next, until it has done so in every way: which message arrives, which is lost,
//! who crashes, that time passes. At the end of each run everything is settled as latecomers settle it, and
//! judged (`judge`). Sabotaged nodes (`node`) prove that a broken rule is noticed.
//!
//! By default each scenario is bounded so that all of them end in seconds; `RANGEDB_TEST_ROUNDS` widens the bounds.

mod explore;
mod gateway;
mod judge;
mod node;
mod script;
mod store;
mod tests;
mod world;
