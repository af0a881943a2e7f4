//! A daemon in the background: its pid file, its log, how it is started, told apart from a stranger, and ended.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rfs_common::clock::{Monotonic, SharedClock, SystemClock};
use rfs_common::durable;
use rustix::process::{Pid, Signal, kill_process};

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A daemon that does not end by itself within this time is killed: its data is safe by design, and `stop` says so.
const END_WITHIN: Duration = Duration::from_secs(30);
const LOG_TAIL_BYTES: u64 = 2048;

/// One daemon of a quickstart cluster.
#[derive(Debug, Clone)]
pub(super) struct Process {
    name: String,
    program: PathBuf,
    pid_file: PathBuf,
    log_file: PathBuf,
}

impl Process {
    /// The process called `name` of the cluster in `dir`.
    pub(super) fn new(dir: &Path, name: &str, program: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            program,
            pid_file: dir.join("run").join(format!("{name}.pid")),
            log_file: dir.join("log").join(format!("{name}.log")),
        }
    }

    /// For people.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its log.
    pub(super) fn log_file(&self) -> &Path {
        &self.log_file
    }

    /// The process id if it runs. A pid file whose number belongs to another program now is stale.
    pub(super) fn running(&self) -> Option<Pid> {
        let text = fs::read_to_string(&self.pid_file).ok()?;
        let pid = Pid::from_raw(text.trim().parse().ok()?)?;
        self.is_ours(pid).then_some(pid)
    }

    /// Whether that process runs our program. A zombie does not run.
    fn is_ours(&self, pid: Pid) -> bool {
        let raw = pid.as_raw_nonzero();
        let Ok(stat) = fs::read_to_string(format!("/proc/{raw}/stat")) else { return false };
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        let command = fs::read(format!("/proc/{raw}/cmdline")).unwrap_or_default();
        let first = command.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = Path::new(std::ffi::OsStr::new(std::str::from_utf8(first).unwrap_or_default())).file_name();
        state != Some('Z') && name.is_some() && name == self.program.file_name()
    }

    /// Starts it in the background, in a process group of its own, with its output going to its log.
    pub(super) fn start(&self, arguments: &[String]) -> anyhow::Result<Started> {
        let log = open_log(&self.log_file)?;
        let log_start = log.metadata().map(|metadata| metadata.len()).unwrap_or(0);
        let second = log.try_clone().context("cannot share the log")?;
        let child = Command::new(&self.program)
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(second)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        durable::write_atomically(&self.pid_file, format!("{}\n", child.id()).as_bytes())?;
        Ok(Started { process: self.clone(), child, log_start })
    }

    /// Runs it to its end, as for `init`; its words come back if it fails.
    pub(super) fn run(&self, arguments: &[String]) -> anyhow::Result<()> {
        let output = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Ends it with SIGTERM and waits; kills it if it does not end. Whether it ran.
    pub(super) fn end(&self) -> anyhow::Result<Ended> {
        let Some(pid) = self.running() else {
            let _ = fs::remove_file(&self.pid_file);
            return Ok(Ended::DidNotRun);
        };
        kill_process(pid, Signal::TERM)
            .with_context(|| format!("cannot end {} (process {})", self.name, pid.as_raw_nonzero()))?;
        let outcome = if self.wait_for_end(pid, END_WITHIN) {
            Ended::Cleanly
        } else {
            kill_process(pid, Signal::KILL).with_context(|| format!("cannot kill {}", self.name))?;
            self.wait_for_end(pid, END_WITHIN);
            Ended::Killed
        };
        let _ = fs::remove_file(&self.pid_file);
        Ok(outcome)
    }

    fn wait_for_end(&self, pid: Pid, limit: Duration) -> bool {
        let wait = Wait::new(limit);
        while self.is_ours(pid) {
            if !wait.again() {
                return false;
            }
        }
        true
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself.
    Cleanly,
    /// It had to be killed.
    Killed,
    /// There was nothing to end.
    DidNotRun,
}

/// A process that was started just now.
pub(super) struct Started {
    process: Process,
    child: std::process::Child,
    log_start: u64,
}

impl Started {
    /// Waits until `ready` says so. A process that ends before, or takes too long, is an error with the end of its log.
    pub(super) fn wait_until(
        &mut self,
        limit: Duration,
        what: &str,
        mut ready: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let wait = Wait::new(limit);
        loop {
            if let Some(status) = self.child.try_wait().context("cannot look after a process")? {
                bail!("{} ended ({status}) before {what}. The end of its log:\n{}", self.process.name, self.log_tail());
            }
            if ready() {
                return Ok(());
            }
            if !wait.again() {
                bail!(
                    "{} runs, but {what} did not happen within {} s. The end of its log ({}):\n{}",
                    self.process.name,
                    limit.as_secs(),
                    self.process.log_file.display(),
                    self.log_tail()
                );
            }
        }
    }

    fn log_tail(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.process.log_file)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(self.log_start.max(end.saturating_sub(LOG_TAIL_BYTES))))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
        };
        read().unwrap_or_else(|error| format!("(unreadable: {error})"))
    }
}

/// A loop that looks every few milliseconds until its time is over.
pub(super) struct Wait {
    clock: SharedClock,
    end: Monotonic,
}

impl Wait {
    /// Begins now.
    pub(super) fn new(limit: Duration) -> Self {
        let clock = SystemClock::shared();
        let end = clock.monotonic() + limit;
        Self { clock, end }
    }

    /// Sleeps a moment; false once the time is over.
    pub(super) fn again(&self) -> bool {
        sleep(LOOK_EVERY);
        self.clock.monotonic() < self.end
    }
}

fn open_log(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open the log {}", path.display()))
}
