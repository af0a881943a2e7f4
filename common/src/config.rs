//! Configuration: a documented serde struct, filled from its defaults, a TOML file, the environment and the command
//! line, each overriding the one before.
//!
//! All sources become one list of settings (a key path and a value), which is laid over the TOML form of the struct's
//! defaults and read as the struct. Then the struct is written as TOML again: a setting whose key is not in what was
//! written was not taken by anything, and is refused. So a struct needs no attribute for unknown keys to be found, but it
//! must write every field that was set: no `skip_serializing_if` on a condition other than "is `None`", no `alias`.
//!
//! An environment variable `RFS_MASTER_LOG__FLUSH_INTERVAL=10ms` with prefix `RFS_MASTER_` sets `log.flush_interval`.
//! Values from the environment and the command line are read as TOML if that fits the field, else as plain text, so
//! quotes are not needed around texts.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::durable::{self, FileError};

/// Larger files are not configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a setting was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In this file.
    File(PathBuf),
    /// In this environment variable.
    Environment(String),
    /// On the command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path) => write!(formatter, "{}", path.display()),
            Origin::Environment(variable) => write!(formatter, "the environment variable {variable}"),
            Origin::CommandLine => formatter.write_str("the command line"),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot use the configuration file; check that it exists and may be read, or name another one")]
    File(#[source] FileError),
    /// The file is not TOML.
    #[error("{file} is not valid TOML; correct the line shown", file = file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// The line and what is wrong with it.
        source: Box<toml::de::Error>,
    },
    /// Nothing has this key.
    #[error("{origin} sets {key}, which does not exist{}; correct or remove it", suggestion(.nearest.as_deref()))]
    UnknownKey {
        /// Where it was set.
        origin: Origin,
        /// The full path of the key.
        key: String,
        /// The full path of a key that looks alike.
        nearest: Option<String>,
    },
    /// The value does not fit the key.
    #[error("{origin} sets {key} to {value}, which is not possible: {reason}")]
    BadValue {
        /// Where it was set.
        origin: Origin,
        /// The full path of the key.
        key: String,
        /// The value as TOML.
        value: String,
        /// What is wrong with it, and what is expected.
        reason: String,
    },
    /// Each setting is possible, but not all together.
    #[error("the settings do not fit together: {0}")]
    Contradiction(String),
    /// The defaults cannot be written as TOML: a mistake in the program.
    #[error("the defaults cannot be written as TOML, which is a mistake in this program; please report it")]
    Defaults(#[source] toml::ser::Error),
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!(" (is {nearest} meant?)"))
}

/// The configuration that results from the defaults, the file, the variables of `environment` that begin with
/// `environment_prefix`, and the `overrides` (key path and value), later ones winning.
pub fn load<T: DeserializeOwned + Default + Serialize>(
    file: Option<&Path>,
    environment_prefix: &str,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<T, ConfigError> {
    let defaults = Table::try_from(T::default()).map_err(ConfigError::Defaults)?;
    let mut settings = Vec::new();
    if let Some(file) = file {
        settings_of_file(file, &mut settings)?;
    }
    settings.extend(settings_of_environment(environment_prefix, environment));
    for (key, value) in overrides {
        settings.push(Setting::from_text(Origin::CommandLine, key.split('.').map(str::to_owned).collect(), value));
    }
    assemble(&defaults, settings)
}

/// The defaults of a configuration as TOML, for a user to start from.
pub fn default_toml<T: Default + Serialize>() -> Result<String, ConfigError> {
    toml::to_string(&T::default()).map_err(ConfigError::Defaults)
}

/// The settings of an example configuration, in which each key stands commented out (`#key = value`, without a space) with
/// its default; `# ` begins words for people. A daemon's tests compare it with the real defaults.
pub fn uncommented(example: &str) -> String {
    let is_setting = |rest: &str| rest.starts_with(|first: char| first.is_ascii_lowercase() || first == '[');
    let line = |line| match str::strip_prefix(line, "#") {
        Some(rest) if is_setting(rest) => rest,
        _ => line,
    };
    example.lines().map(line).fold(String::new(), |text, line| text + line + "\n")
}

/// Reads an override of the command line, `key.path=value`; fit for clap's `value_parser`.
pub fn parse_override(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("{text:?} sets nothing; write KEY=VALUE, with dots between the levels of the key")),
    }
}

/// One value for one key. Of several candidates the first that fits is used.
struct Setting {
    origin: Origin,
    path: Vec<String>,
    candidates: Vec<Value>,
}

impl Setting {
    fn from_text(origin: Origin, path: Vec<String>, text: &str) -> Setting {
        let parsed = format!("value = {text}").parse::<Table>().ok().and_then(|mut table| {
            // A text with line breaks could smuggle in more keys.
            let value = table.remove("value");
            if table.is_empty() { value } else { None }
        });
        let plain = Value::String(text.to_owned());
        Setting { origin, path, candidates: parsed.into_iter().chain([plain]).collect() }
    }

    fn key(&self) -> String {
        self.path.join(".")
    }
}

fn settings_of_file(file: &Path, settings: &mut Vec<Setting>) -> Result<(), ConfigError> {
    let text = durable::read_text_limited(file, FILE_BYTES_MAX).map_err(ConfigError::File)?;
    let syntax = |source| ConfigError::Syntax { file: file.to_owned(), source: Box::new(source) };
    let table = text.parse::<Table>().map_err(syntax)?;
    flatten(&Origin::File(file.to_owned()), &mut Vec::new(), table, settings);
    Ok(())
}

/// Turns a table into settings. Tables within it become longer paths, and only an empty one stays a value.
fn flatten(origin: &Origin, path: &mut Vec<String>, table: Table, settings: &mut Vec<Setting>) {
    for (key, value) in table {
        path.push(key);
        match value {
            Value::Table(inner) if !inner.is_empty() => flatten(origin, path, inner, settings),
            value => settings.push(Setting { origin: origin.clone(), path: path.clone(), candidates: vec![value] }),
        }
        path.pop();
    }
}

fn settings_of_environment(
    prefix: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> impl Iterator<Item = Setting> {
    let mut variables: Vec<_> = environment.into_iter().filter(|(variable, _)| variable.starts_with(prefix)).collect();
    variables.sort();
    variables.into_iter().map(|(variable, value)| {
        let path = variable[prefix.len()..].to_lowercase().split("__").map(str::to_owned).collect();
        Setting::from_text(Origin::Environment(variable), path, &value)
    })
}

/// Lays the settings over the defaults and reads the result.
fn assemble<T: DeserializeOwned + Serialize>(defaults: &Table, settings: Vec<Setting>) -> Result<T, ConfigError> {
    let mut merged = defaults.clone();
    for setting in &settings {
        let value = choose::<T>(&merged, setting);
        set(&mut merged, &setting.path, value);
    }
    let config: T = match merged.clone().try_into() {
        Ok(config) => config,
        Err(error) => return Err(blame::<T>(defaults, &settings, &error)),
    };
    let known = Table::try_from(&config).map_err(ConfigError::Defaults)?;
    for setting in settings {
        check_known(&known, setting)?;
    }
    Ok(config)
}

/// The candidate of a setting with which the configuration can be read; the first one if none or only one is there.
fn choose<T: DeserializeOwned>(merged: &Table, setting: &Setting) -> Value {
    let fits = |value: &&Value| {
        let mut attempt = merged.clone();
        set(&mut attempt, &setting.path, (*value).clone());
        attempt.try_into::<T>().is_ok()
    };
    let fitting = if setting.candidates.len() > 1 { setting.candidates.iter().find(fits) } else { None };
    fitting.unwrap_or(&setting.candidates[0]).clone()
}

/// Puts a value at its path. Tables on the way are made; an empty table says nothing and replaces no table.
fn set(table: &mut Table, path: &[String], value: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut inner = table;
    for parent in parents {
        let entry = inner.entry(parent.clone()).or_insert_with(|| Value::Table(Table::new()));
        if !entry.is_table() {
            *entry = Value::Table(Table::new());
        }
        let Value::Table(next) = entry else { return };
        inner = next;
    }
    let empty_over_table =
        value.as_table().is_some_and(Table::is_empty) && inner.get(last).is_some_and(Value::is_table);
    if !empty_over_table {
        inner.insert(last.clone(), value);
    }
}

/// Finds the setting because of which the configuration cannot be read: the first that fails alone.
fn blame<T: DeserializeOwned>(defaults: &Table, settings: &[Setting], error: &toml::de::Error) -> ConfigError {
    for setting in settings {
        let value = choose::<T>(defaults, setting);
        let mut attempt = defaults.clone();
        set(&mut attempt, &setting.path, value.clone());
        let Err(error) = attempt.try_into::<T>() else { continue };
        let (origin, key) = (setting.origin.clone(), setting.key());
        // What serde's deny_unknown_fields says; it is the same mistake as a key that nothing took.
        let names_unknown = |part: &String| error.message().starts_with(&format!("unknown field `{part}`"));
        if setting.path.iter().any(names_unknown) {
            let nearest = nearest_key(defaults, &setting.path);
            return ConfigError::UnknownKey { origin, key, nearest };
        }
        let reason = in_words(error.message());
        return ConfigError::BadValue { origin, key, value: value.to_string(), reason };
    }
    ConfigError::Contradiction(error.message().to_owned())
}

/// What serde says, without the names of Rust's types.
fn in_words(message: &str) -> String {
    let number =
        ["usize", "u64", "u32", "u16", "u8"].iter().find_map(|name| message.strip_suffix(&format!("expected {name}")));
    match (number, message.strip_suffix("expected a boolean")) {
        (Some(start), _) => format!("{start}expected a whole number that is not negative"),
        (None, Some(start)) => format!("{start}expected true or false"),
        (None, None) => message.to_owned(),
    }
}

/// Refuses a setting of which the configuration took nothing, or not all.
fn check_known(known: &Table, setting: Setting) -> Result<(), ConfigError> {
    let mut level = known;
    for (depth, part) in setting.path.iter().enumerate() {
        let here = &setting.path[..=depth];
        let Some(value) = level.get(part) else {
            let nearest = nearest_key(known, here);
            return Err(ConfigError::UnknownKey { origin: setting.origin, key: here.join("."), nearest });
        };
        match value {
            Value::Table(inner) => level = inner,
            // Tables inside lists are values of one key; their own keys are compared one by one.
            value => match setting.candidates.first().and_then(|set| unknown_in_lists(set, value)) {
                None => return Ok(()),
                Some(inner) => {
                    let key = format!("{}.{inner}", here.join("."));
                    return Err(ConfigError::UnknownKey { origin: setting.origin, key, nearest: None });
                }
            },
        }
    }
    Ok(())
}

/// The first key inside lists of tables that is in `set` but not in `known`.
fn unknown_in_lists(set: &Value, known: &Value) -> Option<String> {
    match (set, known) {
        (Value::Array(set), Value::Array(known)) => {
            set.iter().zip(known).find_map(|(set, known)| unknown_in_lists(set, known))
        }
        (Value::Table(set), Value::Table(known)) => set.iter().find_map(|(key, value)| match known.get(key) {
            None => Some(key.clone()),
            Some(known) => unknown_in_lists(value, known).map(|inner| format!("{key}.{inner}")),
        }),
        _ => None,
    }
}

/// The known key most like the last part of this path, on its level, if one is alike.
fn nearest_key(known: &Table, path: &[String]) -> Option<String> {
    let mut level = known;
    for (depth, part) in path.iter().enumerate() {
        match level.get(part) {
            Some(Value::Table(inner)) => level = inner,
            _ => {
                let (distance, nearest) = level.keys().map(|key| (edit_distance(key, part), key)).min()?;
                // Two letters exchanged are a distance of 2; a key of which nothing remains is not alike.
                let alike = distance <= (part.len() / 3).max(2) && distance < part.len();
                return alike.then(|| [&path[..depth], std::slice::from_ref(nearest)].concat().join("."));
            }
        }
    }
    None
}

/// How many letters must be inserted, removed or replaced to turn one text into the other (Levenshtein).
fn edit_distance(first: &str, second: &str) -> usize {
    let second: Vec<char> = second.chars().collect();
    let mut row: Vec<usize> = (0..=second.len()).collect();
    for (index, letter) in first.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for column in 1..row.len() {
            let replaced = diagonal + usize::from(second[column - 1] != letter);
            diagonal = row[column];
            row[column] = replaced.min(row[column] + 1).min(row[column - 1] + 1);
        }
    }
    row[second.len()]
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
