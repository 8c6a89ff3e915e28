//! How long a call may take: the caller's `grpc-timeout` header, or the gateway's default.

use crate::errors::Failure;
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// The longest deadline a caller can ask for; the header allows years.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// A tenth of a caller's time, and at most this, is kept for the way back, so that our typed answer arrives before
/// the caller (or the transport, which reads the same header) gives up, also where processors are busy.
const ANSWER_MARGIN_MAX: Duration = Duration::from_millis(100);

/// The deadline of a call that arrives now.
///
/// # Errors
/// `Invalid` if the header cannot be read.
pub fn of_call(metadata: &MetadataMap, default: Duration) -> Result<Instant, Failure> {
    let Some(header) = metadata.get("grpc-timeout") else {
        return Ok(Instant::now() + default);
    };
    let timeout = header
        .to_str()
        .ok()
        .and_then(parse)
        .ok_or_else(|| Failure::invalid("grpc-timeout", "the grpc-timeout header is malformed"))?
        .min(TIMEOUT_MAX);
    Ok(Instant::now() + (timeout - (timeout / 10).min(ANSWER_MARGIN_MAX)))
}

/// Whether the caller named a deadline himself.
#[must_use]
pub fn is_given(metadata: &MetadataMap) -> bool {
    metadata.contains_key("grpc-timeout")
}

/// The header's form is at most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_as_grpc_defines_it() {
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("3S"), Some(Duration::from_secs(3)));
        assert_eq!(parse("1H"), Some(Duration::from_secs(3600)));
        for bad in ["", "S", "-1S", "123456789S", "5x", "5", "ü"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_bad_header_is_refused() {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", "soon".parse().unwrap());
        assert!(of_call(&metadata, Duration::from_secs(1)).is_err());
    }
}
