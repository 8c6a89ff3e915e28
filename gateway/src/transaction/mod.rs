//! Transactions: how their steps make a whole.
//!
//! Owns: the order of steps, what is done about intents that are in the way. Must not know: routes' upkeep,
//! links, what a step does on its node. Invariants (`docs/transactions.md`): the primary of a transaction is
//! settled before any other of its keys; a transaction that may be committed is never called failed;
//! nothing here outlives a call but the clean-up behind it, and the settling of what the dead left.

mod abandoned;
mod commit;
mod fate;
#[cfg(test)]
mod model;
mod obstacle;
mod pace;
mod pessimistic;
mod ranges;
mod reads;
mod spans;
mod status;
mod steps;
mod token;

pub use abandoned::settle_abandoned;
pub use commit::{Reads, Want, Write, commit, commit_read, write_all};
pub use obstacle::Obstacle;
pub use pessimistic::{acquire, commit_held, renew, roll_back_held};
pub use ranges::AtKey;
pub use status::{end, fate_of};
pub use token::{Held, Isolation, Token, Tokens};
