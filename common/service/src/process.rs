//! The process as its operator sees it. Owns: its name and its last words. Must not know: why it
//! ends.

use std::process::ExitCode;

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

/// Says in one line on stderr why the process ends, and gives the exit code for `main`.
#[must_use]
pub fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("{}: {}", program_name(), crate::text::chain(error));
    ExitCode::from(EXIT_CODE_FAILED)
}

/// Ends the process at once, with one line on stderr: for damage that must not be served from,
/// such as a failed fsync.
pub fn fatal(reason: &str) -> ! {
    tracing::error!(reason, "fatal, the process ends");
    eprintln!("{}: {}", program_name(), crate::text::one_line(reason));
    std::process::exit(i32::from(EXIT_CODE_FAILED))
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
