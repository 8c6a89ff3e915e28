//! What a Commit sends, and how its end is learnt.
//!
//! Owns: messages of a bounded size, how long one may take. Must not know: how transactions keep what they bring.

use crate::attempts::Patience;
use crate::client::{End, timed};
use crate::error::{Error, Verdict};
use crate::transaction::transactions;
use crate::{Client, Version};
use bytes::Bytes;
use futures::stream;
use rangedb_proto::v1::transaction_write::Want;
use rangedb_proto::v1::{CommitRequest, ReadSpan, TransactionWrite};
use tonic::Status;

/// Bytes of keys and values in one message.
const MESSAGE_BYTES: usize = 1 << 20;
/// A commit of more keys than these, or of more than one message, is a long call.
const LONG_KEYS: usize = 2_000;

/// The messages of one Commit.
#[derive(Debug)]
pub struct CommitMessages {
    messages: Vec<CommitRequest>,
    /// Of the last one.
    bytes: usize,
    /// That are written.
    keys: usize,
}

impl CommitMessages {
    pub fn new(token: Bytes) -> Self {
        let first = CommitRequest { token, ..CommitRequest::default() };
        Self { messages: vec![first], bytes: 0, keys: 0 }
    }

    pub fn write(&mut self, key: &Bytes, want: &Want) {
        let write = TransactionWrite { key: key.clone(), want: Some(want.clone()) };
        self.keys += 1;
        self.with_room(write_size(key, want)).writes.push(write);
    }

    /// What a serializable one has read, also if that is nothing.
    pub fn reads(
        &mut self,
        keys: impl IntoIterator<Item = Bytes>,
        spans: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) {
        self.with_room(0).reads.get_or_insert_default();
        for (start, end) in spans {
            let message = self.with_room(start.len() + end.len());
            message.reads.get_or_insert_default().spans.push(ReadSpan { start, end });
        }
        for key in keys {
            self.with_room(key.len()).reads.get_or_insert_default().keys.push(key);
        }
    }

    fn with_room(&mut self, bytes: usize) -> &mut CommitRequest {
        if self.bytes > 0 && self.bytes + bytes > MESSAGE_BYTES {
            self.messages.push(CommitRequest::default());
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.messages.last_mut().expect("there is a first")
    }

    const fn patience(&self) -> Patience {
        let long = self.messages.len() > 1 || self.keys > LONG_KEYS;
        if long { Patience::Long } else { Patience::Short }
    }
}

pub fn write_size(key: &Bytes, want: &Want) -> usize {
    key.len() + if let Want::Put(value) = want { value.len() } else { 0 }
}

impl Client {
    /// Commits. If the answer is lost, it asks what became of the transaction `id`, whose first key is `key`.
    ///
    /// # Errors
    /// As [`Error`] has them. Of a pessimistic transaction nothing is left after `Conflict`, and all after any
    /// other error but `TransactionUnknown`.
    pub(crate) async fn send_commit(
        &self,
        commit: CommitMessages,
        judge: fn(Status) -> Verdict,
        (id, key): (Version, Bytes),
    ) -> Result<Version, Error> {
        let committed = self.repeat_with(commit.patience(), |gateway, time| {
            let mut rpc = transactions(gateway);
            let request = timed(stream::iter(commit.messages.clone()), time);
            async move { rpc.commit(request).await.map_err(judge) }
        });
        match committed.await {
            Ok(answer) => {
                let version = Version(answer.into_inner().version);
                self.saw(version);
                self.observed(version);
                Ok(version)
            }
            Err(End { maybe_applied: false, error }) => Err(error),
            Err(_) => match self.transaction_status(id, key.clone()).await {
                Ok(Some(version)) => Ok(version),
                Ok(None) => {
                    Err(Error::Conflict { message: "the transaction was rolled back".to_owned() })
                }
                Err(_) => Err(Error::TransactionUnknown { id, key }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_proto::v1::transaction_write;

    fn key(number: usize) -> Bytes {
        format!("{number:08}").into()
    }

    #[test]
    fn messages_are_bounded_and_all_is_sent() {
        let mut commit = CommitMessages::new("token".into());
        let value = Want::Put(vec![7; 300 << 10].into());
        (0..10).for_each(|number| commit.write(&key(number), &value));
        commit.reads((0..200_000).map(key), (0..100_000).map(|at| (key(at), key(at + 1))));
        let sizes = commit.messages.iter().map(|message| {
            let writes = message.writes.iter();
            let writes = writes.map(|write| write_size(&write.key, write.want.as_ref().unwrap()));
            let reads = message.reads.iter().flat_map(|reads| {
                let spans = reads.spans.iter().map(|span| span.start.len() + span.end.len());
                spans.chain(reads.keys.iter().map(Bytes::len))
            });
            writes.chain(reads).sum::<usize>()
        });
        assert!(sizes.clone().all(|bytes| bytes <= MESSAGE_BYTES));
        let bytes = 10 * (8 + (300 << 10)) + 400_000 * 8;
        assert_eq!(sizes.sum::<usize>(), bytes);
        assert_eq!(commit.messages[0].token, "token");
        assert!(commit.messages[1..].iter().all(|message| message.token.is_empty()));
        assert_eq!(commit.patience(), Patience::Long);
    }

    #[test]
    fn what_is_small_or_a_single_write_is_one_message() {
        let mut commit = CommitMessages::new("token".into());
        commit.reads([], []);
        commit.write(&key(1), &Want::Put("v".into()));
        assert!(matches!(commit.messages.as_slice(), [all] if all.reads.is_some()));
        assert_eq!(commit.patience(), Patience::Short);
        let mut commit = CommitMessages::new("token".into());
        commit.write(&key(1), &Want::Put(vec![7; 2 << 20].into()));
        assert!(matches!(commit.messages.as_slice(), [all] if all.writes.len() == 1));
        assert_eq!(commit.patience(), Patience::Short);
        let delete = Want::Delete(transaction_write::Delete {});
        (2..=LONG_KEYS + 1).for_each(|number| commit.write(&key(number), &delete));
        assert_eq!(commit.patience(), Patience::Long);
    }
}
