//! One process of a cluster: started, signalled, waited for; and the log that it leaves.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rfs_common::clock::{Clock as _, SystemClock};
use rustix::process::{Pid, Signal, kill_process};

use crate::guardian::Guardian;
use crate::programs::program;

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// For anything that happens in well under a second on an idle machine.
pub const SOON: Duration = Duration::from_secs(30);

/// One process.
pub(crate) struct Daemon {
    pub(crate) name: String,
    program: &'static str,
    pub(crate) data: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) child: Option<Child>,
    /// Waits for a line to become the daemon.
    prepared: Option<Child>,
    place: Option<Place>,
}

/// Where a process runs that has a machine of its own.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The network namespace.
    pub(crate) network: PathBuf,
    /// The file that says by how many seconds its wall clock is wrong.
    pub(crate) clock: PathBuf,
}

impl Daemon {
    pub(crate) fn new(folder: &Path, name: &str, program: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            program,
            data: folder.join(name),
            log: folder.join("log").join(format!("{name}.log")),
            child: None,
            prepared: None,
            place: None,
        }
    }

    /// From its next start on it runs there.
    pub(crate) fn put_into(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// The command that becomes the program, without its arguments.
    fn command(&self) -> Command {
        let Some(place) = &self.place else { return Command::new(program(self.program)) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", place.network.display())).arg(program(self.program));
        command.env("RFS_TEST_CLOCK_OFFSET", &place.clock);
        command
    }

    pub(crate) fn start(&mut self, arguments: &[String], guardian: &Guardian) -> anyhow::Result<()> {
        if let Some(mut prepared) = self.prepared.take() {
            prepared.stdin.take().context("it reads a line")?.write_all(b"go\n")?;
            self.child = Some(prepared);
            return Ok(());
        }
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::null()).stdout(self.open_log()?);
        self.child = Some(self.spawn(command, guardian)?);
        Ok(())
    }

    /// Makes the process that the next start turns into the daemon, while the present one still runs.
    ///
    /// A new process has the test's open files until its exec closes them, and closing a file of a mount waits for the
    /// master: a test with such files open that starts the master afterwards would wait for itself.
    pub(crate) fn prepare(&mut self, arguments: &[String], guardian: &Guardian) -> anyhow::Result<()> {
        let mut command = Command::new("sh");
        command.args(["-c", "echo ready; read -r line && exec \"$0\" \"$@\" < /dev/null >&2"]);
        let daemon = self.command();
        command.arg(daemon.get_program()).args(daemon.get_args()).args(arguments);
        command.envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = self.spawn(command, guardian)?;
        // Its exec is over, and with it the closing, only when it says so: the spawning returns before.
        let said = child.stdout.as_mut().context("it writes a line")?.read(&mut [0; 8])?;
        ensure!(said > 0, "no process for the next start of {}", self.name);
        self.prepared = Some(child);
        Ok(())
    }

    fn spawn(&self, mut command: Command, guardian: &Guardian) -> anyhow::Result<Child> {
        command.current_dir("/").stderr(self.open_log()?);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.program))?;
        guardian.process(child.id());
        Ok(child)
    }

    fn open_log(&self) -> anyhow::Result<File> {
        Ok(OpenOptions::new().create(true).append(true).open(&self.log)?)
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub(crate) fn wait_until(
        &mut self,
        limit: Duration,
        what: &str,
        mut is_so: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let clock = SystemClock;
        let end = clock.monotonic() + limit;
        while !is_so() {
            if !self.runs() {
                bail!("{} ended before {what}:\n{}", self.name, end_of(&self.log, 25));
            }
            if clock.monotonic() >= end {
                bail!("{} runs, but not {what}:\n{}", self.name, end_of(&self.log, 25));
            }
            sleep(LOOK_EVERY);
        }
        Ok(())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.as_ref().and_then(|child| Pid::from_raw(child.id().cast_signed())) {
            let _ = kill_process(pid, signal);
        }
    }

    pub(crate) fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    pub(crate) fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait_for_end(SOON)
    }

    pub(crate) fn wait_for_end(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let clock = SystemClock;
        let end = clock.monotonic() + limit;
        loop {
            let Some(child) = self.child.as_mut() else { bail!("{} does not run", self.name) };
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            ensure!(clock.monotonic() < end, "{} does not end:\n{}", self.name, end_of(&self.log, 25));
            sleep(LOOK_EVERY);
        }
    }
}

/// The last lines of a log.
pub(crate) fn end_of(log: &Path, lines: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
