//! The process as its operator sees it. Owns: its name and its last words. Must not know: why it
//! ends.

use std::io::Write as _;

/// The exit code of a server that was told to stop.
pub const EXIT_CODE_DONE: u8 = 0;
/// The exit code of a server that could not start or had to stop by itself.
pub const EXIT_CODE_FAILED: u8 = 1;

/// The program's own name, as it was started, for messages and traces.
#[must_use]
pub fn program_name() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&path).file_name().unwrap_or_default();
    match name.to_str() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "rangedb".to_owned(),
    }
}

/// Says in one line on stderr why the process ends, and gives the exit code for [`end`].
#[must_use]
pub fn failed(error: &dyn std::error::Error) -> u8 {
    eprintln!("{}: {}", program_name(), crate::text::chain(error));
    EXIT_CODE_FAILED
}

/// Ends the process at once, without the exit handlers of C and C++: RocksDB's destroy what its
/// threads still use, and the process would die of that with a signal. Everything that must be kept
/// was synced before it was acknowledged, so no handler has anything left to save.
pub fn end(code: u8) -> ! {
    // Where both are closed there is nobody to tell.
    let _told = std::io::stdout().flush().and_then(|()| std::io::stderr().flush());
    signal_hook::low_level::exit(i32::from(code))
}

/// Ends the process at once, with one line on stderr: for damage that must not be served from,
/// such as a failed fsync.
pub fn fatal(reason: &str) -> ! {
    tracing::error!(reason, "fatal, the process ends");
    eprintln!("{}: {}", program_name(), crate::text::one_line(reason));
    end(EXIT_CODE_FAILED)
}

/// The runtime of a server. `threads` of 0 means half of the machine's processors: fewer threads hand
/// work over less often, and other threads and processes want the rest (on two processors one thread
/// instead of two gave a third more unary calls a second).
///
/// # Errors
/// The threads cannot be started.
pub fn runtime(threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if threads == 0 { (processors / 2).max(1) } else { threads };
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_has_a_name_without_folders() {
        let name = program_name();
        assert!(!name.is_empty());
        assert!(!name.contains('/'));
    }
}
