//! Where the log of a mount in the background goes: it has no terminal, and must not be silent.
//!
//! The file of `-o log_file`; else the journal, over the socket that services' output goes to; else syslog, through
//! logger(1); else a file under /var/log. Whatever it is becomes the standard error of the process, so that the words of
//! a panic go there, too. For the journal JOURNAL_STREAM is set, by which the log knows to write what the journal reads.
//!
//! What always holds: a target that cannot be opened is never replaced by /dev/null.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{ExitStatus, Failure};

/// Where the journal takes the output of services.
const JOURNAL_SOCKET: &str = "/run/systemd/journal/stdout";

/// Where syslog listens.
const SYSLOG_SOCKET: &str = "/dev/log";

/// The last resort.
const FALLBACK_FILE: &str = "/var/log/mount.rfs.log";

/// The name of this program in the journal and in syslog.
const IDENTIFIER: &str = "mount.rfs";

/// An open log.
#[derive(Debug)]
pub(super) enum LogTarget {
    /// A file.
    File { file: File, path: PathBuf },
    /// The journal.
    Journal(UnixStream),
    /// Syslog.
    Syslog,
}

impl LogTarget {
    /// Finds a place for the log.
    pub(super) fn open(log_file: Option<&Path>) -> Result<LogTarget, Failure> {
        if let Some(path) = log_file {
            return open_file(path);
        }
        if let Ok(journal) = open_journal(Path::new(JOURNAL_SOCKET)) {
            return Ok(LogTarget::Journal(journal));
        }
        if Path::new(SYSLOG_SOCKET).exists() {
            return Ok(LogTarget::Syslog);
        }
        open_file(Path::new(FALLBACK_FILE))
    }

    /// Where to look for the log.
    pub(super) fn describe(&self) -> String {
        match self {
            LogTarget::File { path, .. } => path.display().to_string(),
            LogTarget::Journal(_) => format!("the journal (journalctl -t {IDENTIFIER})"),
            LogTarget::Syslog => "syslog".to_owned(),
        }
    }

    /// Makes it the standard error of this command.
    pub(super) fn attach(self, command: &mut Command) -> io::Result<()> {
        command.env_remove("JOURNAL_STREAM");
        match self {
            LogTarget::File { file, .. } => command.stderr(file),
            LogTarget::Journal(stream) => {
                let stat = rustix::fs::fstat(&stream)?;
                command.env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino)).stderr(OwnedFd::from(stream))
            }
            LogTarget::Syslog => command.stderr(start_logger()?),
        };
        Ok(())
    }
}

fn open_file(path: &Path) -> Result<LogTarget, Failure> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    let file = opened.map_err(|error| {
        let text = format!("cannot open the log file {}; choose another with -o log_file=FILE", path.display());
        Failure::with_source(ExitStatus::System, &text, &error)
    })?;
    Ok(LogTarget::File { file, path: path.to_owned() })
}

/// A stream of lines to the journal, as `sd_journal_stream_fd(3)` opens it: the identifier, no unit, the priority of lines
/// that have none (6, informational), and that lines begin with a priority; then three times that nothing is forwarded.
fn open_journal(socket: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.shutdown(Shutdown::Read)?;
    stream.write_all(format!("{IDENTIFIER}\n\n6\n1\n0\n0\n0\n").as_bytes())?;
    Ok(stream)
}

/// Starts logger(1), which ends when nobody can write to it any more.
fn start_logger() -> io::Result<OwnedFd> {
    let mut command = Command::new("logger");
    command
        .args(["-t", IDENTIFIER, "-p", "daemon.info"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut logger = command.spawn()?;
    let pipe = logger.stdin.take();
    pipe.map(OwnedFd::from).ok_or_else(|| io::Error::other("logger(1) has no standard input"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_file_is_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "before\n").unwrap();
        let target = LogTarget::open(Some(&path)).unwrap();
        assert_eq!(target.describe(), path.display().to_string());
        let mut command = Command::new("sh");
        command.args(["-c", "echo words >&2"]);
        target.attach(&mut command).unwrap();
        command.status().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\nwords\n");
        let failure = LogTarget::open(Some(&folder.path().join("none/log"))).unwrap_err();
        assert!(failure.text.contains("choose another with -o log_file"), "{}", failure.text);
    }

    #[test]
    fn the_journal_is_told_what_comes_and_the_process_knows_that_it_is_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("journal");
        let listener = UnixListener::bind(&socket).unwrap();
        let target = LogTarget::Journal(open_journal(&socket).unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", "echo \"<4>$JOURNAL_STREAM\" >&2; stat -L -c %d:%i /proc/self/fd/2 >&2"]);
        target.attach(&mut command).unwrap();
        command.status().unwrap();
        drop(command);
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..7], ["mount.rfs", "", "6", "1", "0", "0", "0"]);
        assert_eq!(lines[7].strip_prefix("<4>"), Some(lines[8]));
    }
}
