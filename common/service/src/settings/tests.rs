//! The order of the sources and the refusal of unknown keys.

use super::*;
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Example {
    listen: String,
    log: Log,
    cache: Bytes,
    timeout: Period,
    #[serde(deserialize_with = "comma_list")]
    placement: Vec<String>,
    advertise: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Log {
    format: String,
    filter: String,
}

impl Default for Example {
    fn default() -> Self {
        Self {
            listen: "default:1".to_owned(),
            log: Log::default(),
            cache: Bytes(1 << 20),
            timeout: Period(std::time::Duration::from_secs(10)),
            placement: Vec::new(),
            advertise: None,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: "text".to_owned(), filter: "info".to_owned() }
    }
}

#[derive(Default, Serialize)]
struct Flags {
    listen: Option<String>,
    advertise: Option<String>,
}

fn write(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn refused(result: Result<Example, SettingsError>) -> String {
    let line = result.unwrap_err().to_string();
    assert!(!line.contains('\n'), "more than one line: {line}");
    line
}

#[test]
fn nothing_given_is_the_defaults() {
    let settings: Example = load_from(None, env(&[]), Flags::default()).unwrap();
    assert_eq!(settings, Example::default());
}

#[test]
fn each_source_wins_over_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(
        &dir,
        "s.toml",
        "listen = \"file:1\"\nadvertise = \"file:2\"\ncache = \"2MiB\"\n[log]\nformat = \"json\"\n",
    );
    let environment =
        env(&[("RANGEDB_LISTEN", "env:1"), ("RANGEDB_ADVERTISE", "env:2"), ("OTHER", "x")]);
    let flags = Flags { listen: Some("flag:1".to_owned()), advertise: None };

    let settings: Example = load_from(Some(&file), environment, flags).unwrap();
    assert_eq!(settings.listen, "flag:1");
    assert_eq!(settings.advertise.as_deref(), Some("env:2"));
    assert_eq!(settings.cache, Bytes(2 << 20));
    assert_eq!(settings.log.format, "json");
    assert_eq!(settings.log.filter, "info");
}

#[test]
fn toml_yaml_and_json_say_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let expected = Example {
        listen: "a:1".to_owned(),
        timeout: Period(std::time::Duration::from_secs(3)),
        ..Example::default()
    };
    for (name, text) in [
        ("s.toml", "listen = \"a:1\"\ntimeout = \"3s\""),
        ("s.yaml", "listen: a:1\ntimeout: 3s\n"),
        ("s.json", r#"{"listen":"a:1","timeout":"3s"}"#),
    ] {
        let file = write(&dir, name, text);
        let settings: Example = load_from(Some(&file), env(&[]), Flags::default()).unwrap();
        assert_eq!(settings, expected, "{name}");
    }
}

#[test]
fn environment_nests_and_lists() {
    let environment = env(&[
        ("RANGEDB_LOG__FORMAT", "json"),
        ("RANGEDB_PLACEMENT", "a:1,b:2"),
        ("RANGEDB_CACHE", "64KiB"),
    ]);
    let settings: Example = load_from(None, environment, Flags::default()).unwrap();
    assert_eq!(settings.log.format, "json");
    assert_eq!(settings.placement, ["a:1", "b:2"]);
    assert_eq!(settings.cache, Bytes(64 << 10));
}

#[test]
fn an_unknown_key_in_the_file_is_refused_with_the_known_ones() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(&dir, "s.toml", "lissten = \"a:1\"\n");
    let line = refused(load_from(Some(&file), env(&[]), Flags::default()));
    assert!(line.contains("`lissten`"), "{line}");
    assert!(line.contains("s.toml"), "{line}");
    assert!(line.contains("listen, log, cache"), "{line}");
}

#[test]
fn an_unknown_nested_key_is_named_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(&dir, "s.yaml", "log:\n  colour: red\n");
    let line = refused(load_from(Some(&file), env(&[]), Flags::default()));
    assert!(line.contains("`log.colour`"), "{line}");
    assert!(line.contains("known here: format, filter"), "{line}");
}

#[test]
fn an_unknown_key_in_the_environment_is_refused() {
    let line = refused(load_from(None, env(&[("RANGEDB_LISSTEN", "x")]), Flags::default()));
    assert!(line.contains("`lissten` in the environment"), "{line}");
    assert!(line.contains("listen"), "{line}");
}

#[test]
fn an_unknown_key_in_the_flags_is_refused() {
    let flags = serde_json::json!({ "lissten": "x" });
    let line = refused(load_from(None, env(&[]), flags));
    assert!(line.contains("`lissten` in the command line"), "{line}");
}

#[test]
fn a_bad_value_names_key_source_and_remedy() {
    let line = refused(load_from(None, env(&[("RANGEDB_TIMEOUT", "soon")]), Flags::default()));
    assert!(line.contains("`timeout`"), "{line}");
    assert!(line.contains("environment"), "{line}");
    assert!(line.contains("10s"), "{line}");
}

#[test]
fn a_missing_or_broken_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.toml");
    let line = refused(load_from(Some(&missing), env(&[]), Flags::default()));
    assert!(line.contains("missing.toml") && line.contains("--config"), "{line}");

    let broken = write(&dir, "broken.toml", "listen = \n[[[");
    let line = refused(load_from(Some(&broken), env(&[]), Flags::default()));
    assert!(line.contains("broken.toml"), "{line}");

    let odd = write(&dir, "settings.ini", "a=1");
    let line = refused(load_from(Some(&odd), env(&[]), Flags::default()));
    assert!(line.contains(".toml"), "{line}");
}
