//! How fresh a read has to be, and who may answer it.

use crate::{Client, Error, Value, Version};
use bytes::Bytes;
use rangedb_proto::v1::consistency::{Follower, Level, Stale};
use rangedb_proto::v1::{self, RequestContext};
use std::time::Duration;

/// How fresh a read has to be, and who may answer it. `docs/consistency.md` says more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// It sees every write acknowledged before the call began; the leader answers.
    #[default]
    Linearizable,
    /// As of at most so long ago, and at least what this client has written and read: any replica may
    /// answer. What lies more than about three seconds back needs no leader.
    Stale(Duration),
    /// As fresh as `Linearizable`, but a replica that does not lead answers, if one can.
    Follower,
}

impl Consistency {
    /// The context of a read by this client; `None` if there is nothing to say.
    pub(crate) fn context(self, client: &Client) -> Option<RequestContext> {
        let level = match self {
            Self::Linearizable => return None,
            Self::Stale(age) => {
                let max_age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                Level::Stale(Stale { max_age_ms })
            }
            Self::Follower => Level::Follower(Follower {}),
        };
        Some(RequestContext {
            consistency: Some(v1::Consistency { level: Some(level) }),
            session_version: client.shared().seen.observed().0,
            ..RequestContext::default()
        })
    }
}

impl Client {
    /// Reads one key as fresh as it has to be.
    ///
    /// ```no_run
    /// # async fn run(client: rangedb_client::Client) -> Result<(), rangedb_client::Error> {
    /// use rangedb_client::Consistency;
    /// use std::time::Duration;
    ///
    /// let page = client.get_with("page/1", Consistency::Stale(Duration::from_secs(10))).await?;
    /// # let _ = page; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// See [`Error`]; an absent key is none.
    pub async fn get_with(
        &self,
        key: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Option<Value>, Error> {
        self.get_in(key.into(), consistency.context(self)).await
    }

    /// Reads many keys, all as of one moment, as fresh as it has to be.
    ///
    /// # Errors
    /// As for [`Self::batch_get`].
    pub async fn batch_get_with<K>(
        &self,
        keys: K,
        consistency: Consistency,
    ) -> Result<Vec<Option<Value>>, Error>
    where
        K: IntoIterator,
        K::Item: Into<Bytes>,
    {
        let keys = keys.into_iter().map(Into::into).collect();
        self.batch_get_in(keys, consistency.context(self)).await
    }

    /// Reads that follow are to show at least this.
    pub(crate) fn observed(&self, version: Version) {
        self.shared().seen.observe(version);
    }
}
