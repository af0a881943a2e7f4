//! Where the log goes, how it looks, and that a panic is in it.
//!
//! Everything is logged with `tracing`. A daemon flattens [`LogArguments`] into its command line and calls [`init`] once,
//! before it starts threads. Without a file the log goes to stderr: under systemd (whose JOURNAL_STREAM names stderr) lines
//! carry no time and no colour, which the journal adds, but the priority prefix `<6>` that it understands; see
//! `sd-daemon(3)`. A log file is opened for appending once, so rotate it with `copytruncate`.
//!
//! What always holds after [`init`]: a panic is logged with its place before the process ends.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

/// The command line's part about logging, to be flattened into a daemon's arguments.
#[derive(Debug, Clone, Args)]
pub struct LogArguments {
    /// What to log: error, warn, info, debug or trace, and other levels for parts of the program after commas, such as
    /// "info,rfs_master=debug"
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "RFS_LOG_LEVEL", global = true)]
    pub log_level: String,

    /// How lines look
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text", env = "RFS_LOG_FORMAT", global = true)]
    pub log_format: LogFormat,

    /// Append the log to this file instead of writing it to stderr
    #[arg(long, value_name = "FILE", env = "RFS_LOG_FILE", global = true)]
    pub log_file: Option<PathBuf>,
}

impl Default for LogArguments {
    fn default() -> LogArguments {
        LogArguments { log_level: "info".to_owned(), log_format: LogFormat::Text, log_file: None }
    }
}

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, for programs.
    Json,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level cannot be read.
    #[error(
        "{level:?} is not a log level; write error, warn, info, debug or trace, or for a part such as info,rfs_master=debug"
    )]
    BadLevel {
        /// What was written.
        level: String,
        /// What is wrong with it, if the filter itself does not take it.
        source: Option<tracing_subscriber::filter::ParseError>,
    },
    /// The file cannot be opened.
    #[error("cannot open the log file {path}; check that its folder exists and may be written", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `init` was called a second time.
    #[error("logging was set up twice, which is a mistake in this program; please report it")]
    Twice,
}

/// Starts logging for the whole process and has panics logged.
pub fn init(arguments: &LogArguments) -> Result<(), LoggingError> {
    let filter = parse_level(&arguments.log_level)?;
    let dispatch = match &arguments.log_file {
        Some(path) => dispatch_to(open_log(path)?, filter, arguments.log_format, Line::Plain),
        None => dispatch_to(io::stderr, filter, arguments.log_format, line_of_stderr()),
    };
    tracing::dispatcher::set_global_default(dispatch).map_err(|_| LoggingError::Twice)?;
    log_panics(arguments.log_file.is_some());
    Ok(())
}

fn parse_level(level: &str) -> Result<Targets, LoggingError> {
    let bad = |source| LoggingError::BadLevel { level: level.to_owned(), source };
    // The filter would take any word for a part of the program of which everything is logged, and log nothing else.
    let is_level = |part: &str| part.contains('=') || part.trim().parse::<LevelFilter>().is_ok();
    if !level.split(',').all(is_level) {
        return Err(bad(None));
    }
    level.parse::<Targets>().map_err(|source| bad(Some(source)))
}

fn open_log(path: &Path) -> Result<File, LoggingError> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.map_err(|source| LoggingError::File { path: path.to_owned(), source })
}

/// What surrounds the words of a line of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// With the time.
    Plain,
    /// With the time, and colours for a terminal.
    Coloured,
    /// With the journal's priority.
    Journal,
}

fn line_of_stderr() -> Line {
    let stderr = io::stderr();
    if std::env::var("JOURNAL_STREAM").is_ok_and(|stream| is_journal(&stream)) {
        Line::Journal
    } else if stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        Line::Coloured
    } else {
        Line::Plain
    }
}

/// Whether stderr is the journal's stream, given as "device:inode". The variable is inherited by processes whose stderr
/// is something else, so having it is not enough.
fn is_journal(stream: &str) -> bool {
    rustix::fs::fstat(io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

fn dispatch_to<W>(writer: W, filter: Targets, format: LogFormat, line: Line) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    match (format, line) {
        (LogFormat::Json, _) => registry.with(lines.json().flatten_event(true)).into(),
        (LogFormat::Text, Line::Plain) => registry.with(lines.with_ansi(false)).into(),
        (LogFormat::Text, Line::Coloured) => registry.with(lines.with_ansi(true)).into(),
        (LogFormat::Text, Line::Journal) => {
            let inner = Format::default().without_time().with_level(false).with_ansi(false);
            registry.with(lines.with_ansi(false).event_format(JournalFormat { inner })).into()
        }
    }
}

/// Lines as the journal wants them: the priority in angle brackets, then the words.
struct JournalFormat {
    inner: Format<Full, ()>,
}

impl<S, N> FormatEvent<S, N> for JournalFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "<{}>", journal_priority(*event.metadata().level()))?;
        self.inner.format_event(context, writer, event)
    }
}

/// The priority of syslog for a level.
fn journal_priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Has panics logged. If the log is in a file, stderr shows them too, as it would without a log.
fn log_panics(also_to_stderr: bool) {
    let standard_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        log_panic(panic);
        if also_to_stderr {
            standard_hook(panic);
        }
    }));
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let message =
        payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("a panic without a message");
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let thread = std::thread::current();
    let backtrace = std::backtrace::Backtrace::capture();
    let name = thread.name().unwrap_or("without a name");
    tracing::error!(place, thread = name, "this is a mistake in this program, please report it: {message}");
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        tracing::error!("backtrace:\n{backtrace}");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::Command;
    use std::sync::{Arc, Mutex, PoisonError};

    use clap::Parser;

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: LogFormat, line: Line) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let dispatch = dispatch_to(move || writer.clone(), parse_level(level).unwrap(), format, line);
        tracing::dispatcher::with_default(&dispatch, || {
            let _span = tracing::info_span!("request", session = 7).entered();
            tracing::warn!(volume = 3, "slow");
            tracing::debug!("detail");
        });
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn lines_look_as_documented() {
        let text = logged("info", LogFormat::Text, Line::Journal);
        assert_eq!(text, "<4>request{session=7}: rfs_common::logging::tests: slow volume=3\n");
        let text = logged("debug", LogFormat::Text, Line::Plain);
        assert!(text.contains("Z  WARN request{session=7}: ") && text.contains(" DEBUG "), "{text}");
        assert!(logged("info", LogFormat::Text, Line::Coloured).contains("\x1b["));
        let text = logged("info", LogFormat::Json, Line::Journal);
        assert!(text.starts_with('{') && text.contains("\"message\":\"slow\",\"volume\":3"), "{text}");
        assert_eq!(logged("error", LogFormat::Text, Line::Plain), "");
    }

    #[test]
    fn mistakes_are_explained() {
        assert!(parse_level("info,rfs=debug").is_ok() && parse_level("off").is_ok());
        assert!(parse_level("noisy").is_err(), "it would silence everything else");
        let message = parse_level("rfs=loud").unwrap_err().to_string();
        assert!(message.starts_with("\"rfs=loud\" is not a log level; write error"), "{message}");
        let message = open_log(Path::new("/nonexistent/log")).unwrap_err().to_string();
        assert!(message.contains("check that its folder exists"), "{message}");
    }

    #[test]
    fn the_journal_is_recognised_by_its_stream() {
        let stat = rustix::fs::fstat(io::stderr()).unwrap();
        assert!(is_journal(&format!("{}:{}", stat.st_dev, stat.st_ino)));
        assert!(!is_journal("0:0"));
    }

    #[test]
    fn arguments_have_the_documented_defaults() {
        #[derive(Parser)]
        struct Daemon {
            #[command(flatten)]
            log: LogArguments,
        }
        let daemon = Daemon::parse_from(["daemon", "--log-format", "json", "--log-file", "/tmp/log"]);
        assert_eq!((daemon.log.log_level.as_str(), daemon.log.log_format), ("info", LogFormat::Json));
        assert_eq!(daemon.log.log_file.as_deref(), Some(Path::new("/tmp/log")));
    }

    const CHILD_VARIABLE: &str = "RFS_LOGGING_TEST_FILE";

    /// Not a test of its own: the process whose panic the next test looks for.
    #[test]
    fn child_process() {
        let Some(path) = std::env::var_os(CHILD_VARIABLE) else { return };
        init(&LogArguments { log_file: Some(path.into()), ..LogArguments::default() }).unwrap();
        assert!(matches!(init(&LogArguments::default()), Err(LoggingError::Twice)));
        tracing::info!("before");
        panic!("a test's panic");
    }

    #[test]
    fn a_panic_is_logged_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "logging::tests::child_process", "--nocapture"])
            .env(CHILD_VARIABLE, &path)
            .output()
            .unwrap();
        assert!(!output.status.success());
        let log = std::fs::read_to_string(&path).unwrap();
        assert!(log.contains("INFO rfs_common::logging::tests: before\n"), "{log}");
        assert!(log.contains("please report it: a test's panic place=\"common/src/logging.rs:"), "{log}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("a test's panic"));
    }
}
