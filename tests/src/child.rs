//! One process that a test started: its log, its end.

use crate::wait;
use anyhow::{Context as _, Result, bail, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// How long a program that should refuse to start may take to say so.
pub const REFUSAL_LIMIT: Duration = Duration::from_secs(30);
/// A user that owns nothing.
const NOBODY: u32 = 65_534;

/// A program of this workspace, beside the test's own executable.
///
/// # Errors
/// It was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let profile = test.parent().and_then(Path::parent).context("a test lies in deps")?;
    let path = profile.join(name);
    ensure!(
        path.is_file(),
        "{} is missing: build every target first, as `make test` does (cargo build --workspace)",
        path.display()
    );
    Ok(path)
}

/// What processes are to log, such as `info,rangedb_gateway=debug`, to look into a test.
const LOG_FILTER: &str = "RANGEDB_TEST_LOG";

/// A running process. Killed when it is dropped.
pub struct Child {
    process: std::process::Child,
    name: String,
}

impl Child {
    /// Starts a program; what it prints is appended to `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(program_name: &str, arguments: &[String], log: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        // What is ignored stays ignored over exec: a write beyond the limit of `limit_files` fails,
        // as on a full disk, and does not end the process.
        let mut command = bare("sh");
        if let Some(filter) = std::env::var_os(LOG_FILTER) {
            command.env("RANGEDB_LOG__FILTER", filter);
        }
        let process = command
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(program(program_name)?)
            .args(arguments)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| program_name.to_owned())?;
        Ok(Self { process, name: program_name.to_owned() })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// The system refused.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// It did not end in time.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal("-TERM")?;
        self.ended(limit).await
    }

    /// Sends a signal by `kill`, to this process alone.
    ///
    /// # Errors
    /// There is no such process any more.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status()?;
        ensure!(sent.success(), "kill {signal} {id} failed");
        Ok(())
    }

    /// Fills its disk: from now on no file may become larger than this, and writes beyond it fail.
    /// `None` gives the space back.
    ///
    /// # Errors
    /// There is no such process any more.
    pub fn limit_files(&self, size_bytes_max: Option<u64>) -> Result<()> {
        let size = size_bytes_max.map_or("unlimited".to_owned(), |size| size.to_string());
        let id = self.process.id().to_string();
        let arguments = ["--pid", &id, &format!("--fsize={size}:unlimited")];
        let set = Command::new("prlimit").args(arguments).status()?;
        ensure!(set.success(), "prlimit {arguments:?} failed");
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs when the limit is over.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        let process = &mut self.process;
        wait::until(&what, limit, async || process.try_wait()?.context("it still runs")).await
    }

    /// # Errors
    /// It ended.
    pub fn is_running(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended: {status}", self.name),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to kill.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(program_name: &str, arguments: &[String]) -> Result<Command> {
    let mut command = bare(program(program_name)?);
    command.args(arguments);
    Ok(command)
}

fn bare(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    // A test decides about every setting; the caller's environment must not.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(name)) {
        command.env_remove(name);
    }
    command
}

fn is_setting(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("RANGEDB_"))
}

/// What a program that ran to its end left.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its end.
///
/// # Errors
/// It does not end in time.
pub async fn run(program_name: &str, arguments: &[String], limit: Duration) -> Result<Ended> {
    run_command(command(program_name, arguments)?, program_name, limit).await
}

/// As [`run`], with a folder for what the program keeps between its calls.
///
/// # Errors
/// As [`run`].
pub async fn run_with_state(
    program_name: &str,
    arguments: &[String],
    state: &Path,
    limit: Duration,
) -> Result<Ended> {
    let mut command = command(program_name, arguments)?;
    command.env("XDG_STATE_HOME", state);
    run_command(command, program_name, limit).await
}

async fn run_command(mut command: Command, name: &str, limit: Duration) -> Result<Ended> {
    let folder = tempfile::tempdir()?;
    let (out, err) = (folder.path().join("out"), folder.path().join("err"));
    command.stdout(File::create(&out)?).stderr(File::create(&err)?);
    let process = command.spawn().with_context(|| name.to_owned())?;
    let mut child = Child { process, name: name.to_owned() };
    let status = child.ended(limit).await;
    let stderr = std::fs::read_to_string(err)?;
    let code = status.with_context(|| format!("{command:?} said: {stderr}"))?.code();
    Ok(Ended { code, stdout: std::fs::read_to_string(out)?, stderr })
}

/// Runs a server that must refuse to start: non-zero exit, its last line on stderr is the program's
/// name and what is wrong, nothing panicked. Gives that line.
///
/// # Errors
/// It started, or refused in another way.
pub async fn refused(program_name: &str, arguments: &[String]) -> Result<String> {
    let ended = run(program_name, arguments, REFUSAL_LIMIT).await?;
    refusal(program_name, &ended)
}

/// As [`refused`], by a user without rights: permissions mean nothing to root.
///
/// # Errors
/// As [`refused`].
pub async fn refused_as_nobody(program_name: &str, arguments: &[String]) -> Result<String> {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::process::CommandExt as _;
    let mut command = command(program_name, arguments)?;
    if std::fs::metadata("/proc/self")?.uid() == 0 {
        command.uid(NOBODY);
    }
    refusal(program_name, &run_command(command, program_name, REFUSAL_LIMIT).await?)
}

fn refusal(program_name: &str, ended: &Ended) -> Result<String> {
    ensure!(ended.code.is_some_and(|code| code != 0), "it should have refused: {ended:?}");
    ensure!(!ended.stderr.contains("panicked"), "it panicked: {}", ended.stderr);
    ensure!(ended.stdout.is_empty(), "words on stdout: {}", ended.stdout);
    let prefix = format!("{program_name}: ");
    let mut words = ended.stderr.lines().filter(|line| line.starts_with(&prefix));
    let line = words.next_back().with_context(|| format!("no clear line: {}", ended.stderr))?;
    Ok(line.to_owned())
}
