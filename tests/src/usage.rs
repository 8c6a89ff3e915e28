//! What a process takes of the machine, as the kernel counts it.

use anyhow::{Context as _, Result};
use std::fs;
use std::time::Duration;

/// Processor time of all threads that live.
///
/// # Errors
/// The process does not run.
pub fn processor_time(process_id: u32) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{process_id}/task"))? {
        // A thread may end between the two looks.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        let nanos = text.split(' ').next().context("no time in schedstat")?;
        total += Duration::from_nanos(nanos.parse()?);
    }
    Ok(total)
}

/// Memory that is its own: not counting what is mapped from files.
///
/// # Errors
/// The process does not run.
pub fn resident_bytes(process_id: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process_id}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")).context("no RssAnon")?;
    Ok(kib.parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_time_and_memory() {
        let own = std::process::id();
        let before = processor_time(own).expect("it runs");
        let kept: Vec<u64> = (0..4_000_000).collect();
        assert!(resident_bytes(own).expect("it runs") > kept.len() as u64 * 8);
        assert!(processor_time(own).expect("it runs") > before);
    }
}
