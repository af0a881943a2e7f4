//! Tests of `config`: which source wins, how values are read, and what a mistake is answered with.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;
use crate::size::{ByteSize, Period};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Daemon {
    name: String,
    goal: u8,
    folder: Option<PathBuf>,
    mode: Mode,
    log: Log,
    classes: BTreeMap<String, u8>,
    volumes: Vec<Volume>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Fast,
    VerySafe,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Log {
    flush_interval: Period,
    segment_size: ByteSize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Volume {
    path: PathBuf,
}

impl Default for Daemon {
    fn default() -> Daemon {
        Daemon {
            name: "rfs".to_owned(),
            goal: 2,
            folder: None,
            mode: Mode::VerySafe,
            log: Log::default(),
            classes: BTreeMap::new(),
            volumes: Vec::new(),
        }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log { flush_interval: Period::milliseconds(10), segment_size: ByteSize::mib(64) }
    }
}

fn load_from(file: &str, environment: &[(&str, &str)], overrides: &[&str]) -> Result<Daemon, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("daemon.toml");
    std::fs::write(&path, file).unwrap();
    let environment = environment.iter().map(|(variable, value)| ((*variable).to_owned(), (*value).to_owned()));
    let overrides: Vec<_> = overrides.iter().map(|text| parse_override(text).unwrap()).collect();
    load(Some(&path), "RFS_TEST_", environment, &overrides)
}

fn message_of(file: &str, environment: &[(&str, &str)], overrides: &[&str]) -> String {
    load_from(file, environment, overrides).unwrap_err().to_string()
}

#[test]
fn nothing_set_gives_the_defaults() {
    assert_eq!(load_from("", &[], &[]).unwrap(), Daemon::default());
    assert_eq!(load::<Daemon>(None, "RFS_TEST_", [], &[]).unwrap(), Daemon::default());
    let written: Daemon = toml::from_str(&default_toml::<Daemon>().unwrap()).unwrap();
    assert_eq!(written, Daemon::default());
}

#[test]
fn later_sources_win_and_keep_what_they_do_not_set() {
    let file = "goal = 3\nmode = 'fast'\n[log]\nsegment_size = '1MiB'\nflush_interval = '1s'";
    let environment =
        [("RFS_TEST_LOG__FLUSH_INTERVAL", "2s"), ("RFS_TEST_GOAL", "4"), ("OTHER", "x"), ("RFS_TESTING", "y")];
    let daemon = load_from(file, &environment, &["goal=5", "folder = /srv/data"]).unwrap();
    assert_eq!(daemon.log, Log { flush_interval: Period::seconds(2), segment_size: ByteSize::mib(1) });
    assert_eq!((daemon.goal, daemon.mode), (5, Mode::Fast));
    assert_eq!(daemon.folder, Some(PathBuf::from("/srv/data")));
}

#[test]
fn texts_need_no_quotes_and_may_look_like_numbers() {
    for (value, name) in [("123", "123"), ("true", "true"), ("\"quoted\"", "quoted"), ("a = b", "a = b"), ("", "")] {
        assert_eq!(load_from("", &[("RFS_TEST_NAME", value)], &[]).unwrap().name, name);
    }
    let daemon = load_from("", &[], &["classes.cold=3", "classes.hot=1", "volumes=[{path='/a'}]"]).unwrap();
    assert_eq!(daemon.classes, BTreeMap::from([("cold".to_owned(), 3), ("hot".to_owned(), 1)]));
    assert_eq!(daemon.volumes, [Volume { path: "/a".into() }]);
}

#[test]
fn unknown_keys_are_refused_with_place_and_suggestion() {
    let message = message_of("[log]\nflush_intervall = '1s'", &[], &[]);
    assert!(message.contains("daemon.toml sets log.flush_intervall, which does not exist"), "{message}");
    assert!(message.contains("(is log.flush_interval meant?)"), "{message}");
    let message = message_of("", &[("RFS_TEST_GAOL", "2")], &[]);
    assert!(message.starts_with("the environment variable RFS_TEST_GAOL sets gaol, which"), "{message}");
    assert!(message.contains("(is goal meant?)"), "{message}");
    let message = message_of("", &[], &["colour=blue"]);
    assert_eq!(message, "the command line sets colour, which does not exist; correct or remove it");
    let message = message_of("[lgo]", &[], &[]);
    assert!(message.contains("sets lgo, which does not exist (is log meant?)"), "{message}");
    let message = message_of("[[volumes]]\npath = '/a'\nsize = 1", &[], &[]);
    assert!(message.contains("sets volumes to [{"), "{message}");
    assert!(message.contains("unknown field `size`, expected `path`"), "{message}");
}

#[test]
fn bad_values_are_refused_with_place_and_reason() {
    let message = message_of("[log]\nsegment_size = '5 parsecs'", &[("RFS_TEST_GOAL", "1")], &[]);
    assert!(message.contains("daemon.toml sets log.segment_size to \"5 parsecs\", which is not possible"), "{message}");
    assert!(message.contains("write a number and a unit"), "{message}");
    let message = message_of("", &[], &["goal=300"]);
    assert!(message.starts_with("the command line sets goal to 300, which is not possible: "), "{message}");
    let message = message_of("mode = 'slow'", &[], &[]);
    assert!(message.contains("expected `fast` or `very-safe`"), "{message}");
    let message = message_of("log = 3", &[], &[]);
    assert!(message.contains("sets log to 3"), "{message}");
}

#[test]
fn broken_files_are_explained() {
    let error = load_from("goal = = 1", &[], &[]).unwrap_err();
    assert!(error.to_string().contains("daemon.toml is not valid TOML"), "{error}");
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("line 1"), "{error:?}");
    let error = load::<Daemon>(Some(Path::new("/nonexistent.toml")), "X_", [], &[]).unwrap_err();
    assert!(matches!(error, ConfigError::File(_)), "{error}");
}

#[test]
fn overrides_need_a_key_and_a_value() {
    assert_eq!(parse_override("a.b = c=d"), Ok(("a.b".to_owned(), "c=d".to_owned())));
    assert!(parse_override("a.b").is_err());
    assert!(parse_override("=c").is_err());
}

#[test]
fn measures_how_alike_keys_are() {
    for (first, second, distance) in [("", "abc", 3), ("goal", "goal", 0), ("gaol", "goal", 2), ("log", "logs", 1)] {
        assert_eq!(edit_distance(first, second), distance, "{first} {second}");
    }
}
