//! Turns public requests into operations, or says which field is wrong.
//!
//! Owns: the limits of the public interface. Must not know: routes, nodes. Invariant: an operation
//! that leaves here breaks no limit and touches no system key.

use crate::errors::Failure;
use crate::operation::{Condition, Identity};
use bytes::Bytes;
use rangedb_proto::v1::{self, RequestContext, condition::Must, consistency::Level};
use rangedb_types::limits::{
    BATCH_GET_KEYS_MAX, KEY_BYTES_MAX, LimitError, REQUEST_ID_LIFETIME_MS, check_key, check_value,
};
use rangedb_types::{Random, SystemRandom, Timestamp, key::SYSTEM_PREFIX};

/// Bytes of a request id.
pub const REQUEST_ID_BYTES: usize = 16;

/// Checks a key of the named field.
///
/// # Errors
/// `SystemKey`, or `Invalid` with the field.
pub fn key(field: &'static str, key: &[u8]) -> Result<(), Failure> {
    check_key(key).map_err(|error| limit(field, &error))
}

/// # Errors
/// `Invalid` with the field.
pub fn value(value: &[u8]) -> Result<(), Failure> {
    check_value(value).map_err(|error| limit("value", &error))
}

fn limit(field: &'static str, error: &LimitError) -> Failure {
    match error {
        LimitError::SystemKey => Failure::SystemKey(error.to_string()),
        _ => Failure::invalid(field, error.to_string()),
    }
}

/// Refuses what only unary calls take.
///
/// # Errors
/// `Invalid`.
pub fn no_transaction(context: Option<&RequestContext>) -> Result<(), Failure> {
    let plain = |context: &RequestContext| {
        let level = context.consistency.and_then(|consistency| consistency.level);
        context.transaction.is_empty()
            && context.at_version == 0
            && matches!(level, None | Some(Level::Linearizable(_)))
    };
    if !context.is_none_or(plain) {
        let words = "reads at a version, of a transaction, stale ones and those of followers go by unary \
                     calls, not by Pipeline";
        return Err(Failure::invalid("context", words));
    }
    Ok(())
}

/// The identity of a write. `recent` is an oracle timestamp the gateway already knows.
///
/// A first attempt takes the newer of the caller's and the gateway's timestamp: both lie before it,
/// and the newer one keeps an idle caller's write inside the lifetime of request ids.
///
/// # Errors
/// `Invalid` with the field, `NotImplemented`, or `OutcomeUnknown` for a retry that comes too late.
pub fn write_context(
    context: Option<&RequestContext>,
    recent: Timestamp,
) -> Result<Identity, Failure> {
    let level = context.and_then(|context| context.consistency?.level);
    if !matches!(level, None | Some(Level::Linearizable(_))) {
        let words = "a write is always linearizable; leave the consistency out";
        return Err(Failure::invalid("context.consistency", words));
    }
    if context.is_some_and(|context| !context.transaction.is_empty()) {
        let words = "the writes of a transaction are sent with its Commit";
        return Err(Failure::invalid("context.transaction", words));
    }
    let Some(context) = context else {
        return Ok(Identity { request_id: new_request_id(), seen: recent, retry: false });
    };
    if context.retry {
        if context.request_id.is_empty() {
            return Err(Failure::invalid("context.request_id", "a retry needs its request id"));
        }
        let request_id = request_id("context.request_id", &context.request_id)?;
        let seen = seen("context.seen_version", context.seen_version)?;
        if is_too_old(seen, recent) {
            return Err(Failure::OutcomeUnknown { request_id, seen });
        }
        return Ok(Identity { request_id, seen, retry: true });
    }
    let request_id = if context.request_id.is_empty() {
        new_request_id()
    } else {
        request_id("context.request_id", &context.request_id)?
    };
    Ok(Identity { request_id, seen: recent.max(Timestamp(context.seen_version)), retry: false })
}

/// # Errors
/// `Invalid` unless it has sixteen bytes that are not all zero.
pub fn request_id(field: &'static str, id: &Bytes) -> Result<Bytes, Failure> {
    if id.len() != REQUEST_ID_BYTES || id.iter().all(|byte| *byte == 0) {
        let text = format!("a request id has {REQUEST_ID_BYTES} bytes that are not all zero");
        return Err(Failure::invalid(field, text));
    }
    Ok(id.clone())
}

/// # Errors
/// `Invalid` if it is absent.
pub fn seen(field: &'static str, version: u64) -> Result<Timestamp, Failure> {
    if version == 0 {
        return Err(Failure::invalid(field, "needs a version seen before the first attempt"));
    }
    Ok(Timestamp(version))
}

fn is_too_old(seen: Timestamp, recent: Timestamp) -> bool {
    recent.since(seen).as_millis() > u128::from(REQUEST_ID_LIFETIME_MS)
}

fn new_request_id() -> Bytes {
    Bytes::copy_from_slice(&SystemRandom.next_id().to_be_bytes())
}

/// # Errors
/// `Invalid` for a condition that says nothing.
pub fn condition(condition: Option<v1::Condition>) -> Result<Option<Condition>, Failure> {
    let Some(condition) = condition else { return Ok(None) };
    match condition.must {
        Some(Must::VersionIs(0)) => Err(Failure::invalid(
            "condition.version_is",
            "no value has version 0; use `absent` for a key that must not exist",
        )),
        Some(Must::VersionIs(version)) => Ok(Some(Condition::VersionIs(Timestamp(version)))),
        Some(Must::Absent(_)) => Ok(Some(Condition::Absent)),
        None => Err(Failure::invalid("condition.must", "a condition must say what must hold")),
    }
}

/// Checks the bounds of a span that an application named. A span that merely runs over the system
/// keys is allowed: it does not show them.
///
/// # Errors
/// `SystemKey` if it starts inside the system keys; `Invalid` with the field.
pub fn span(start: &[u8], end: &[u8]) -> Result<(), Failure> {
    for (field, bound) in [("start", start), ("end", end)] {
        // One byte more than a key: "just after the largest key" is a bound too.
        if bound.len() > KEY_BYTES_MAX + 1 {
            return Err(limit(field, &LimitError::KeyTooLong(bound.len())));
        }
    }
    if !end.is_empty() && start >= end {
        let text =
            "the start of the range must be smaller than its end (an empty end is unbounded)";
        return Err(Failure::invalid("start", text));
    }
    if start.starts_with(SYSTEM_PREFIX) {
        return Err(limit("start", &LimitError::SystemKey));
    }
    Ok(())
}

/// # Errors
/// `Invalid` for a negative limit.
pub fn entry_limit(limit: i64) -> Result<u64, Failure> {
    u64::try_from(limit)
        .map_err(|_| Failure::invalid("limit", "the limit is negative; 0 means no limit"))
}

/// # Errors
/// `Invalid` for too many keys, or the first key that breaks a limit.
pub fn batch_get(request: &v1::BatchGetRequest) -> Result<(), Failure> {
    if request.keys.len() > BATCH_GET_KEYS_MAX {
        let text = format!("{} keys; at most {BATCH_GET_KEYS_MAX} a call", request.keys.len());
        return Err(Failure::invalid("keys", text));
    }
    request.keys.iter().try_for_each(|bytes| key("keys", bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    const RECENT: Timestamp = Timestamp::new(1_000_000_000, 0);

    fn context() -> RequestContext {
        RequestContext::default()
    }

    #[test]
    fn refusals_name_the_field() {
        let long = vec![b'k'; KEY_BYTES_MAX + 1];
        let huge = vec![0; rangedb_types::limits::VALUE_BYTES_MAX + 1];
        let table: Vec<(Result<(), Failure>, Code, &str)> = vec![
            (key("key", b""), Code::InvalidArgument, "key"),
            (key("key", &long), Code::InvalidArgument, "key"),
            (key("key", b"_/cluster"), Code::PermissionDenied, ""),
            (value(&huge), Code::InvalidArgument, "value"),
            (span(b"b", b"a"), Code::InvalidArgument, "start"),
            (span(b"a", b"a"), Code::InvalidArgument, "start"),
            (span(b"_/a", b""), Code::PermissionDenied, ""),
            (entry_limit(-1).map(|_| ()), Code::InvalidArgument, "limit"),
            (
                condition(Some(v1::Condition { must: None })).map(|_| ()),
                Code::InvalidArgument,
                "condition.must",
            ),
            (
                condition(Some(v1::Condition { must: Some(Must::VersionIs(0)) })).map(|_| ()),
                Code::InvalidArgument,
                "condition.version_is",
            ),
        ];
        for (result, code, field) in table {
            let failure = result.unwrap_err();
            assert_eq!(failure.code(), code, "{failure}");
            if let Failure::Invalid { field: named, .. } = failure {
                assert_eq!(named, field);
            }
        }
        assert_eq!(span(b"", b""), Ok(()));
        assert_eq!(
            span(b"a", b"_/z").map_err(|failure| failure.code()),
            Err(Code::InvalidArgument)
        );
        assert_eq!(span(b"Z", b"_/z"), Ok(()));
        assert_eq!(entry_limit(0), Ok(0));
    }

    #[test]
    fn contexts_are_checked() {
        let stale =
            v1::Consistency { level: Some(Level::Stale(v1::consistency::Stale { max_age_ms: 1 })) };
        let stale = RequestContext { consistency: Some(stale), ..context() };
        assert_eq!(write_context(Some(&stale), RECENT).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(no_transaction(Some(&stale)).unwrap_err().code(), Code::InvalidArgument);
        let short = RequestContext { request_id: Bytes::from_static(b"short"), ..context() };
        assert_eq!(write_context(Some(&short), RECENT).unwrap_err().code(), Code::InvalidArgument);
        let no_id = RequestContext { retry: true, seen_version: 1, ..context() };
        assert_eq!(write_context(Some(&no_id), RECENT).unwrap_err().code(), Code::InvalidArgument);
        let id = Bytes::from_static(&[3; 16]);
        let no_seen = RequestContext { retry: true, request_id: id.clone(), ..context() };
        assert_eq!(
            write_context(Some(&no_seen), RECENT).unwrap_err().code(),
            Code::InvalidArgument
        );
        let old = RequestContext { seen_version: 1, ..no_seen };
        assert_eq!(write_context(Some(&old), RECENT).unwrap_err().code(), Code::Unknown);
        let fresh = RequestContext { seen_version: RECENT.0, ..old };
        let identity = write_context(Some(&fresh), RECENT).unwrap();
        assert_eq!((identity.request_id, identity.seen, identity.retry), (id, RECENT, true));
    }

    #[test]
    fn a_first_attempt_takes_the_newer_timestamp() {
        let old = RequestContext { seen_version: 1, ..context() };
        let identity = write_context(Some(&old), RECENT).unwrap();
        assert_eq!((identity.seen, identity.retry), (RECENT, false));
        assert_eq!(identity.request_id.len(), REQUEST_ID_BYTES);
        assert_ne!(identity.request_id, write_context(None, RECENT).unwrap().request_id);
    }
}
