//! How results reach the terminal: tables for people, one JSON document for programs, complaints on standard error.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::Style;

const TICK_EVERY: Duration = Duration::from_millis(100);

/// Who reads the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Tables and sentences.
    People,
    /// One JSON document.
    Programs,
}

impl Form {
    /// From the flag `--json`.
    pub(super) fn of(json: bool) -> Self {
        if json { Form::Programs } else { Form::People }
    }
}

/// Prints one JSON document.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot write the result as JSON")?;
    print_text(&text)
}

/// Prints lines to standard output. A reader that went away (`| head`) is no error.
pub(super) fn print_text(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

/// Prints to standard error, which may be gone.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints a table with a heading line; `empty` instead if there are no rows.
pub(super) fn print_table(headings: &[&str], rows: Vec<Vec<String>>, empty: &str) -> anyhow::Result<()> {
    if rows.is_empty() {
        return print_text(empty);
    }
    let mut builder = Builder::default();
    builder.push_record(headings.iter().copied());
    for row in rows {
        builder.push_record(row);
    }
    let mut table = builder.build();
    table.with(Style::blank());
    let lines: Vec<String> = table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
    print_text(&lines.join("\n"))
}

/// Shows on standard error, if that is a terminal and a person reads, that something goes on. To be cleared by the caller.
pub(super) fn spinner(form: Form, message: &'static str) -> ProgressBar {
    let bar = if form == Form::People { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar.set_message(message);
    bar.enable_steady_tick(TICK_EVERY);
    bar
}

/// A time span that ended now, in the largest fitting unit.
pub(super) fn ago(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Bytes in the largest fitting unit.
pub(super) fn bytes(count: u64) -> String {
    rfs_common::size::ByteSize::new(count).rounded()
}

/// "1 copy", "2 copies".
pub(super) fn counted(count: u64, what: &str) -> String {
    match (count, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        _ => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_span_is_told_in_its_unit() {
        assert_eq!(ago(1500), "1 s");
        assert_eq!(ago(2000), "2 s");
        assert_eq!(ago(120_000), "2 min");
        assert_eq!(ago(7_200_000), "2 h");
        assert_eq!(ago(3 * 86_400_000), "3 days");
    }
}
