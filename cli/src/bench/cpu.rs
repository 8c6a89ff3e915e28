//! CPU time of this process, so that a report can tell what the load itself cost.

/// Clock ticks a second in /proc: fixed at 100 in Linux's interface to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of CPU time used so far by all threads; `None` where there is no /proc.
pub fn seconds() -> Option<f64> {
    parse(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// User and system time are the 14th and 15th field; the second one, the name, may hold blanks.
fn parse(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_read_behind_the_name() {
        let line = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(parse(line), Some(3.0));
        assert_eq!(parse("7 (a"), None);
        assert!(seconds().is_some());
    }
}
