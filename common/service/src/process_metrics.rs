//! The process's own metrics, read from /proc when they are asked for.
//!
//! Owns: CPU time, resident memory, open files and start time. Must not know: anything of the
//! database. Invariant: a file that cannot be read leaves the last figure standing.

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::{Counter, Gauge, IntGauge, proto};
use std::sync::Once;

/// Clock ticks a second in /proc; fixed at 100 for user space on every Linux platform of ours.
const TICKS_PER_SECOND: f64 = 100.0;

struct ProcessCollector {
    cpu: Counter,
    resident: IntGauge,
    open_files: IntGauge,
    start_time: Gauge,
    descriptions: Vec<Desc>,
    /// CPU time already counted. Invariant: equals the counter's value.
    counted: Mutex<f64>,
}

/// Registers the metrics in the default registry; further calls do nothing.
pub fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let registered =
            ProcessCollector::new().and_then(|collector| prometheus::register(Box::new(collector)));
        if let Err(error) = registered {
            tracing::warn!(%error, "process metrics are not exported");
        }
    });
}

impl ProcessCollector {
    fn new() -> prometheus::Result<Self> {
        let cpu = Counter::new(
            "rangedb_process_cpu_seconds_total",
            "CPU time used by the process, user and system",
        )?;
        let resident = IntGauge::new(
            "rangedb_process_resident_memory_bytes",
            "Memory of the process that is in RAM",
        )?;
        let open_files = IntGauge::new("rangedb_process_open_files", "File descriptors in use")?;
        let start_time = Gauge::new(
            "rangedb_process_start_time_seconds",
            "When the process started, seconds since 1970",
        )?;
        let descriptions = [cpu.desc(), resident.desc(), open_files.desc(), start_time.desc()]
            .concat()
            .into_iter()
            .cloned()
            .collect();
        if let Some(at) = start_time_seconds() {
            start_time.set(at);
        }
        Ok(Self { cpu, resident, open_files, start_time, descriptions, counted: Mutex::new(0.0) })
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        if let Some(used) = cpu_seconds() {
            let mut counted = self.counted.lock();
            if used > *counted {
                self.cpu.inc_by(used - *counted);
                *counted = used;
            }
        }
        if let Some(bytes) = resident_bytes() {
            self.resident.set(bytes);
        }
        if let Some(count) = open_files() {
            self.open_files.set(count);
        }
        [
            self.cpu.collect(),
            self.resident.collect(),
            self.open_files.collect(),
            self.start_time.collect(),
        ]
        .concat()
    }
}

/// The fields of /proc/self/stat after the name, which itself may contain blanks and brackets.
/// The first of them is field 3 of proc(5).
fn stat_field(number: usize) -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number - 3)?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    Some((stat_field(14)? + stat_field(15)?) / TICKS_PER_SECOND)
}

fn start_time_seconds() -> Option<f64> {
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 =
        boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + stat_field(22)? / TICKS_PER_SECOND)
}

fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn open_files() -> Option<i64> {
    i64::try_from(std::fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_plausible() {
        let collector = ProcessCollector::new().unwrap();
        let families = collector.collect();
        assert_eq!(families.len(), 4);
        assert!(resident_bytes().unwrap() > 1 << 20);
        assert!(open_files().unwrap() >= 3);
        assert!(start_time_seconds().unwrap() > 1.5e9);
        assert!(cpu_seconds().unwrap() >= 0.0);
    }

    #[test]
    fn cpu_time_is_counted_once() {
        let collector = ProcessCollector::new().unwrap();
        collector.collect();
        collector.collect();
        assert!(collector.cpu.get() <= cpu_seconds().unwrap() + 0.001);
    }

    #[test]
    fn registering_twice_is_harmless() {
        register();
        register();
        let names: Vec<_> = prometheus::gather().iter().map(|f| f.get_name().to_owned()).collect();
        assert!(names.contains(&"rangedb_process_cpu_seconds_total".to_owned()), "{names:?}");
    }
}
