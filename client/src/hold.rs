//! Versions that are kept for long reads.

use crate::error::{Error, judge_status};
use crate::{Client, Version};
use rangedb_proto::v1::admin_client::AdminClient;
use rangedb_proto::v1::{HoldVersionRequest, ReleaseVersionRequest, VersionHold};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long a version stays held if its holder dies.
const TTL: Duration = Duration::from_secs(60);
const RENEW_EVERY: Duration = Duration::from_secs(20);

/// A version at which everything can be read for as long as this value lives, whatever `gc_retention` says.
/// Dropped, it is held for a minute more at most.
#[derive(Debug)]
pub struct HeldVersion {
    client: Client,
    hold_id: u64,
    version: Version,
    renewal: JoinHandle<()>,
}

impl Drop for HeldVersion {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

impl Client {
    /// Keeps everything as it is now, for reads at that version that take long.
    ///
    /// ```no_run
    /// # async fn run(client: rangedb_client::Client) -> Result<(), rangedb_client::Error> {
    /// use rangedb_client::RangeQuery;
    ///
    /// let held = client.hold_now("the nightly report").await?;
    /// let entries = client.range(RangeQuery::all().at(held.version())).await?;
    /// # let _ = entries;
    /// held.release().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn hold_now(&self, what: impl Into<String>) -> Result<HeldVersion, Error> {
        self.hold_version(Version::ZERO, what).await
    }

    /// As [`Self::hold_now`], for a version that is still kept.
    ///
    /// # Errors
    /// `Invalid` if it may be gone already. See [`Error`].
    pub async fn hold_version(
        &self,
        version: Version,
        what: impl Into<String>,
    ) -> Result<HeldVersion, Error> {
        let request = HoldVersionRequest { what: what.into(), ..request(0, version) };
        let hold = put(self, request).await?;
        let renewal = tokio::spawn(renew(self.clone(), hold.hold_id));
        let (hold_id, version) = (hold.hold_id, Version(hold.version));
        Ok(HeldVersion { client: self.clone(), hold_id, version, renewal })
    }
}

fn request(hold_id: u64, version: Version) -> HoldVersionRequest {
    let ttl_ms = u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX);
    HoldVersionRequest { hold_id, version: version.0, ttl_ms, what: String::new() }
}

async fn put(client: &Client, request: HoldVersionRequest) -> Result<VersionHold, Error> {
    let held = client.repeat(|gateway, time| {
        let mut rpc = AdminClient::new(gateway.channel.clone());
        let request = crate::client::timed(request.clone(), time);
        async move { rpc.hold_version(request).await.map_err(judge_status) }
    });
    Ok(held.await.map_err(|end| end.error)?.into_inner())
}

async fn renew(client: Client, hold_id: u64) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        if let Err(error) = put(&client, request(hold_id, Version::ZERO)).await {
            tracing::debug!(%error, "a held version was not renewed");
        }
    }
}

impl HeldVersion {
    /// What to read at.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Holds it no longer.
    ///
    /// # Errors
    /// See [`Error`]; it ends by itself, too.
    pub async fn release(self) -> Result<(), Error> {
        let request = ReleaseVersionRequest { hold_id: self.hold_id };
        let released = self.client.repeat(|gateway, time| {
            let mut rpc = AdminClient::new(gateway.channel.clone());
            let request = crate::client::timed(request, time);
            async move { rpc.release_version(request).await.map_err(judge_status) }
        });
        released.await.map(|_| ()).map_err(|end| end.error)
    }
}
