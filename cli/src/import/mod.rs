//! `import`: writes every record of a file, or checks that every record is there.
//!
//! Owns: its arguments, its words and its progress bar. Must not know: how records are written in
//! files (`records`), what is under way (`ledger`). Invariant: what a state file counts was
//! acknowledged.

mod deb822;
mod json;
mod ledger;
mod records;
mod resume;
mod source;
mod tsv;
mod verify;
mod write;

use crate::arguments::Options;
use crate::data::Database;
use crate::exit::Failure;
use crate::output::{Output, OutputFormat};
use indicatif::{ProgressBar, ProgressStyle};
use ledger::Ledger;
use records::Format;
use resume::StateFile;
use serde::Serialize;
use source::Source;
use std::path::PathBuf;
use std::time::Instant;

/// Writes under way at once, unless told otherwise.
const IN_FLIGHT: usize = 256;
const IN_FLIGHT_MAX: i64 = 4096;

#[derive(Debug, clap::Args)]
#[command(after_help = "Run again after an interruption, import goes on where it was: how many \
                        records are acknowledged stands in FILE.import-state (or --resume-file) \
                        until all are.")]
pub struct ImportArguments {
    /// What to read; - is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// How records are written [default: what FILE's name ends in: .json .jsonl .ndjson .tsv
    /// .deb822]
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// Write nothing; read every record back and compare it byte by byte
    #[arg(long, conflicts_with_all = ["resume_file", "in_flight"])]
    verify: bool,

    /// Where to keep how many records are acknowledged
    #[arg(long, value_name = "FILE")]
    resume_file: Option<PathBuf>,

    /// Writes under way at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = IN_FLIGHT as u32,
        value_parser = clap::value_parser!(u32).range(1..=IN_FLIGHT_MAX)
    )]
    in_flight: u32,
}

#[derive(Debug, Serialize)]
struct ImportedJson {
    /// Records of the file that are acknowledged.
    records: u64,
    /// How many of these were before this run.
    resumed_at: u64,
    seconds: f64,
}

/// Runs `import`.
///
/// # Errors
/// A bad line or file, or a write that failed; what was acknowledged is noted in the state file.
pub async fn run(arguments: ImportArguments, options: &Options) -> Result<(), Failure> {
    let stdin = arguments.file.as_os_str() == "-";
    let format = match arguments.format.or_else(|| Format::of_path(&arguments.file)) {
        Some(format) => format,
        None => {
            return Err(Failure::usage(
                "cannot tell the format by the file's name; give --format json, tsv or deb822",
            ));
        }
    };
    let path = (!stdin).then(|| arguments.file.clone());
    let source = Source { path, format };
    let bar = progress_bar(source.bytes());
    let result = if arguments.verify {
        verify(&source, options, &bar).await
    } else {
        write(&source, &arguments, options, &bar).await
    };
    bar.finish_and_clear();
    result
}

async fn write(
    source: &Source,
    arguments: &ImportArguments,
    options: &Options,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let beside = source.path.as_deref().map(StateFile::beside);
    let state = arguments.resume_file.clone().map(StateFile::at).or(beside);
    let done = state.as_ref().map_or(Ok(None), StateFile::load)?;
    let resumed_at = done.as_ref().map_or(0, |done| done.records);
    if resumed_at > 0 {
        eprintln!("rangedb-cli: going on behind record {resumed_at}");
    }
    let started = Instant::now();
    let batches = source.read(done)?;
    let database = Database::open(options).await?;
    let ledger = Ledger::new(resumed_at, arguments.in_flight as usize);
    let put = |record: records::Record| database.put_pipelined(record.key, record.value);
    let show = |bytes| bar.set_position(bytes);
    let (records, result) = write::write_all(batches, ledger, state.as_ref(), put, show).await;
    bar.finish_and_clear();
    if let Err(failure) = result {
        let kept = match &state {
            Some(state) => format!("; run it again to go on ({})", state.path().display()),
            None => "; give --resume-file to be able to go on".to_owned(),
        };
        let message = format!("{failure}; {records} records are imported{kept}");
        return Err(Failure::new(failure.exit, message));
    }
    if let Some(state) = &state {
        state.remove()?;
    }
    let seconds = started.elapsed().as_secs_f64();
    if options.output == OutputFormat::Json {
        let mut output = Output::default();
        output.json(&ImportedJson { records, resumed_at, seconds })?;
        output.flush()?;
    }
    let rate = (records - resumed_at) as f64 / seconds.max(1e-9);
    eprintln!("rangedb-cli: {records} records imported ({seconds:.1} s, {rate:.0} a second)");
    Ok(())
}

async fn verify(source: &Source, options: &Options, bar: &ProgressBar) -> Result<(), Failure> {
    let started = Instant::now();
    let database = Database::open(options).await?;
    let read = |keys| database.get_many(keys);
    let comparison = verify::compare(source, read, |bytes| bar.set_position(bytes)).await?;
    bar.finish_and_clear();
    if options.output == OutputFormat::Json {
        let mut output = Output::default();
        output.json(&comparison)?;
        output.flush()?;
    }
    let verify::Comparison { records, bytes, missing, different, examples } = &comparison;
    if missing + different > 0 {
        return Err(Failure::not_met(format!(
            "of {records} records {missing} are missing and {different} different, such as {}",
            examples.join(" ")
        )));
    }
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("rangedb-cli: {records} records with {bytes} bytes are equal ({seconds:.1} s)");
    Ok(())
}

/// A bar on stderr; hidden where that is no terminal.
fn progress_bar(bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match bytes {
        Some(bytes) => {
            (ProgressBar::new(bytes), "{bar:40} {binary_bytes} of {binary_total_bytes}, {eta} left")
        }
        None => (ProgressBar::no_length(), "{spinner} {binary_bytes} {binary_bytes_per_sec}"),
    };
    let style = ProgressStyle::with_template(template).expect("the template is a constant");
    bar.with_style(style)
}
