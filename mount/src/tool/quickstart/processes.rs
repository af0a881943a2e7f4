//! A daemon in the background: its pid file, its log, how it is started, told apart from a stranger, and ended.
//!
//! Process ids are used again, so `NAME.process` beside `NAME.pid` says when the process was started: the machine's boot and
//! the start time of /proc/PID/stat. Signals go through a pidfd, which stays with one process.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rfs_common::clock::{Monotonic, SharedClock, SystemClock};
use rfs_common::shutdown::Shutdown;
use rfs_common::{durable, trusted};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A daemon that does not end by itself within this time is killed: its data is safe by design, and `stop` says so.
const END_WITHIN: Duration = Duration::from_secs(30);
const LOG_TAIL_BYTES: u64 = 2048;
/// A pid file and what stands beside it are short.
const PID_FILE_BYTES_MAX: u64 = 256;

/// One daemon of a quickstart cluster.
#[derive(Debug, Clone)]
pub(super) struct Process {
    name: String,
    program: PathBuf,
    pid_file: PathBuf,
    identity_file: PathBuf,
    log_file: PathBuf,
    interrupt: Shutdown,
}

/// A process that runs: its id, and a descriptor that can mean no other one.
struct Running {
    pid: Pid,
    descriptor: OwnedFd,
}

impl Process {
    /// The process called `name` of the cluster in `dir`. Nothing is started, and nothing waited for, after `interrupt`.
    pub(super) fn new(dir: &Path, name: &str, program: PathBuf, interrupt: &Shutdown) -> Self {
        Self {
            name: name.to_owned(),
            program,
            pid_file: dir.join("run").join(format!("{name}.pid")),
            identity_file: dir.join("run").join(format!("{name}.process")),
            log_file: dir.join("log").join(format!("{name}.log")),
            interrupt: interrupt.clone(),
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

    /// Whether it runs. A pid file whose number belongs to another process now is stale.
    pub(super) fn runs(&self) -> bool {
        self.running().is_some()
    }

    fn running(&self) -> Option<Running> {
        let pid = Pid::from_raw(read_short(&self.pid_file)?.trim().parse().ok()?)?;
        // Before the look at it: if the number changes hands in between, the descriptor means one that is gone.
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        self.is_ours(pid).then_some(Running { pid, descriptor })
    }

    /// Whether that process is the one that was started here. A zombie does not run.
    fn is_ours(&self, pid: Pid) -> bool {
        let Some(identity) = identity_of(pid) else { return false };
        match read_short(&self.identity_file) {
            Some(remembered) => remembered.trim() == identity,
            None => self.is_our_program(pid),
        }
    }

    /// For a cluster that an older version started: what runs is at least our program.
    fn is_our_program(&self, pid: Pid) -> bool {
        let Ok(program) = fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())) else { return false };
        self.program.canonicalize().is_ok_and(|own| own == program)
    }

    /// Starts it in the background, in a process group of its own, with its output going to its log.
    pub(super) fn start(&self, arguments: &[String]) -> anyhow::Result<Started> {
        self.go_on()?;
        let log = trusted::open_to_append(&self.log_file)?;
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
        let identity = Pid::from_raw(child.id().cast_signed()).and_then(identity_of).unwrap_or_default();
        durable::write_atomically(&self.identity_file, format!("{identity}\n").as_bytes())?;
        durable::write_atomically(&self.pid_file, format!("{}\n", child.id()).as_bytes())?;
        Ok(Started { process: self.clone(), child, log_start })
    }

    fn go_on(&self) -> anyhow::Result<()> {
        match self.interrupt.reason() {
            None => Ok(()),
            Some(reason) => bail!("interrupted by {reason} before {} was ready", self.name),
        }
    }

    /// Runs it to its end, as for `init`; its words come back if it fails.
    pub(super) fn run(&self, arguments: &[String]) -> anyhow::Result<()> {
        self.go_on()?;
        let output = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::null())
            // Ctrl-C is for this program, which ends when the other has finished what it makes.
            .process_group(0)
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Ends it with SIGTERM and waits; kills it if it does not end. Whether it ran.
    pub(super) fn end(&self) -> anyhow::Result<Ended> {
        let Some(Running { pid, descriptor }) = self.running() else {
            self.forget();
            return Ok(Ended::DidNotRun);
        };
        let signal = |signal| match pidfd_send_signal(&descriptor, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => other,
        };
        signal(Signal::TERM).with_context(|| format!("cannot end {} (process {})", self.name, pid.as_raw_nonzero()))?;
        let outcome = if self.wait_for_end(pid, END_WITHIN) {
            Ended::Cleanly
        } else {
            signal(Signal::KILL).with_context(|| format!("cannot kill {}", self.name))?;
            self.wait_for_end(pid, END_WITHIN);
            Ended::Killed
        };
        self.forget();
        Ok(outcome)
    }

    /// Waits until it has ended by itself, but not for long.
    pub(super) fn let_end(&self, limit: Duration) {
        if let Some(Running { pid, .. }) = self.running() {
            self.wait_for_end(pid, limit);
        }
    }

    fn forget(&self) {
        let _ = fs::remove_file(&self.pid_file);
        let _ = fs::remove_file(&self.identity_file);
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
            self.process.go_on()?;
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

/// The boot of this machine, and when the process was started in it: no two processes have both and the same id. Nothing
/// if it does not run.
fn identity_of(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name in parentheses may have spaces and parentheses in it; state is field 3, the start time field 22.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let (state, started) = (fields.first()?, fields.get(19)?);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    (!matches!(*state, "Z" | "X")).then(|| format!("{} {started}", boot.trim()))
}

fn read_short(path: &Path) -> Option<String> {
    let mut text = String::new();
    trusted::open_to_read(path).ok()?.take(PID_FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Process) {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("run")).expect("run");
        fs::create_dir(folder.path().join("log")).expect("log");
        let process = Process::new(folder.path(), "sleeper", "/bin/sleep".into(), &Shutdown::new());
        (folder, process)
    }

    #[test]
    fn a_process_of_the_same_program_with_a_reused_id_is_left_alone() {
        let (_folder, process) = place();
        let mut started = process.start(&["60".to_owned()]).expect("started");
        assert!(process.runs());
        // Starts are told apart by the kernel's ticks.
        std::thread::sleep(Duration::from_millis(50));
        let mut stranger = Command::new("/bin/sleep").arg("60").spawn().expect("a stranger");
        fs::write(&process.pid_file, stranger.id().to_string()).expect("as if the number were used again");
        assert!(!process.runs());
        assert_eq!(process.end().expect("nothing to end"), Ended::DidNotRun);
        assert_eq!(stranger.try_wait().expect("looked at"), None, "the stranger lives");
        stranger.kill().and_then(|()| stranger.wait()).expect("ended");
        started.child.kill().and_then(|()| started.child.wait()).expect("ended");
    }

    #[test]
    fn what_was_started_is_ended() {
        let (_folder, process) = place();
        let mut started = process.start(&["60".to_owned()]).expect("started");
        assert_eq!(fs::read_to_string(&process.pid_file).expect("read"), format!("{}\n", started.child.id()));
        assert_eq!(process.end().expect("ended"), Ended::Cleanly);
        assert!(!process.runs() && !process.identity_file.exists());
        started.child.wait().expect("reaped");
    }

    #[test]
    fn nothing_is_started_after_an_interrupt() {
        let (_folder, process) = place();
        process.interrupt.request();
        assert!(process.start(&["60".to_owned()]).is_err());
        assert!(!process.pid_file.exists());
    }
}
