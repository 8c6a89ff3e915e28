//! Range reads.

use crate::error::{Error, Verdict, judge_status};
use crate::{Client, Consistency, Version};
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _};
use rangedb_proto::v1::{KeyValueEntry, RangeRequest, RangeResponse, RequestContext};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::Streaming;

/// Which keys to read, and how.
///
/// ```
/// use rangedb_client::RangeQuery;
///
/// let last_ten = RangeQuery::prefix("/packages/").reverse().limit(10).keys_only();
/// # let _ = last_ten;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeQuery {
    start: Bytes,
    end: Bytes,
    limit: u32,
    reverse: bool,
    keys_only: bool,
    at: Version,
    consistency: Consistency,
}

impl RangeQuery {
    /// Every key there is.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// The keys from `start` (inclusive) to `end` (exclusive); an empty end is unbounded.
    #[must_use]
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: end.into(), ..Self::default() }
    }

    /// The keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = rangedb_types::key::prefix_end(&start).into();
        Self { start, end, ..Self::default() }
    }

    /// At most this many entries; 0 means no limit.
    #[must_use]
    pub const fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// From the end to the start.
    #[must_use]
    pub const fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// As it was at a version, for as long as old versions are kept (`gc_retention`).
    #[must_use]
    pub const fn at(mut self, version: Version) -> Self {
        self.at = version;
        self
    }

    /// How fresh it has to be.
    #[must_use]
    pub const fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// Leaves the values out.
    #[must_use]
    pub const fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// Start and exclusive end; an empty end is unbounded.
    pub(crate) fn bounds(&self) -> (Bytes, Bytes) {
        (self.start.clone(), self.end.clone())
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.end.is_empty() || key < &self.end[..])
    }

    /// The shape of an answer, and the question for all there is.
    pub(crate) fn split(mut self) -> (Self, usize, bool) {
        let limit = if self.limit == 0 { usize::MAX } else { self.limit as usize };
        let reverse = std::mem::take(&mut self.reverse);
        self.limit = 0;
        (self, limit, reverse)
    }

    pub(crate) fn into_request(self, client: &Client) -> RangeRequest {
        let mut context = self.consistency.context(client);
        if !self.at.is_zero() {
            context.get_or_insert_default().at_version = self.at.0;
        }
        RangeRequest {
            start: self.start,
            end: self.end,
            limit: self.limit.into(),
            reverse: self.reverse,
            keys_only: self.keys_only,
            context,
        }
    }
}

/// One key of a range read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Bytes,
    /// Empty for keys-only reads.
    pub value: Bytes,
    pub version: Version,
}

impl From<KeyValueEntry> for Entry {
    fn from(entry: KeyValueEntry) -> Self {
        Self { key: entry.key, value: entry.value, version: Version(entry.version) }
    }
}

/// The entries of a range read, in order, all as of one version. Read no faster than they are
/// consumed. After an error the stream ends; a part that was read cannot be gone on with at the
/// same version, so begin again.
pub struct Entries {
    version: Version,
    entries: Pin<Box<dyn Stream<Item = Result<Entry, Error>> + Send>>,
}

impl Entries {
    /// The version the read is made at.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }
}

impl std::fmt::Debug for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entries").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Stream for Entries {
    type Item = Result<Entry, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.entries.as_mut().poll_next(context)
    }
}

impl Client {
    /// Reads a span of keys as a stream.
    ///
    /// ```no_run
    /// # async fn run(client: rangedb_client::Client) -> Result<(), rangedb_client::Error> {
    /// use futures::TryStreamExt as _;
    /// use rangedb_client::RangeQuery;
    ///
    /// let mut entries = client.range(RangeQuery::prefix("user/").limit(100)).await?;
    /// while let Some(entry) = entries.try_next().await? {
    ///     println!("{:?} = {:?}", entry.key, entry.value);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Bounds that hold no key, or no gateway that could serve the first page in time. Later pages'
    /// errors come in the stream.
    pub async fn range(&self, query: RangeQuery) -> Result<Entries, Error> {
        self.range_in(query, None).await
    }

    pub(crate) async fn range_in(
        &self,
        query: RangeQuery,
        context: Option<RequestContext>,
    ) -> Result<Entries, Error> {
        let request = query.into_request(self);
        let request = RangeRequest { context: context.or(request.context), ..request };
        let page_time = self.options().timeout;
        let opened = self.read(move |mut rpc, time| {
            let request = request.clone();
            // Without a deadline in the header: the whole read may take longer than one page.
            let open = async move {
                let mut pages = rpc.range(request).await?.into_inner();
                let first = pages.message().await?;
                Ok::<_, tonic::Status>((first, pages))
            };
            async move {
                match tokio::time::timeout(time, open).await {
                    Ok(opened) => opened.map_err(judge_status),
                    Err(_) => Err(Verdict::MaybeApplied("no first page in time".to_owned())),
                }
            }
        });
        let (first, pages) = opened.await?;
        let first = first.ok_or(Error::Protocol("a range read without a page"))?;
        let version = Version(first.version);
        self.saw(version);
        self.observed(version);
        let rest = stream::unfold(Some(pages), move |pages| next_page(pages, page_time));
        let entries = stream::iter([Ok(first)]).chain(rest).flat_map(|page| {
            let entries: Vec<_> = match page {
                Ok(page) => page.entries.into_iter().map(|entry| Ok(entry.into())).collect(),
                Err(error) => vec![Err(error)],
            };
            stream::iter(entries)
        });
        Ok(Entries { version, entries: Box::pin(entries) })
    }
}

type Page = Result<RangeResponse, Error>;

async fn next_page(
    pages: Option<Streaming<RangeResponse>>,
    time: Duration,
) -> Option<(Page, Option<Streaming<RangeResponse>>)> {
    let mut pages = pages?;
    match tokio::time::timeout(time, pages.message()).await {
        Ok(Ok(Some(page))) => Some((Ok(page), Some(pages))),
        Ok(Ok(None)) => None,
        Ok(Err(status)) => {
            let error = match judge_status(status) {
                Verdict::Final(error) | Verdict::NotApplied(error) => error,
                Verdict::MaybeApplied(message) => Error::Unavailable { message },
            };
            Some((Err(error), None))
        }
        Err(_) => {
            let message = "no further page in time".to_owned();
            Some((Err(Error::Unavailable { message }), None))
        }
    }
}
