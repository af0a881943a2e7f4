//! Going to the background: a process of its own serves the mount, and the one that was called returns when it does.
//!
//! The program starts itself again instead of forking, since a fork needs `unsafe` and is only sound before there are
//! threads. The two talk over a pipe, the standard output of the second: lines `note TEXT` for the person who mounts, and
//! at last `ready` or `failed STATUS TEXT`. A pipe that ends without either is a process that died.
//!
//! What always holds: the first process says that the mount serves only if the second has said so; if the first is gone
//! when the second wants to say it, the second gives up the mount, since nobody would know of it.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::{ExitStatus, Failure};
use crate::daemon::log_target::LogTarget;

/// Set for the process in the background.
const BACKGROUND_VARIABLE: &str = "RFS_MOUNT_BACKGROUND";

/// Whether this process is the one in the background.
pub(super) fn is_background() -> bool {
    std::env::var_os(BACKGROUND_VARIABLE).is_some()
}

/// Starts this program again with these arguments (without its name), and waits until it serves or has failed.
pub(super) fn serve_in_background(arguments: &[OsString], log: LogTarget) -> Result<(), Failure> {
    let described = log.describe();
    let mut child = start(arguments, log).map_err(|error| {
        Failure::with_source(ExitStatus::System, "cannot start the process that serves the mount", &error)
    })?;
    let Some(output) = child.stdout.take() else {
        return Err(Failure::new(
            ExitStatus::System,
            "the process that serves the mount has no pipe to tell its state",
        ));
    };
    match read_reports(BufReader::new(output), super::say) {
        Some(outcome) => outcome,
        None => Err(died(&mut child, &described)),
    }
}

fn start(arguments: &[OsString], log: LogTarget) -> io::Result<Child> {
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    command.args(arguments).env(BACKGROUND_VARIABLE, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    log.attach(&mut command)?;
    command.spawn()
}

fn died(child: &mut Child, log: &str) -> Failure {
    let end = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
    let text = format!("the process that serves the mount ended before it did ({end}); its log is in {log}");
    Failure::new(ExitStatus::System, text)
}

/// Reads until the outcome is known; nothing if the pipe ends before.
fn read_reports(reports: impl BufRead, mut note: impl FnMut(&str)) -> Option<Result<(), Failure>> {
    for line in reports.lines() {
        let line = line.ok()?;
        if line == "ready" {
            return Some(Ok(()));
        } else if let Some(text) = line.strip_prefix("note ") {
            note(text);
        } else if let Some((status, text)) = line.strip_prefix("failed ").and_then(|rest| rest.split_once(' ')) {
            let status = status.parse().ok().and_then(ExitStatus::of_code).unwrap_or(ExitStatus::System);
            return Some(Err(Failure::new(status, text)));
        }
    }
    None
}

/// How the process that serves the mount tells its state.
#[derive(Debug)]
pub(super) enum Reporter {
    /// To the process that started it.
    Starter(io::Stdout),
    /// To nobody: it is in the foreground, and its log is read.
    Nobody,
}

impl Reporter {
    pub(super) fn of_this_process() -> Reporter {
        if is_background() { Reporter::Starter(io::stdout()) } else { Reporter::Nobody }
    }

    /// Something that the person who mounts should know.
    pub(super) fn note(&mut self, text: &str) {
        tracing::warn!("{text}");
        // If the starter is gone, `ready` will find out.
        let _gone = self.send(&format!("note {}", one_line(text)));
    }

    /// The mount serves. Fails if the starter is gone.
    pub(super) fn ready(&mut self) -> io::Result<()> {
        self.send("ready")
    }

    /// There will be no mount. Returns whether the starter was told.
    pub(super) fn failed(&mut self, failure: &Failure) -> bool {
        let line = format!("failed {} {}", failure.status.code(), one_line(&failure.text));
        matches!(self, Reporter::Starter(_)) && self.send(&line).is_ok()
    }

    fn send(&mut self, line: &str) -> io::Result<()> {
        match self {
            Reporter::Starter(pipe) => {
                let mut pipe = pipe.lock();
                writeln!(pipe, "{line}").and_then(|()| pipe.flush())
            }
            Reporter::Nobody => Ok(()),
        }
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reports: &str) -> (Option<Result<(), Failure>>, Vec<String>) {
        let mut notes = Vec::new();
        let outcome = read_reports(reports.as_bytes(), |note| notes.push(note.to_owned()));
        (outcome, notes)
    }

    #[test]
    fn the_outcome_is_what_was_reported() {
        let (outcome, notes) = read("note detached a dead mount\nready\n");
        assert!(outcome.unwrap().is_ok());
        assert_eq!(notes, ["detached a dead mount"]);
        let failure = read("failed 32 no master at m:1\n").0.unwrap().unwrap_err();
        assert_eq!((failure.status, failure.text.as_str()), (ExitStatus::MountFailed, "no master at m:1"));
        let failure = read("failed 77 odd\n").0.unwrap().unwrap_err();
        assert_eq!(failure.status, ExitStatus::System);
    }

    #[test]
    fn a_pipe_that_ends_is_no_success() {
        assert!(read("").0.is_none());
        assert!(read("note almost\nread").0.is_none());
    }

    #[test]
    fn a_report_is_one_line() {
        assert_eq!(one_line("first\n  second\n"), "first second");
    }
}
