//! `admin holds`. Owns: versions that are kept for long readers, as a list and by hand.

use super::{Admin, read, written};
use crate::arguments::timeout;
use crate::exit::Failure;
use crate::output;
use rangedb_proto::v1::{HoldVersionRequest, ListHoldsRequest, ReleaseVersionRequest, VersionHold};
use serde::Serialize;
use std::time::Duration;

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Every version that is held
    List,
    /// Keep everything as of a version; prints the hold
    Create {
        /// The version [default: now]
        #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
        at: Option<u64>,
        /// For how long, unless it is renewed; 1s to 24h
        #[arg(long, value_name = "TIME", value_parser = timeout, default_value = "1h")]
        ttl: Duration,
        /// What it is for
        #[arg(long, default_value = "")]
        what: String,
    },
    /// Lengthen a hold, from now on
    Renew {
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        hold: u64,
        #[arg(long, value_name = "TIME", value_parser = timeout, default_value = "1h")]
        ttl: Duration,
    },
    /// Give a hold up
    Release {
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        hold: u64,
    },
}

#[derive(Debug, Serialize)]
struct HoldJson {
    hold_id: u64,
    version: String,
    /// Milliseconds since 1970.
    expires_ms: u64,
    what: String,
}

impl HoldJson {
    fn new(hold: &VersionHold) -> Self {
        Self {
            hold_id: hold.hold_id,
            version: hold.version.to_string(),
            expires_ms: hold.expires_ms,
            what: hold.what.clone(),
        }
    }

    fn row(&self) -> Vec<String> {
        let (id, expires) = (self.hold_id.to_string(), self.expires_ms.to_string());
        vec![id, self.version.clone(), expires, self.what.clone()]
    }
}

pub async fn run(action: Action, mut admin: Admin) -> Result<(), Failure> {
    let request = match action {
        Action::List => {
            let request = admin.request(ListHoldsRequest {});
            let holds = read(admin.client.list_holds(request).await)?.holds;
            return print(&admin, &holds);
        }
        Action::Release { hold } => {
            let request = admin.request(ReleaseVersionRequest { hold_id: hold });
            written(admin.client.release_version(request).await)?;
            return Ok(());
        }
        Action::Create { at, ttl, what } => hold(0, at.unwrap_or_default(), ttl, what),
        Action::Renew { hold: id, ttl } => hold(id, 0, ttl, String::new()),
    };
    let request = admin.request(request);
    let held = written(admin.client.hold_version(request).await)?;
    output::print(admin.output, &HoldJson::new(&held), |hold| {
        output::table(&HEAD, std::iter::once(hold.row()))
    })
}

const HEAD: [&str; 4] = ["HOLD", "VERSION", "EXPIRES (ms)", "WHAT FOR"];

fn hold(hold_id: u64, version: u64, ttl: Duration, what: String) -> HoldVersionRequest {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    HoldVersionRequest { hold_id, version, ttl_ms, what }
}

fn print(admin: &Admin, holds: &[VersionHold]) -> Result<(), Failure> {
    let holds: Vec<_> = holds.iter().map(HoldJson::new).collect();
    output::print(admin.output, &holds, |holds| {
        output::table(&HEAD, holds.iter().map(HoldJson::row))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_as_json() {
        let hold = VersionHold { hold_id: 3, version: 1 << 60, expires_ms: 5, what: "w".into() };
        assert_eq!(
            serde_json::to_string(&HoldJson::new(&hold)).unwrap(),
            r#"{"hold_id":3,"version":"1152921504606846976","expires_ms":5,"what":"w"}"#
        );
    }
}
