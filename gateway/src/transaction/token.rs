//! Tokens: what a gateway must know of a transaction, signed, in the client's hands.
//!
//! Layout: a format byte, the message, 32 bytes of HMAC-SHA256 (RFC 2104) over both. The secret is the
//! cluster's: a token of another cluster, or one that was altered, is refused.

use super::spans::Spans;
use crate::errors::Failure;
use bytes::Bytes;
use parking_lot::RwLock;
use prost::Message as _;
use rangedb_placement_client::PlacementClient;
use rangedb_proto::internal::v1::{TokenKeyRequest, TokenSpan, TransactionToken};
use rangedb_types::Timestamp;
use ring::hmac;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const FORMAT: u8 = 1;
const SIGNATURE_BYTES: usize = 32;

/// How a transaction is kept apart from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    ReadCommitted,
    Snapshot,
    Serializable,
}

/// A transaction as a gateway knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Also what an optimistic one reads at.
    pub id: Timestamp,
    pub isolation: Isolation,
    pub timeout: Duration,
    /// Of a pessimistic one.
    pub held: Option<Held>,
}

/// What a pessimistic transaction has so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The key that decides; empty until there is one.
    pub primary: Bytes,
    /// What it reads at; zero: it has not read yet.
    pub snapshot: Timestamp,
    /// Calls that placed intents.
    pub calls: u32,
    /// Keys in them, counted again if they came again.
    pub keys: u32,
    /// Where its intents are.
    pub spans: Spans,
}

impl Held {
    /// Adds a key; the first of all decides.
    pub fn add(&mut self, key: &Bytes) {
        if self.primary.is_empty() {
            self.primary = key.clone();
        }
        self.spans.add(key);
    }
}

impl Token {
    /// Whether it may not go on at this time of the oracle.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now.since(self.id) > self.timeout
    }

    /// Reads at this version; zero: the latest, or a pessimistic one that has no snapshot yet.
    #[must_use]
    pub fn read_version(&self) -> Timestamp {
        match (self.isolation, &self.held) {
            (Isolation::ReadCommitted, _) => Timestamp::ZERO,
            (Isolation::Snapshot | Isolation::Serializable, None) => self.id,
            (Isolation::Snapshot | Isolation::Serializable, Some(held)) => held.snapshot,
        }
    }
}

/// Signs and reads tokens.
pub struct Tokens {
    placement: Arc<PlacementClient>,
    key: RwLock<Option<hmac::Key>>,
}

impl Tokens {
    #[must_use]
    pub const fn new(placement: Arc<PlacementClient>) -> Self {
        Self { placement, key: RwLock::new(None) }
    }

    /// # Errors
    /// `PlacementUnavailable` if the secret is not known yet.
    pub async fn sign(&self, token: &Token, deadline: Instant) -> Result<Bytes, Failure> {
        Ok(signed(&self.key(deadline).await?, token))
    }

    /// # Errors
    /// `Invalid` if it is none of this cluster's; `PlacementUnavailable`.
    pub async fn read(&self, token: &[u8], deadline: Instant) -> Result<Token, Failure> {
        verified(&self.key(deadline).await?, token).ok_or_else(|| {
            let words = "the token is none of this cluster's, or was altered; call Begin";
            Failure::invalid("token", words)
        })
    }

    /// The secret never changes, so it is fetched once.
    async fn key(&self, deadline: Instant) -> Result<hmac::Key, Failure> {
        if let Some(key) = self.key.read().as_ref() {
            return Ok(key.clone());
        }
        let call = |mut rpc: rangedb_placement_client::PlacementRpc| async move {
            rpc.token_key(TokenKeyRequest {}).await
        };
        let answer = self.placement.call(call, deadline).await;
        let secret =
            answer.map_err(|error| Failure::PlacementUnavailable { why: error.to_string() })?.key;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        *self.key.write() = Some(key.clone());
        Ok(key)
    }
}

fn signed(key: &hmac::Key, token: &Token) -> Bytes {
    let held = token.held.clone().unwrap_or_default();
    let spans = held.spans.as_slice().iter().cloned();
    let message = TransactionToken {
        id: token.id.0,
        isolation: match token.isolation {
            Isolation::ReadCommitted => 1,
            Isolation::Snapshot => 2,
            Isolation::Serializable => 3,
        },
        timeout_ms: u64::try_from(token.timeout.as_millis()).unwrap_or(u64::MAX),
        pessimistic: token.held.is_some(),
        primary: held.primary,
        snapshot_version: held.snapshot.0,
        calls: held.calls,
        keys: held.keys,
        spans: spans.map(|(start, end)| TokenSpan { start, end }).collect(),
    };
    let mut bytes = vec![FORMAT];
    bytes.extend(message.encode_to_vec());
    let signature = hmac::sign(key, &bytes);
    bytes.extend_from_slice(signature.as_ref());
    bytes.into()
}

fn verified(key: &hmac::Key, token: &[u8]) -> Option<Token> {
    let (signed, signature) = token.split_at_checked(token.len().checked_sub(SIGNATURE_BYTES)?)?;
    hmac::verify(key, signed, signature).ok()?;
    let message = TransactionToken::decode(signed.strip_prefix(&[FORMAT])?).ok()?;
    let spans = message.spans.into_iter().map(|span| (span.start, span.end)).collect();
    let held = Held {
        primary: message.primary,
        snapshot: Timestamp(message.snapshot_version),
        calls: message.calls,
        keys: message.keys,
        spans: Spans::new(spans),
    };
    Some(Token {
        id: Timestamp(message.id),
        isolation: match message.isolation {
            1 => Isolation::ReadCommitted,
            2 => Isolation::Snapshot,
            3 => Isolation::Serializable,
            _ => return None,
        },
        timeout: Duration::from_millis(message.timeout_ms),
        held: message.pessimistic.then_some(held),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_altered_ones_do_not() {
        let key = |byte| hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32]);
        let token = Token {
            id: Timestamp(12_345),
            isolation: Isolation::Serializable,
            timeout: Duration::from_secs(60),
            held: None,
        };
        assert_eq!(verified(&key(1), &signed(&key(1), &token)), Some(token.clone()));
        let mut spans = Spans::default();
        (0..40_u8).for_each(|number| spans.add(&[number * 5; 300]));
        let primary = Bytes::from(vec![7; super::super::pessimistic::PRIMARY_BYTES_MAX]);
        let held =
            Held { primary, snapshot: Timestamp(12_346), calls: u32::MAX, keys: u32::MAX, spans };
        let token = Token { held: Some(held), ..token };
        let bytes = signed(&key(1), &token);
        assert!(bytes.len() <= 4096, "{} bytes", bytes.len());
        assert_eq!(verified(&key(1), &bytes), Some(token));
        assert_eq!(verified(&key(2), &bytes), None, "another cluster");
        for at in (0..bytes.len()).step_by(97) {
            let mut altered = bytes.to_vec();
            altered[at] ^= 1;
            assert_eq!(verified(&key(1), &altered), None);
        }
        for length in (0..bytes.len()).step_by(97) {
            assert_eq!(verified(&key(1), &bytes[..length]), None);
        }
    }
}
