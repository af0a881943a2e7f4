//! The end of a daemon: a signal asks for it, and threads and tasks learn of it through one [`Shutdown`] handle.
//!
//! The first SIGTERM or SIGINT requests the shutdown; a second one ends the process at once with the status a shell shows
//! for a process ended by that signal (143, 130). SIGHUP is ignored: daemons outlive terminals. SIGPIPE is ignored since
//! Rust's runtime does so before `main`, so a peer that is gone is an error of the write and not the end of the process.
//!
//! Signals are taken by one thread of their own, so neither the handle nor its waiters need an async runtime.
//!
//! What always holds: a shutdown once requested stays requested, and the first reason is kept.

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::background;

/// Why a shutdown was requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// SIGTERM, as service managers send it.
    Terminated,
    /// SIGINT, as Ctrl-C sends it.
    Interrupted,
    /// The program itself asked for it.
    Requested,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Reason::Terminated => "SIGTERM",
            Reason::Interrupted => "SIGINT",
            Reason::Requested => "a request of the program",
        })
    }
}

impl Reason {
    /// The exit status of a process that a second signal ends: 128 and the number of the signal.
    const fn exit_status(self) -> i32 {
        match self {
            Reason::Terminated => 128 + 15,
            Reason::Interrupted => 128 + 2,
            Reason::Requested => 0,
        }
    }
}

/// A handle to learn of a shutdown and to request one. Clones are of the same shutdown.
#[derive(Debug, Clone)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    reason: Mutex<Option<Reason>>,
    requested: Condvar,
    /// The same for tasks, which cannot wait for a condition variable.
    watched: watch::Sender<bool>,
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown::new()
    }
}

impl Shutdown {
    /// A shutdown that only [`Shutdown::request`] requests, for tests and for parts that end on their own.
    pub fn new() -> Shutdown {
        let shared = Shared { reason: Mutex::new(None), requested: Condvar::new(), watched: watch::Sender::new(false) };
        Shutdown { shared: Arc::new(shared) }
    }

    /// A shutdown that SIGTERM and SIGINT request. To be called once, before other threads are started.
    pub fn on_signals() -> io::Result<Shutdown> {
        let shutdown = Shutdown::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let signals = {
            let _inside = runtime.enter();
            Signals::listen()?
        };
        let handle = shutdown.clone();
        background::spawn("signals", move || runtime.block_on(signals.serve(&handle)))?;
        Ok(shutdown)
    }

    /// Requests the shutdown, if nobody has yet.
    pub fn request(&self) {
        self.request_because(Reason::Requested);
    }

    fn request_because(&self, reason: Reason) {
        let mut current = self.lock();
        if current.is_none() {
            *current = Some(reason);
            self.shared.requested.notify_all();
            self.shared.watched.send_replace(true);
        }
    }

    /// Whether the shutdown was requested.
    pub fn is_requested(&self) -> bool {
        self.lock().is_some()
    }

    /// Why the shutdown was requested, once it was.
    pub fn reason(&self) -> Option<Reason> {
        *self.lock()
    }

    /// Blocks the thread until the shutdown is requested.
    pub fn wait(&self) {
        let waiting = self.shared.requested.wait_while(self.lock(), |reason| reason.is_none());
        drop(waiting.unwrap_or_else(PoisonError::into_inner));
    }

    /// Blocks the thread until the shutdown is requested, but no longer than this; returns whether it was requested. So
    /// it serves a periodic worker as its sleep.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let waiting = self.shared.requested.wait_timeout_while(self.lock(), timeout, |reason| reason.is_none());
        waiting.unwrap_or_else(PoisonError::into_inner).0.is_some()
    }

    /// Is ready when the shutdown is requested; works in every runtime, and belongs in a `select!`.
    pub async fn requested(&self) {
        let mut watched = self.shared.watched.subscribe();
        // An error would mean that the sender is gone, but this handle keeps it.
        let _ = watched.wait_for(|requested| *requested).await;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Reason>> {
        self.shared.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Received and dropped, which is how it is ignored without unsafe code.
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn serve(mut self, shutdown: &Shutdown) {
        loop {
            let reason = tokio::select! {
                _ = self.terminate.recv() => Reason::Terminated,
                _ = self.interrupt.recv() => Reason::Interrupted,
                _ = self.hangup.recv() => continue,
            };
            if shutdown.is_requested() {
                tracing::warn!("{reason} came during the shutdown: ending at once");
                std::process::exit(reason.exit_status());
            }
            tracing::info!("{reason} received: shutting down; a second one ends the process at once");
            shutdown.request_because(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, ChildStdout, Command, Stdio};

    use rustix::process::{Pid, Signal as Number, kill_process};

    use super::*;

    #[test]
    fn threads_and_tasks_learn_of_a_request() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_requested());
        assert!(!shutdown.wait_timeout(Duration::from_millis(1)));
        let waiting = shutdown.clone();
        let thread = std::thread::spawn(move || waiting.wait());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let watching = shutdown.clone();
        let task = runtime.spawn(async move { watching.requested().await });
        shutdown.request();
        thread.join().unwrap();
        runtime.block_on(task).unwrap();
        runtime.block_on(shutdown.requested());
        assert!(shutdown.wait_timeout(Duration::MAX));
        assert_eq!(shutdown.reason(), Some(Reason::Requested));
    }

    const CHILD_VARIABLE: &str = "RFS_SHUTDOWN_TEST_CHILD";

    /// Not a test of its own: the process that the tests below start and send signals to.
    #[test]
    fn child_process() {
        if std::env::var_os(CHILD_VARIABLE).is_none() {
            return;
        }
        let shutdown = Shutdown::on_signals().unwrap();
        let mut output = std::io::stdout();
        writeln!(output, "\nready").unwrap();
        shutdown.wait();
        writeln!(output, "\nreason {:?}", shutdown.reason().unwrap()).unwrap();
        std::thread::sleep(Duration::from_secs(60));
    }

    fn start_child() -> (Child, BufReader<ChildStdout>) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "shutdown::tests::child_process", "--nocapture"])
            .env(CHILD_VARIABLE, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        read_until(&mut output, "ready");
        (child, output)
    }

    fn read_until(output: &mut impl BufRead, expected: &str) {
        let mut line = String::new();
        while line.trim() != expected {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the child ended before {expected:?}");
        }
    }

    fn send(child: &Child, number: Number) {
        kill_process(Pid::from_child(child), number).unwrap();
    }

    #[test]
    fn first_signal_requests_and_second_ends() {
        for (number, reason, status) in [(Number::TERM, "Terminated", 143), (Number::INT, "Interrupted", 130)] {
            let (mut child, mut output) = start_child();
            send(&child, Number::HUP);
            send(&child, Number::PIPE);
            send(&child, number);
            read_until(&mut output, &format!("reason {reason}"));
            send(&child, number);
            assert_eq!(child.wait().unwrap().code(), Some(status));
        }
    }
}
