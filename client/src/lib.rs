//! The Rust client of RangeDB.
//!
//! A [`Client`] talks to any number of gateways and moves on to the next when one fails. Writes carry
//! a request id, so a write that is repeated after a lost answer is applied once. Every error says
//! what may be done next ([`Error::retry_advice`]); a write whose answer is lost for good ends in
//! [`Error::OutcomeUnknown`], never in "failed", and [`Client::commit_status`] settles it.
//!
//! ```no_run
//! # async fn run() -> Result<(), rangedb_client::Error> {
//! use rangedb_client::Client;
//!
//! let client = Client::connect(["127.0.0.1:8081"]).await?;
//! let version = client.put("greeting", "hello").await?;
//! let found = client.get("greeting").await?.expect("just written");
//! assert_eq!((&found.value[..], found.version), (&b"hello"[..], version));
//! # Ok(()) }
//! ```
//!
//! Owns: failover, retries, request ids. Must not know: ranges, nodes, placement. Invariant: a write
//! is repeated only under its first request id, and flagged as a repetition once an earlier attempt
//! may have arrived.

mod attempts;
mod client;
mod commit;
mod conditional;
mod consistency;
mod endpoints;
mod error;
mod hold;
mod overlay;
mod pessimistic;
mod pipeline;
mod range;
mod seen;
mod transaction;
mod write;

pub use client::{Client, Options};
pub use conditional::{Conditional, ConditionalOutcome, Operations};
pub use consistency::Consistency;
pub use error::{Error, RetryAdvice};
pub use hold::HeldVersion;
pub use pessimistic::PessimisticTransaction;
pub use pipeline::Pipeline;
pub use range::{Entries, Entry, RangeQuery};
pub use transaction::{
    Isolation, MayBeConflict, SavedKeys, SavedTransaction, Transaction, TransactionOptions,
};
pub use write::{Condition, WriteId};

/// The commit timestamp of a value; grows with every write of a key.
pub use rangedb_types::Timestamp as Version;

/// The generated messages and clients, for calls that this crate does not wrap.
pub use rangedb_proto::v1 as proto;

use bytes::Bytes;

/// A value and the version it was written at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub value: Bytes,
    pub version: Version,
}
