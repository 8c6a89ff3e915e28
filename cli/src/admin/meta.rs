//! `admin meta`. Owns: the system's metadata as lists and as a stream of changes.

use super::{Admin, read};
use crate::exit::{Effect, Failure};
use crate::output::{self, Output, OutputFormat, escape, text_or_base64};
use rangedb_proto::v1::{GetMetaRequest, ListMetaRequest, MetaEntry, MetaEvent, WatchMetaRequest};
use serde::Serialize;

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Entries whose key begins with a prefix
    List {
        #[arg(default_value = "_/")]
        prefix: String,
    },
    /// One entry
    Get { key: String },
    /// Changes as they happen, until interrupted
    Watch {
        #[arg(default_value = "_/")]
        prefix: String,
        /// Begin with the changes of this revision instead of the next one
        #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
        from_revision: u64,
    },
}

#[derive(Debug, Serialize)]
struct MetaJson {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    revision: u64,
}

impl MetaJson {
    fn new(entry: &MetaEntry) -> Self {
        let (value, value_base64) = text_or_base64(&entry.value);
        Self { key: entry.key.clone(), value, value_base64, revision: entry.revision }
    }
}

#[derive(Debug, Serialize)]
struct EventJson {
    event: &'static str,
    #[serde(flatten)]
    entry: MetaJson,
}

impl EventJson {
    fn new(event: &MetaEvent) -> Self {
        let mut entry = MetaJson::new(&event.entry.clone().unwrap_or_default());
        if event.deleted {
            (entry.value, entry.value_base64) = (None, None);
        }
        Self { event: if event.deleted { "delete" } else { "put" }, entry }
    }
}

pub async fn run(action: Action, mut admin: Admin) -> Result<(), Failure> {
    match action {
        Action::List { prefix } => list(prefix, admin).await,
        Action::Get { key } => {
            let request = admin.request(GetMetaRequest { key });
            let entry = read(admin.client.get_meta(request).await)?;
            output::print(admin.output, &MetaJson::new(&entry), |_| escape(&entry.value))
        }
        Action::Watch { prefix, from_revision } => watch(prefix, from_revision, admin).await,
    }
}

async fn list(prefix: String, mut admin: Admin) -> Result<(), Failure> {
    let mut entries = Vec::new();
    let mut after = String::new();
    loop {
        let request = admin.request(ListMetaRequest { prefix: prefix.clone(), after, limit: 0 });
        let page = read(admin.client.list_meta(request).await)?;
        after = page.entries.last().map(|entry| entry.key.clone()).unwrap_or_default();
        entries.extend(page.entries);
        // A page without entries could only be asked for again and again.
        if !page.more || after.is_empty() {
            break;
        }
    }
    let json: Vec<_> = entries.iter().map(MetaJson::new).collect();
    let row = |entry: &MetaEntry| {
        vec![entry.key.clone(), entry.revision.to_string(), escape(&entry.value)]
    };
    output::print(admin.output, &json, |_| {
        output::table(&["KEY", "REVISION", "VALUE"], entries.iter().map(row))
    })
}

async fn watch(prefix: String, from_revision: u64, mut admin: Admin) -> Result<(), Failure> {
    // No deadline: it ends when somebody ends it.
    let request = WatchMetaRequest { prefix, from_revision };
    let mut events = read(admin.client.watch_meta(request).await)?;
    let failed = |status| Failure::of_status(&status, Effect::Read);
    let mut output = Output::default();
    while let Some(event) = events.message().await.map_err(failed)? {
        let json = EventJson::new(&event);
        match admin.output {
            OutputFormat::Json => output.json(&json)?,
            OutputFormat::Table => output.line(text(&json, &event).as_bytes())?,
        }
        output.flush()?;
    }
    Err(Failure::new(crate::exit::Exit::Unavailable, "the gateway ended the watch"))
}

fn text(json: &EventJson, event: &MetaEvent) -> String {
    let value = event.entry.as_ref().filter(|_| !event.deleted).map(|entry| escape(&entry.value));
    let value = value.unwrap_or_default();
    format!("{}\t{}\t{}\t{value}", json.entry.revision, json.event, json.entry.key)
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn events_as_json() {
        let entry = MetaEntry { key: "_/a".into(), value: Bytes::from_static(b"v"), revision: 9 };
        let put = MetaEvent { entry: Some(entry.clone()), deleted: false };
        let delete = MetaEvent { entry: Some(entry), deleted: true };
        assert_eq!(
            serde_json::to_string(&EventJson::new(&put)).unwrap(),
            r#"{"event":"put","key":"_/a","value":"v","revision":9}"#
        );
        assert_eq!(
            serde_json::to_string(&EventJson::new(&delete)).unwrap(),
            r#"{"event":"delete","key":"_/a","revision":9}"#
        );
        assert_eq!(text(&EventJson::new(&put), &put), "9\tput\t_/a\tv");
    }
}
