//! What a process takes of the machine, as the kernel counts it.

use anyhow::{Context as _, Result};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

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

/// Bytes of a folder's files on the disk, which may be fewer than their lengths, or more.
///
/// # Errors
/// The folder cannot be read.
pub fn disk_bytes(folder: &Path) -> Result<u64> {
    sum_of_files(folder, &|file| file.blocks() * 512)
}

/// The same without what was taken from the disk in advance and not written yet.
///
/// # Errors
/// The folder cannot be read.
pub fn written_bytes(folder: &Path) -> Result<u64> {
    sum_of_files(folder, &|file| (file.blocks() * 512).min(file.len()))
}

fn sum_of_files(folder: &Path, size: &dyn Fn(&fs::Metadata) -> u64) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            // Files come and go while it is looked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        let within = if metadata.is_dir() { sum_of_files(&entry.path(), size)? } else { 0 };
        total += size(&metadata) + within;
    }
    Ok(total)
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
