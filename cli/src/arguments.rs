//! The command line as a whole. Owns: the global options and the list of commands; each command
//! keeps its own arguments beside its code.

use crate::output::OutputFormat;
use crate::{admin, batch, bench, data, dev, import, txn};
use rangedb_service::Period;
use std::time::Duration;

/// Where a gateway is unless told otherwise.
pub const DEFAULT_ENDPOINT: &str = "127.0.0.1:8081";
/// How long a call may take unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// RangeDB from the command line
#[derive(Debug, clap::Parser)]
#[command(
    name = "rangedb-cli",
    version,
    after_help = "Exit codes: 0 done · 1 not found, a condition that does not hold, or a conflict · 2 usage or invalid argument · \
                  3 unavailable or timed out, surely not applied · 4 refused · 5 anything else · \
                  6 a write whose outcome is unknown"
)]
pub struct Arguments {
    #[command(flatten)]
    pub options: Options,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command that talks to a gateway.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Gateways, tried in turn [default: 127.0.0.1:8081]
    #[arg(
        long,
        global = true,
        env = "RANGEDB_ENDPOINTS",
        value_name = "HOST:PORT,…",
        value_delimiter = ','
    )]
    pub endpoints: Vec<String>,

    /// How results are written
    #[arg(
        long,
        global = true,
        env = "RANGEDB_OUTPUT",
        value_enum,
        value_name = "FORMAT",
        default_value_t
    )]
    pub output: OutputFormat,

    /// How long one call may take, such as 500ms or 10s [default: 10s]
    #[arg(long, global = true, value_name = "TIME", value_parser = timeout)]
    pub timeout: Option<Duration>,
}

impl Options {
    /// The gateways to talk to.
    #[must_use]
    pub fn gateways(&self) -> Vec<String> {
        self.endpoints_or(DEFAULT_ENDPOINT)
    }

    /// The servers to talk to, where the default is not a gateway's.
    #[must_use]
    pub fn endpoints_or(&self, default: &str) -> Vec<String> {
        let given: Vec<String> = self
            .endpoints
            .iter()
            .map(|endpoint| endpoint.trim().to_owned())
            .filter(|endpoint| !endpoint.is_empty())
            .collect();
        if given.is_empty() { vec![default.to_owned()] } else { given }
    }

    /// How long one call may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(DEFAULT_TIMEOUT)
    }
}

pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    let period: Period = text.parse().map_err(|error| format!("{error}"))?;
    if period.get().is_zero() {
        return Err("a call needs some time, for example 500ms".to_owned());
    }
    Ok(period.get())
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Serve the whole database in this one process
    Dev(dev::DevArguments),
    /// Write one key
    Put(data::PutArguments),
    /// Read one key
    Get(data::GetArguments),
    /// Remove one key, or every key of a range
    Delete(data::DeleteArguments),
    /// Read the keys of a range, in order
    Range(data::RangeArguments),
    /// Write many keys at once: all of them or none
    Batch(batch::BatchArguments),
    /// Read and write as one, call by call
    Txn(txn::TxnArguments),
    /// Write every record of a file, or check that every record is there
    Import(import::ImportArguments),
    /// Measure speed
    Bench(bench::BenchArguments),
    /// Look at the cluster and change how it runs
    Admin(admin::AdminArguments),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser as _};

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' ').map(|word| if word == "''" { "" } else { word }))
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_is_understood() {
        for line in [
            "x batch put a b c d",
            "x batch delete a b",
            "x batch apply -",
            "x txn begin --isolation read_committed --timeout 5s",
            "x txn begin --pessimistic",
            "x txn put k v --id 7",
            "x txn commit",
            "x get k --at 7",
            "x get k --max-age 5s",
            "x range a b --follower",
            "x put k v",
            "x put k -5",
            "x put k v --if-absent",
            "x put k v --if-version 7",
            "x put k --value-file f",
            "x get k",
            "x --endpoints a:1,b:2 --output json --timeout 3s get k",
            "x get k --output json --endpoints a:1",
            "x delete k",
            "x delete --range a b",
            "x delete --range '' ''",
            "x range '' ''",
            "x range a b --limit 5 --reverse --keys-only",
            "x import f",
            "x import - --format json",
            "x import f --format deb822 --verify",
            "x bench put --clients 64 --seconds 5 --api stream --value-size 256 --keys 100",
            "x bench get --clients 1 --seconds 0.5",
            "x admin cluster status",
            "x admin nodes list",
            "x admin nodes drain 1 --wait --timeout 5m",
            "x admin nodes undrain 1",
            "x admin nodes remove 1 --dry-run",
            "x admin ranges show 1",
            "x admin ranges split 1",
            "x admin ranges split 1 --at k --wait",
            "x admin ranges split 1 --by load --dry-run",
            "x admin ranges merge 1 --wait --timeout 60s",
            "x admin holds list",
            "x admin holds create --at 7 --ttl 5m --what backup",
            "x admin holds renew 3",
            "x admin holds release 3",
            "x admin ranges move 1 --from 2 --to 3",
            "x admin ranges transfer-leader 1 --to 2",
            "x admin ranges scatter",
            "x admin ranges scatter a z --wait",
            "x admin ranges list",
            "x admin ranges verify 1",
            "x admin ranges verify --all",
            "x admin config get a",
            "x admin config set a 1",
            "x admin config set a -1",
            "x admin config list",
            "x admin meta list",
            "x admin meta list _/nodes/",
            "x admin meta get _/a",
            "x admin meta watch _/ --from-revision 5",
            "x admin placement list",
            "x admin placement add 4 127.0.0.1:8290",
            "x admin placement remove 4",
            "x dev",
            "x dev --data-dir d --nodes 3 --listen 127.0.0.1:1 --http-listen 127.0.0.1:2",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn wrong_usage_has_code_2() {
        for line in [
            "x",
            "x put k",
            "x put k v --if-absent --if-version 3",
            "x put k v --value-file f",
            "x delete",
            "x delete k --range a b",
            "x delete --range a b --if-version 3",
            "x delete --range a",
            "x range a b --limit -1",
            "x get k --max-age 0s",
            "x get k --max-age 5s --at 7",
            "x range a b --max-age 5s --follower",
            "x get k --timeout 0s",
            "x get k --timeout soon",
            "x get k --output xml",
            "x import",
            "x bench put --clients 0",
            "x bench put --seconds 0",
            "x bench put --seconds -1",
            "x bench put --value-size 9MiB",
            "x bench scan",
            "x admin ranges verify",
            "x admin ranges verify 1 --all",
            "x dev --nodes 0",
            // Not there yet.
            "x txn begin --isolation strict",
            "x txn put k",
            "x batch put a",
            "x batch apply",
            "x watch a",
            "x shell",
            "x admin nodes drain",
            "x admin nodes drain 1 --force",
            "x admin nodes drain 1 --wait --dry-run",
            "x admin ranges split",
            "x admin ranges split 1 --at k --by size",
            "x admin ranges split 1 --by key",
            "x admin ranges move 1 --from 2",
            "x admin ranges transfer-leader 1",
            "x admin backup list",
        ] {
            assert_eq!(parse(line).map_err(|error| error.exit_code()).unwrap_err(), 2, "{line}");
        }
    }

    #[test]
    fn endpoints_have_a_default_and_are_trimmed() {
        let of = |line| parse(line).unwrap().options;
        assert_eq!(of("x get k --endpoints a:1,,b:2").gateways(), ["a:1", "b:2"]);
        let none = Options { endpoints: Vec::new(), output: OutputFormat::Table, timeout: None };
        assert_eq!(none.gateways(), [DEFAULT_ENDPOINT]);
        assert_eq!(none.timeout(), DEFAULT_TIMEOUT);
        assert_eq!(of("x get k --timeout 250ms").timeout(), Duration::from_millis(250));
    }
}
