//! The life of a mount: from the command line over the background to a clean end.
//!
//! Order at the start: arguments, log, mount point, **master**, and only then the mount, so that a master that is away or
//! a wrong cluster leaves nothing behind. Order at the end, whatever asked for it (SIGTERM, SIGINT, umount(8)): the mount
//! leaves the tree, lazily if it is in use; the client brings to the chunkservers and the master what it still has; the
//! session ends.
//!
//! What always holds: the end takes at most [`END_PATIENCE`] and a little, also when the master is dead, and says what may be lost.

mod closer;
mod handshake;
mod log_target;
mod remount;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rfs_common::background;
use rfs_common::clock::{Monotonic, SharedClock, SystemClock};
use rfs_common::logging::{self, LogArguments};
use rfs_common::shutdown::{Reason, Shutdown};
use rfs_common::size::ByteSize;
use rustix::mount::{UnmountFlags, unmount};

use crate::client::{Client, KernelCaches};
use crate::data::DataSettings;
use crate::fuse::{self, Adapter, Connection};
use crate::kernel::{self, KernelNotifier};
use crate::mountpoint::{self, Content, DeviceNumber};
use crate::options::{MountOptions, MountRequest, UsageError};
use crate::session::{Session, SessionOptions};
use crate::standing::Teller;
use handshake::Reporter;
use log_target::LogTarget;

/// How long the end of a mount may take when the master or chunkservers do not answer.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// The part of it for leaving the tree, which waits for pages that applications changed in mapped files.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(4);

/// What the system itself may add to the end.
const END_MARGIN: Duration = Duration::from_secs(2);

/// The statuses of mount(8) that a helper uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// Mounted; or, of the process that served it, ended cleanly.
    Success,
    /// The command line is wrong.
    Usage,
    /// This system lacks something or failed.
    System,
    /// There is no mount.
    MountFailed,
}

impl ExitStatus {
    /// The number, as mount(8) documents it.
    pub const fn code(self) -> i32 {
        match self {
            ExitStatus::Success => 0,
            ExitStatus::Usage => 1,
            ExitStatus::System => 2,
            ExitStatus::MountFailed => 32,
        }
    }

    fn of_code(code: i32) -> Option<ExitStatus> {
        let all = [ExitStatus::Success, ExitStatus::Usage, ExitStatus::System, ExitStatus::MountFailed];
        all.into_iter().find(|status| status.code() == code)
    }
}

/// Why there is no mount, in words for the person who wanted one.
#[derive(Debug)]
struct Failure {
    status: ExitStatus,
    text: String,
}

impl Failure {
    fn new(status: ExitStatus, text: impl Into<String>) -> Failure {
        Failure { status, text: text.into() }
    }

    fn with_source(status: ExitStatus, text: &str, source: &dyn std::error::Error) -> Failure {
        Failure::new(status, format!("{text}: {}", chain(source)))
    }
}

/// An error and what is behind it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// Says something to the person who mounts.
fn say(text: &str) {
    // There is nobody else to tell if stderr is closed.
    let _closed = writeln!(io::stderr(), "mount.rfs: {text}");
}

/// The whole program: what `main` does with these arguments, the program's name included. Returns the exit status.
pub fn run(arguments: &[OsString]) -> ExitStatus {
    if let Some(process) = closer::watched_process() {
        return closer::watch(process);
    }
    let request = match MountRequest::parse(arguments) {
        Ok(request) => request,
        Err(error) => return refuse(&error),
    };
    if request.options.remount {
        return match remount::remount(&request) {
            Ok(()) => ExitStatus::Success,
            Err(failure) => {
                say(&failure.text);
                failure.status
            }
        };
    }
    if request.foreground || handshake::is_background() {
        return serve_and_report(&request);
    }
    let own_arguments = arguments.get(1..).unwrap_or_default();
    let served = LogTarget::open(request.options.log_file.as_deref())
        .and_then(|log| handshake::serve_in_background(own_arguments, log));
    match served {
        Ok(()) => ExitStatus::Success,
        Err(failure) => {
            say(&failure.text);
            failure.status
        }
    }
}

fn refuse(error: &UsageError) -> ExitStatus {
    match error {
        UsageError::CommandLine(error) => {
            let _closed = error.print();
            if error.use_stderr() { ExitStatus::Usage } else { ExitStatus::Success }
        }
        error => {
            say(&chain(error));
            ExitStatus::Usage
        }
    }
}

/// Serves the mount in this process until it ends.
fn serve_and_report(request: &MountRequest) -> ExitStatus {
    let mut reporter = Reporter::of_this_process();
    match serve(request, &mut reporter) {
        Ok(status) => status,
        Err(failure) => {
            if reporter.failed(&failure) {
                tracing::error!("{}", failure.text);
            } else {
                say(&failure.text);
            }
            failure.status
        }
    }
}

fn serve(request: &MountRequest, reporter: &mut Reporter) -> Result<ExitStatus, Failure> {
    start_log(request)?;
    let system = |text: &str, error: &dyn std::error::Error| Failure::with_source(ExitStatus::System, text, error);
    let shutdown = Shutdown::on_signals().map_err(|error| system("cannot take signals", &error))?;
    let content = if request.options.nonempty { Content::MayBeHidden } else { Content::MustBeEmpty };
    let folder = mountpoint::prepare(&request.mount_point, content, |text| reporter.note(text))
        .map_err(|error| Failure::new(ExitStatus::MountFailed, chain(&error)))?;
    if handshake::is_background() {
        leave_the_terminal();
    }
    let clock = SystemClock::shared();
    let kernel = Arc::new(KernelNotifier::default());
    let client = connect(request, &folder, &kernel, &clock)?;
    let mount = Mount::start(request, &folder, &client, &kernel, &shutdown, &clock).inspect_err(|_| {
        client.shut_down(END_PATIENCE);
    })?;
    tracing::info!(source = request.source_name(), folder = %folder.display(), "mounted");
    if let Err(error) = reporter.ready() {
        tracing::error!(%error, "nobody waits for this mount any more; unmounting");
        shutdown.request();
    }
    shutdown.wait();
    Ok(mount.end(&client, shutdown.reason(), &clock))
}

fn start_log(request: &MountRequest) -> Result<(), Failure> {
    // In the background stderr is the log already.
    let log_file = request.options.log_file.clone().filter(|_| !handshake::is_background());
    let arguments =
        LogArguments { log_level: request.options.log_level.clone(), log_format: request.options.log_format, log_file };
    logging::init(&arguments).map_err(|error| Failure::new(ExitStatus::Usage, chain(&error)))
}

/// A process in the background has no terminal that could send it signals, and keeps no folder busy.
fn leave_the_terminal() {
    if let Err(error) = rustix::process::setsid() {
        tracing::debug!(%error, "this process leads a session already");
    }
    if let Err(error) = std::env::set_current_dir("/") {
        tracing::warn!(%error, "cannot leave the present folder, whose file system therefore stays busy");
    }
}

/// Begins the session with the master, and the client that works in it.
fn connect(
    request: &MountRequest,
    folder: &Path,
    kernel: &Arc<KernelNotifier>,
    clock: &SharedClock,
) -> Result<Arc<Client>, Failure> {
    let options = SessionOptions {
        cluster: request.options.cluster,
        subdirectory: request.source.subdirectory.clone().unwrap_or_default().into_bytes(),
        host: host_name(),
        mount_point: folder.display().to_string(),
        read_only: request.options.read_only,
        connect_timeout: request.options.connect_timeout,
        master_timeout: request.options.master_timeout,
        local: request.options.local,
        ..SessionOptions::new(request.source.master.clone(), Arc::clone(clock))
    };
    let session = Session::connect(options).map_err(|error| {
        Failure::with_source(ExitStatus::MountFailed, &format!("cannot mount {}", request.source), &error)
    })?;
    let caches: Arc<dyn KernelCaches> = Arc::<KernelNotifier>::clone(kernel);
    let (settings, accesses) = (data_settings(&request.options), request.options.accesses());
    let client = Client::start(session, settings, accesses, caches, Arc::clone(clock));
    client
        .map(Arc::new)
        .map_err(|error| Failure::with_source(ExitStatus::System, "cannot start the client's threads", &error))
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The data path's limits as the options set them.
fn data_settings(options: &MountOptions) -> DataSettings {
    let bytes = |size: ByteSize| usize::try_from(size.get()).unwrap_or(usize::MAX);
    DataSettings {
        from: host_name(),
        dirty_bytes_max: bytes(options.write_cache),
        // One file must not stop the writers of all others.
        dirty_bytes_per_file_max: bytes(options.write_cache) / 2,
        cache_bytes_max: bytes(options.read_cache),
        read_ahead_bytes_max: options.read_ahead.get(),
        local: options.local,
        read_give_up: options.chunk_timeout,
        write_give_up: options.chunk_timeout,
        ..DataSettings::default()
    }
}

/// A mount that is served.
struct Mount {
    folder: PathBuf,
    device: Option<DeviceNumber>,
    unmounter: fuser::SessionUnmounter,
    serving: JoinHandle<()>,
    connection: Connection,
}

impl Mount {
    /// Mounts, and starts the threads that serve. When the mount ends, they request the shutdown.
    fn start(
        request: &MountRequest,
        folder: &Path,
        client: &Arc<Client>,
        kernel: &Arc<KernelNotifier>,
        shutdown: &Shutdown,
        clock: &SharedClock,
    ) -> Result<Mount, Failure> {
        let connection = Connection::new(shutdown.clone());
        let (of_adapter, of_clock) = (connection.clone(), Arc::clone(clock));
        let adapter = Adapter::new(Arc::clone(client), Arc::clone(kernel), &request.options, of_adapter, of_clock);
        let teller = Teller::new(Arc::clone(client), adapter.work(), Arc::clone(clock));
        let as_root = rustix::process::geteuid().is_root();
        let config = fuse::session_config(&request.options, &request.source_name(), as_root);
        let mut session =
            fuser::Session::new(adapter, folder, &config).map_err(|error| mount_failure(folder, &error))?;
        let device = device_of(folder);
        kernel.connect(session.notifier(), client.root(), device);
        match device {
            Some(device) => {
                kernel::tune(device, request.options.kernel_read_ahead);
                start_closer(device);
                if let Err(error) = teller.start(device) {
                    tracing::warn!(%error, "`rfs mounts` cannot ask this mount what it does");
                }
            }
            None => tracing::warn!("the mount is not in the mount table, so it is not tuned"),
        }
        let unmounter = session.unmount_callable();
        let ended = shutdown.clone();
        let serve = move || {
            if let Err(error) = session.run() {
                tracing::error!(%error, "the connection to the kernel broke; the mount ends");
            }
            ended.request();
        };
        let serving = background::spawn("fuse", serve)
            .map_err(|error| Failure::with_source(ExitStatus::System, "cannot start the FUSE threads", &error))?;
        Ok(Mount { folder: folder.to_owned(), device, unmounter, serving, connection })
    }

    /// Takes the mount out of the tree, writes what is left, ends the session.
    fn end(self, client: &Arc<Client>, reason: Option<Reason>, clock: &SharedClock) -> ExitStatus {
        let deadline = clock.monotonic() + END_PATIENCE;
        let signalled = !self.connection.is_closed();
        let words = if signalled { "unmounting" } else { "unmounted" };
        tracing::info!(folder = %self.folder.display(), reason = reason.map(tracing::field::display), "{words}");
        if signalled && !self.leave_the_tree(clock) {
            tracing::warn!("the mount has not left the tree yet; programs that use it will get errors");
        }
        let client = Arc::clone(client);
        let patience = remaining(deadline, clock);
        let returned = within(patience + END_MARGIN, move || client.shut_down(patience)).is_some();
        // The client gives up when its time is over.
        if returned && clock.monotonic() < deadline {
            tracing::info!("the session has ended");
            return ExitStatus::Success;
        }
        tracing::error!(
            "the master or chunkservers did not answer for {END_PATIENCE:?} while this mount ended: what was written \
             but not followed by a successful fsync or close may be LOST"
        );
        ExitStatus::System
    }

    /// Unmounts, lazily if the mount is in use. Returns whether nobody can use it any more.
    fn leave_the_tree(self, clock: &SharedClock) -> bool {
        let deadline = clock.monotonic() + UNMOUNT_PATIENCE;
        let Mount { folder, device, mut unmounter, serving, connection: _ } = self;
        let unmounted = within(UNMOUNT_PATIENCE, move || {
            let unmounted = unmounter.unmount();
            unmounted.or_else(|error| {
                tracing::warn!(%error, "the mount is in use; detaching it");
                detach(&folder, device)
            })
        });
        if let Some(Err(error)) = unmounted {
            tracing::error!(%error, "cannot unmount");
        }
        within(remaining(deadline, clock), move || serving.join()).is_some()
    }
}

fn remaining(deadline: Monotonic, clock: &SharedClock) -> Duration {
    clock.monotonic().until(deadline)
}

/// Does the work in a thread of its own, and gives its result if it comes in time. If not, the thread is left alone; the
/// process is about to end.
fn within<T: Send + 'static>(patience: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = mpsc::sync_channel(1);
    let started = background::spawn("end", move || {
        // Nobody receives it if it comes too late.
        let _late = done.send(work());
    });
    started.ok()?;
    result.recv_timeout(patience).ok()
}

/// Without a closer the mount works; only its death may not be clean.
fn start_closer(device: DeviceNumber) {
    if let Err(error) = closer::start(device) {
        tracing::warn!(
            %error,
            "nothing closes the kernel's connection if this process is killed while the kernel waits for it; programs \
             could then hang until `echo 1 > /sys/fs/fuse/connections/{}/abort`", device.minor
        );
    }
}

/// Takes our own mount, and no other that may lie on it by now, out of the tree.
fn detach(folder: &Path, device: Option<DeviceNumber>) -> io::Result<()> {
    if device.is_none() || device_of(folder) != device {
        return Err(io::Error::other("something else is mounted there now"));
    }
    unmount(folder, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(io::Error::from)
}

fn device_of(folder: &Path) -> Option<DeviceNumber> {
    let mounts = mountpoint::mounts().ok()?;
    mountpoint::mount_at(&mounts, folder).map(|mount| mount.device)
}

fn mount_failure(folder: &Path, error: &io::Error) -> Failure {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "; is the kernel module fuse loaded (modprobe fuse), and fuse3 installed?",
        io::ErrorKind::PermissionDenied => "; mount as root, or install fuse3",
        _ => "",
    };
    Failure::new(ExitStatus::MountFailed, format!("cannot mount on {}: {error}{advice}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_mount() {
        for (code, status) in [(0, ExitStatus::Success), (1, ExitStatus::Usage), (32, ExitStatus::MountFailed)] {
            assert_eq!(status.code(), code);
            assert_eq!(ExitStatus::of_code(code), Some(status));
        }
        assert_eq!(ExitStatus::of_code(77), None);
    }

    #[test]
    fn work_that_takes_too_long_is_left_alone() {
        assert_eq!(within(Duration::from_secs(10), || 7), Some(7));
        let (hold, held) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(5), move || held.recv().is_err()), None);
        drop(hold);
    }

    #[test]
    fn only_our_own_mount_is_detached() {
        let folder = tempfile::tempdir().unwrap();
        assert!(detach(folder.path(), None).is_err());
        let other = DeviceNumber { major: 0, minor: 1 };
        assert!(detach(folder.path(), Some(other)).unwrap_err().to_string().contains("something else"));
    }
}
