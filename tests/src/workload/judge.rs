//! The judgement: what the database holds at the end, against what it promised.

use super::Shared;
use super::history::{Keys, Outcome, check_read};
use anyhow::{Result, ensure};
use futures::TryStreamExt as _;
use rangedb_client::{Client, RangeQuery, Version};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Broken promises that are told; there may be thousands.
const TOLD_MAX: usize = 10;

/// A workload that ended.
pub struct Judgement {
    shared: Arc<Shared>,
}

/// What was compared.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    pub acknowledged: usize,
    pub refused: usize,
    pub keys: usize,
}

impl Judgement {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Reads everything back: nothing acknowledged is lost, nothing deleted is back, no value was
    /// never written, versions grow with every step of a key, and a write that began after another
    /// was acknowledged has the larger version.
    ///
    /// # Errors
    /// The first broken promises, or the cluster does not answer.
    pub async fn verify(&self, client: &Client) -> Result<Judged> {
        let broken = self.broken_promises(client).await?;
        let told: Vec<_> = broken.iter().take(TOLD_MAX).cloned().collect();
        ensure!(broken.is_empty(), "{} broken promises:\n{}", broken.len(), told.join("\n"));
        let mut judged = Judged { acknowledged: 0, refused: 0, keys: self.shared.keys.len() };
        for index in 0..self.shared.keys.len() {
            for step in self.shared.keys.history(index) {
                match step.outcome {
                    Outcome::Done { .. } => judged.acknowledged += 1,
                    _ => judged.refused += 1,
                }
            }
        }
        ensure!(judged.acknowledged > 0, "nothing was ever acknowledged");
        Ok(judged)
    }

    /// Every promise that was broken.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub async fn broken_promises(&self, client: &Client) -> Result<Vec<String>> {
        let mut broken = self.orders();
        let query = RangeQuery::prefix(Keys::PREFIX);
        let entries: Vec<_> = client.range(query).await?.try_collect().await?;
        let mut found: BTreeMap<Vec<u8>, _> =
            entries.into_iter().map(|entry| (entry.key.to_vec(), entry)).collect();
        for index in 0..self.shared.keys.len() {
            let name = Keys::name(index);
            let scanned = found.remove(name.as_bytes());
            let got = client.get(name).await?;
            let history = self.shared.keys.history(index);
            let low = self.shared.keys.last_done(index);
            let got = got.as_ref().map(|got| (&got.value[..], got.version));
            let scanned = scanned.as_ref().map(|entry| (&entry.value[..], entry.version));
            broken.extend(check_read(index, &history, low, got).err());
            broken.extend(check_read(index, &history, low, scanned).err());
        }
        broken.extend(found.keys().map(|key| format!("a key that nobody wrote: {key:?}")));
        Ok(broken)
    }

    /// Versions against the order of real time.
    fn orders(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut begun: Vec<(Instant, usize, Version)> = Vec::new();
        let mut ended: Vec<(Instant, Version)> = Vec::new();
        for index in 0..self.shared.keys.len() {
            let mut last = Version::ZERO;
            for step in self.shared.keys.history(index) {
                let Outcome::Done { version, at } = step.outcome else { continue };
                if version <= last {
                    broken.push(format!("{}: {version} after {last}", Keys::name(index)));
                }
                last = version;
                begun.push((step.begun, index, version));
                ended.push((at, version));
            }
        }
        begun.sort();
        ended.sort();
        let mut ended = ended.into_iter().peekable();
        let mut newest = Version::ZERO;
        for (moment, index, version) in begun {
            while let Some((_, known)) = ended.next_if(|(at, _)| *at < moment) {
                newest = newest.max(known);
            }
            if version <= newest {
                broken.push(format!(
                    "{}: begun after {newest} was acknowledged, and is {version}",
                    Keys::name(index)
                ));
            }
        }
        broken
    }
}
