//! `admin config`. Owns: runtime settings as a list, and changes of them.

use super::{Admin, read, written};
use crate::exit::Failure;
use crate::output;
use rangedb_proto::v1::{ConfigEntry, GetConfigRequest, ListConfigRequest, SetConfigRequest};
use serde::Serialize;

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// One setting
    Get { name: String },
    /// Change a setting; it takes effect at once, everywhere
    Set {
        name: String,
        #[arg(allow_negative_numbers = true)]
        value: String,
        /// Only if the setting's version is still this one
        #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
        if_version: Option<u64>,
    },
    /// Every setting
    List,
}

#[derive(Debug, Serialize)]
struct SettingJson {
    name: String,
    value: String,
    /// Metadata revision of the last change; 0 while it has its default.
    version: u64,
    default: String,
    description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    warning: String,
}

impl SettingJson {
    fn new(entry: &ConfigEntry) -> Self {
        Self {
            name: entry.name.clone(),
            value: entry.value.clone(),
            version: entry.version,
            default: entry.default_value.clone(),
            description: entry.description.clone(),
            warning: entry.warning.clone(),
        }
    }
}

pub async fn run(action: Action, mut admin: Admin) -> Result<(), Failure> {
    let entry = match action {
        Action::List => return list(admin).await,
        Action::Get { name } => {
            let request = admin.request(GetConfigRequest { name });
            read(admin.client.get_config(request).await)?
        }
        Action::Set { name, value, if_version } => {
            let expected_version = if_version.unwrap_or_default();
            let request = admin.request(SetConfigRequest { name, value, expected_version });
            written(admin.client.set_config(request).await)?
        }
    };
    if !entry.warning.is_empty() {
        eprintln!("rangedb-cli: warning: {}", entry.warning);
    }
    output::print(admin.output, &SettingJson::new(&entry), |setting| setting.value.clone())
}

async fn list(mut admin: Admin) -> Result<(), Failure> {
    let request = admin.request(ListConfigRequest {});
    let answer = read(admin.client.list_config(request).await)?;
    let settings: Vec<_> = answer.settings.iter().map(SettingJson::new).collect();
    let row = |setting: &SettingJson| {
        vec![
            setting.name.clone(),
            setting.value.clone(),
            setting.default.clone(),
            setting.description.clone(),
        ]
    };
    output::print(admin.output, &settings, |settings| {
        output::table(&["NAME", "VALUE", "DEFAULT", "WHAT IT DOES"], settings.iter().map(row))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_as_json() {
        let entry = ConfigEntry {
            name: "n".into(),
            value: "3".into(),
            version: 12,
            default_value: "1".into(),
            description: "d".into(),
            warning: String::new(),
        };
        assert_eq!(
            serde_json::to_string(&SettingJson::new(&entry)).unwrap(),
            r#"{"name":"n","value":"3","version":12,"default":"1","description":"d"}"#
        );
    }
}
