//! Tokens: what a gateway must know of a transaction, signed, in the client's hands.
//!
//! Layout: a format byte, the message, 32 bytes of HMAC-SHA256 (RFC 2104) over both. The secret is the
//! cluster's: a token of another cluster, or one that was altered, is refused.

use crate::errors::Failure;
use bytes::Bytes;
use parking_lot::RwLock;
use prost::Message as _;
use rangedb_placement_client::PlacementClient;
use rangedb_proto::internal::v1::{TokenKeyRequest, TransactionToken};
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Also what it reads at.
    pub id: Timestamp,
    pub isolation: Isolation,
    pub timeout: Duration,
}

impl Token {
    /// Whether it may not go on at this time of the oracle.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now.since(self.id) > self.timeout
    }

    /// Reads at this version; zero: the latest.
    #[must_use]
    pub const fn read_version(&self) -> Timestamp {
        match self.isolation {
            Isolation::ReadCommitted => Timestamp::ZERO,
            Isolation::Snapshot | Isolation::Serializable => self.id,
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
    pub async fn sign(&self, token: Token, deadline: Instant) -> Result<Bytes, Failure> {
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

fn signed(key: &hmac::Key, token: Token) -> Bytes {
    let message = TransactionToken {
        id: token.id.0,
        isolation: match token.isolation {
            Isolation::ReadCommitted => 1,
            Isolation::Snapshot => 2,
            Isolation::Serializable => 3,
        },
        timeout_ms: u64::try_from(token.timeout.as_millis()).unwrap_or(u64::MAX),
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
    Some(Token {
        id: Timestamp(message.id),
        isolation: match message.isolation {
            1 => Isolation::ReadCommitted,
            2 => Isolation::Snapshot,
            3 => Isolation::Serializable,
            _ => return None,
        },
        timeout: Duration::from_millis(message.timeout_ms),
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
        };
        let bytes = signed(&key(1), token);
        assert!(bytes.len() < 100);
        assert_eq!(verified(&key(1), &bytes), Some(token));
        assert_eq!(verified(&key(2), &bytes), None, "another cluster");
        for at in 0..bytes.len() {
            let mut altered = bytes.to_vec();
            altered[at] ^= 1;
            assert_eq!(verified(&key(1), &altered), None);
        }
        for length in 0..bytes.len() {
            assert_eq!(verified(&key(1), &bytes[..length]), None);
        }
    }
}
