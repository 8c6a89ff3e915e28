//! The HTTP side of a process: readiness and metrics.

use anyhow::{Context as _, Result, ensure};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Gets a path; gives the status and the body.
///
/// # Errors
/// The process cannot be reached or does not answer in HTTP.
pub async fn get(address: &str, path: &str) -> Result<(u16, String)> {
    tokio::time::timeout(TIMEOUT, exchange(address, path)).await.context("no answer in time")?
}

async fn exchange(address: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.context("no HTTP status")?, body.to_owned()))
}

/// Succeeds if the process says that it is ready.
///
/// # Errors
/// Why it is not.
pub async fn ready(address: &str) -> Result<()> {
    let (status, body) = get(address, "/health/ready").await?;
    ensure!(status == 200, "{}", body.trim());
    Ok(())
}

/// The sum of a metric over its labels.
///
/// # Errors
/// The process has no such metric.
pub async fn metric(address: &str, name: &str) -> Result<f64> {
    let (_, body) = get(address, "/metrics").await?;
    let values: Vec<f64> = body.lines().filter_map(|line| sample(line, name)).collect();
    ensure!(!values.is_empty(), "{address} has no metric {name}");
    Ok(values.iter().sum())
}

fn sample(line: &str, name: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    if !rest.starts_with(['{', ' ']) {
        return None;
    }
    rest.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_told_apart_by_their_whole_name() {
        assert_eq!(sample("rangedb_a_total 3", "rangedb_a_total"), Some(3.0));
        assert_eq!(sample("rangedb_a_total{x=\"y z\"} 4", "rangedb_a_total"), Some(4.0));
        assert_eq!(sample("rangedb_a_total_b 5", "rangedb_a_total"), None);
        assert_eq!(sample("# HELP rangedb_a_total words", "rangedb_a_total"), None);
    }
}
