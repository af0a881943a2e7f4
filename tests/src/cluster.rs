//! A cluster of real processes: one master, some chunkservers, any number of mounts.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rfs_common::clock::{Monotonic, SharedClock, SystemClock};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::guardian::{Guardian, folder_of_all_tests};
use crate::programs::{program, require_root_and_fuse, run};
use crate::volumes::{XfsVolume, unmount_patiently};

const HOST: &str = "127.0.0.1";
/// Below those that the kernel gives to outgoing connections (`ip_local_port_range`), or a daemon that is down for a moment could
/// lose its port to one.
const PORTS: std::ops::Range<u16> = 12_000..32_000;
const PORTS_PER_CLUSTER: u16 = 16;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// For anything that happens in well under a second on an idle machine.
pub const SOON: Duration = Duration::from_secs(30);
/// For repair and other work that goes on by itself.
pub const IN_TIME: Duration = Duration::from_secs(120);

/// Where the daemons' data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Folders beside each other.
    Folders,
    /// Each daemon on an XFS filesystem of its own, of this many bytes.
    Xfs {
        /// For the master.
        master_bytes: u64,
        /// For each chunkserver.
        chunkserver_bytes: u64,
        /// Whether the first chunkserver's disk can fail on demand.
        first_may_fail: bool,
    },
}

/// What a cluster is to be like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many chunkservers.
    pub chunkservers: usize,
    /// Copies of each chunk.
    pub goal: u8,
    /// Where data is.
    pub storage: Storage,
    /// `key=value` settings of the master.
    pub master_settings: Vec<String>,
    /// `key=value` settings of each chunkserver.
    pub chunkserver_settings: Vec<String>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            chunkservers: 3,
            goal: 2,
            storage: Storage::Folders,
            master_settings: Vec::new(),
            chunkserver_settings: Vec::new(),
        }
    }
}

/// A running cluster; everything it made is removed when it is dropped.
pub struct Cluster {
    folder: PathBuf,
    shape: Shape,
    master: Daemon,
    chunkservers: Vec<Daemon>,
    ports: Ports,
    volumes: Vec<XfsVolume>,
    /// Folders that chunkservers have beside their first.
    more_folders: Vec<(usize, PathBuf)>,
    mounts_made: Mutex<usize>,
    clock: SharedClock,
    // Last, so that it removes what the fields above have let go of.
    guardian: Guardian,
}

struct Ports {
    /// Nobody else gets these ports while this is there.
    _taken: UnixListener,
    cluster: u16,
    clients: u16,
    web: u16,
    metrics: u16,
    data: Vec<u16>,
}

impl Ports {
    /// Free ones, that stay this cluster's also while its daemons are down: a block of ports belongs to whoever has bound a
    /// socket of its name. The kernel gives none of them to outgoing connections.
    fn free(chunkservers: usize) -> anyhow::Result<Self> {
        ensure!(chunkservers + 4 <= usize::from(PORTS_PER_CLUSTER), "a block of ports has too few");
        let blocks = (PORTS.end - PORTS.start) / PORTS_PER_CLUSTER;
        let first = rand::random_range(0..blocks);
        let mut taken =
            (0..blocks).filter_map(|step| Self::take(PORTS.start + (first + step) % blocks * PORTS_PER_CLUSTER));
        let (taken, base) = taken.next().context("all blocks of ports for tests are in use")?;
        Ok(Self {
            _taken: taken,
            cluster: base,
            clients: base + 1,
            web: base + 2,
            metrics: base + 3,
            data: (base + 4..).take(chunkservers).collect(),
        })
    }

    /// None if others use some of them.
    fn take(base: u16) -> Option<(UnixListener, u16)> {
        let name = UnixAddress::from_abstract_name(format!("rfs-test-ports-{base}")).ok()?;
        let taken = UnixListener::bind_addr(&name).ok()?;
        let all_free = (base..base + PORTS_PER_CLUSTER).all(|port| TcpListener::bind((HOST, port)).is_ok());
        all_free.then_some((taken, base))
    }
}

impl Cluster {
    /// Three chunkservers, goal 2, in folders.
    ///
    /// # Errors
    /// With the log of the daemon that did not start.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_shaped(Shape::default())
    }

    /// Makes and starts a cluster, and waits until all its volumes are in service.
    ///
    /// # Errors
    /// With the log of the daemon that did not start.
    pub fn start_shaped(shape: Shape) -> anyhow::Result<Self> {
        require_root_and_fuse();
        let guardian = Guardian::start();
        let name = std::thread::current().name().unwrap_or("test").replace("::", "-");
        let folder = tempfile::Builder::new().prefix(&format!("{name}.")).tempdir_in(folder_of_all_tests())?.keep();
        guardian.folder(&folder);
        fs::create_dir(folder.join("log"))?;
        let ports = Ports::free(shape.chunkservers)?;
        let mut cluster = Self {
            master: Daemon::new(&folder, "mfs-master", "mfs-master"),
            chunkservers: (1..=shape.chunkservers)
                .map(|number| Daemon::new(&folder, &format!("chunkserver{number}"), "chunkserver"))
                .collect(),
            folder,
            shape,
            ports,
            volumes: Vec::new(),
            more_folders: Vec::new(),
            mounts_made: Mutex::new(0),
            clock: SystemClock::shared(),
            guardian,
        };
        cluster.make_volumes()?;
        cluster.initialise()?;
        cluster.start_everything()?;
        Ok(cluster)
    }

    fn make_volumes(&mut self) -> anyhow::Result<()> {
        match self.shape.storage {
            Storage::Folders => {
                for daemon in std::iter::once(&self.master).chain(&self.chunkservers) {
                    fs::create_dir(&daemon.data)?;
                }
            }
            Storage::Xfs { master_bytes, chunkserver_bytes, first_may_fail } => {
                for (at, daemon) in std::iter::once(&self.master).chain(&self.chunkservers).enumerate() {
                    let bytes = if at == 0 { master_bytes } else { chunkserver_bytes };
                    let image = self.folder.join(format!("{}.xfs", daemon.name));
                    let create = match at == 1 && first_may_fail {
                        true => XfsVolume::create_on_faulty_disk,
                        false => XfsVolume::create,
                    };
                    self.volumes.push(create(&self.guardian, image, daemon.data.clone(), bytes)?);
                }
            }
        }
        Ok(())
    }

    fn initialise(&mut self) -> anyhow::Result<()> {
        let goal = self.shape.goal.to_string();
        run(Command::new(program("mfs-master")).arg("init").arg(&self.master.data).args(["--goal", &goal]))?;
        self.start_master()?;
        let master = self.master_address();
        for daemon in &self.chunkservers {
            let mut init = Command::new(program("chunkserver"));
            init.arg("init").arg(&daemon.data).args(["--master", &master, "--host", &daemon.name]);
            if self.shape.storage == Storage::Folders {
                init.arg("--not-a-mount-point");
            }
            run(&mut init)?;
        }
        Ok(())
    }

    /// Starts all daemons that do not run and waits until every volume is in service.
    ///
    /// # Errors
    /// With the log of the daemon that did not start.
    pub fn start_everything(&mut self) -> anyhow::Result<()> {
        self.start_master()?;
        for index in 0..self.chunkservers.len() {
            self.start_chunkserver(index)?;
        }
        self.wait_for_volumes(self.chunkservers.len())
    }

    // ------------------------------------------------------------ the master

    /// Starts the master, unless it runs, and waits until it answers.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn start_master(&mut self) -> anyhow::Result<()> {
        if self.master.runs() {
            return Ok(());
        }
        let arguments = self.master_arguments();
        self.master.start(&arguments, &self.guardian)?;
        let port = self.ports.clients;
        self.master.wait_until(SOON, "it listens", || std::net::TcpStream::connect((HOST, port)).is_ok())
    }

    fn master_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--data".to_owned(), self.master.data.display().to_string()];
        let listen = [
            ("listen.clients", self.ports.clients),
            ("listen.cluster", self.ports.cluster),
            ("listen.web", self.ports.web),
            ("listen.metrics", self.ports.metrics),
        ];
        let settings = listen.iter().map(|(key, port)| format!("{key}={HOST}:{port}"));
        for setting in settings.chain(self.shape.master_settings.iter().cloned()) {
            arguments.extend(["-o".to_owned(), setting]);
        }
        arguments
    }

    /// Ends the master with SIGKILL. The process that becomes the next one is made before: see [`Daemon::prepare`].
    pub fn kill_master(&mut self) {
        let arguments = self.master_arguments();
        self.master.prepare(&arguments, &self.guardian).expect("a process for the next master");
        self.master.signal(Signal::KILL);
        self.master.reap();
    }

    /// Ends the master with SIGTERM and gives its exit status.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop_master(&mut self) -> anyhow::Result<ExitStatus> {
        self.master.stop()
    }

    /// Stops the master's threads without ending it (SIGSTOP).
    pub fn pause_master(&self) {
        self.master.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume_master(&self) {
        self.master.signal(Signal::CONT);
    }

    /// Folder of the master's metadata.
    pub fn master_folder(&self) -> &Path {
        &self.master.data
    }

    /// HOST:PORT for clients.
    pub fn master_address(&self) -> String {
        format!("{HOST}:{}", self.ports.clients)
    }

    /// The page's address.
    pub fn web_address(&self) -> String {
        format!("http://{HOST}:{}", self.ports.web)
    }

    /// Port of chunkservers and administration at the master.
    pub fn cluster_port(&self) -> u16 {
        self.ports.cluster
    }

    /// How many requests of each type the master has answered to clients since its start.
    ///
    /// # Errors
    /// If its counters cannot be read.
    pub fn operations(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut stream = TcpStream::connect((HOST, self.ports.metrics))?;
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {HOST}\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let counts = text.lines().filter_map(|line| {
            let (name, count) = line.strip_prefix("rfs_master_operations_total{type=\"")?.split_once("\"} ")?;
            Some((name.to_owned(), count.parse().ok()?))
        });
        Ok(counts.collect())
    }

    /// Everything the master has logged, through all its starts.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn master_log(&self) -> anyhow::Result<String> {
        let log = fs::read(&self.master.log).with_context(|| self.master.log.display().to_string())?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    // ------------------------------------------------------------ chunkservers

    /// Starts a chunkserver (counted from 0) unless it runs.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start_chunkserver(&mut self, index: usize) -> anyhow::Result<()> {
        if self.chunkservers[index].runs() {
            return Ok(());
        }
        let arguments = self.chunkserver_arguments(index);
        self.chunkservers[index].start(&arguments, &self.guardian)
    }

    fn chunkserver_arguments(&self, index: usize) -> Vec<String> {
        let data = self.chunkservers[index].data.display().to_string();
        let mut arguments = ["--data", &data, "--master", &self.master_address()].map(str::to_owned).to_vec();
        for (_, folder) in self.more_folders.iter().filter(|(owner, _)| *owner == index) {
            arguments.extend(["--data".to_owned(), folder.display().to_string()]);
        }
        let listen = format!("listen={HOST}:{}", self.ports.data[index]);
        for setting in std::iter::once(&listen).chain(&self.shape.chunkserver_settings) {
            arguments.extend(["-o".to_owned(), setting.clone()]);
        }
        arguments
    }

    /// Makes one more volume for a chunkserver, which serves it from its next start on.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn add_volume(&mut self, index: usize) -> anyhow::Result<PathBuf> {
        let folder = self.folder.join(format!("more{}", self.more_folders.len()));
        fs::create_dir(&folder)?;
        let daemon = &self.chunkservers[index];
        let mut init = Command::new(program("chunkserver"));
        init.arg("init").arg(&daemon.data).arg(&folder).args(["--master", &self.master_address()]);
        run(init.args(["--host", &daemon.name, "--not-a-mount-point"]))?;
        self.more_folders.push((index, folder.clone()));
        Ok(folder)
    }

    /// Ends a chunkserver with SIGKILL.
    pub fn kill_chunkserver(&mut self, index: usize) {
        self.chunkservers[index].signal(Signal::KILL);
        self.chunkservers[index].reap();
    }

    /// Ends a chunkserver with SIGKILL. The process that becomes the next one is made before: see [`Daemon::prepare`].
    ///
    /// # Errors
    /// If that process cannot be made.
    pub fn kill_chunkserver_to_start_again(&mut self, index: usize) -> anyhow::Result<()> {
        let arguments = self.chunkserver_arguments(index);
        self.chunkservers[index].prepare(&arguments, &self.guardian)?;
        self.kill_chunkserver(index);
        Ok(())
    }

    /// Ends a chunkserver with SIGTERM.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop_chunkserver(&mut self, index: usize) -> anyhow::Result<ExitStatus> {
        self.chunkservers[index].stop()
    }

    /// SIGSTOP.
    pub fn pause_chunkserver(&self, index: usize) {
        self.chunkservers[index].signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume_chunkserver(&self, index: usize) {
        self.chunkservers[index].signal(Signal::CONT);
    }

    /// The folder of a chunkserver's volume.
    pub fn chunkserver_folder(&self, index: usize) -> &Path {
        &self.chunkservers[index].data
    }

    /// Port of a chunkserver's data connections.
    pub fn data_port(&self, index: usize) -> u16 {
        self.ports.data[index]
    }

    /// How many chunkservers there are.
    pub fn chunkserver_count(&self) -> usize {
        self.chunkservers.len()
    }

    /// All chunk files of a chunkserver's volume.
    pub fn chunk_files(&self, index: usize) -> Vec<PathBuf> {
        Self::chunk_files_in(self.chunkserver_folder(index))
    }

    /// All chunk files of the volume in a folder.
    pub fn chunk_files_in(volume: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![volume.join("chunks")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        found
    }

    /// The XFS volume of the master (`None`) or of a chunkserver.
    ///
    /// # Panics
    /// If the cluster lies in folders.
    pub fn volume(&self, chunkserver: Option<usize>) -> &XfsVolume {
        &self.volumes[chunkserver.map_or(0, |index| index + 1)]
    }

    // ------------------------------------------------------------ state

    /// Runs `rfs` with these arguments against this cluster's master.
    pub fn rfs(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("rfs"));
        command.args(["--master", &self.master_address()]).args(arguments);
        command
    }

    /// `rfs ... --json`, parsed. The exit status, which tells the health, is not looked at.
    ///
    /// # Errors
    /// If what it prints is not JSON.
    pub fn rfs_json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let output = self.rfs(arguments).arg("--json").output()?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("rfs {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// `rfs status --json`.
    ///
    /// # Errors
    /// If the master does not answer.
    pub fn status(&self) -> anyhow::Result<Value> {
        self.rfs_json(&["status"])
    }

    /// Waits until so many volumes are in service.
    ///
    /// # Errors
    /// With the last status, after a while.
    pub fn wait_for_volumes(&self, count: usize) -> anyhow::Result<()> {
        self.wait_for_status(SOON, "volumes in service", |status| status["volumes_in_service"] == count)
    }

    /// Waits until `rfs status` says that everything is fully replicated and healthy.
    ///
    /// # Errors
    /// With the last status, after two minutes.
    pub fn wait_until_fully_replicated(&self) -> anyhow::Result<()> {
        self.wait_for_status(IN_TIME, "fully replicated", |status| {
            status["fully_replicated"] == true && status["health"] == "ok"
        })
    }

    /// Waits until the status is as asked.
    ///
    /// # Errors
    /// With the last status, when the time is over.
    pub fn wait_for_status(&self, limit: Duration, what: &str, is_so: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
        let mut last = Value::Null;
        let found = self.wait(limit, || match self.status() {
            Ok(status) => {
                last = status;
                is_so(&last)
            }
            Err(_) => false,
        });
        ensure!(found, "not {what} after {} s; the last status: {last:#}", limit.as_secs());
        Ok(())
    }

    /// Looks again and again until it is so; false if the time is over.
    pub fn wait(&self, limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
        let end = self.clock.monotonic() + limit;
        while !is_so() {
            if self.clock.monotonic() >= end {
                return false;
            }
            sleep(LOOK_EVERY * 5);
        }
        true
    }

    /// Time on a clock that only goes forward.
    pub fn now(&self) -> Monotonic {
        self.clock.monotonic()
    }

    /// A folder of this test's own for anything else.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// To tell of other things that are to be removed.
    pub fn guardian(&self) -> &Guardian {
        &self.guardian
    }

    // ------------------------------------------------------------ mounts

    /// Mounts the filesystem at a new place.
    ///
    /// # Errors
    /// With the end of the mount's log.
    pub fn mount(&self) -> anyhow::Result<Mount> {
        self.mount_with(&[])
    }

    /// Mounts it with more arguments, such as `-o ro`.
    ///
    /// # Errors
    /// With the end of the mount's log.
    pub fn mount_with(&self, arguments: &[&str]) -> anyhow::Result<Mount> {
        let number = {
            let mut made = self.mounts_made.lock().expect("not poisoned");
            *made += 1;
            *made
        };
        let path = self.folder.join(format!("mount{number}"));
        fs::create_dir(&path)?;
        self.guardian.mount(&path);
        self.mount_on(path, arguments)
    }

    /// Mounts it on the folder of a mount whose process is gone.
    ///
    /// # Errors
    /// With the end of the mount's log.
    pub fn mount_again(&self, dead: DeadMount) -> anyhow::Result<Mount> {
        self.mount_on(dead.path, &[])
    }

    fn mount_on(&self, path: PathBuf, arguments: &[&str]) -> anyhow::Result<Mount> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut daemon = Daemon::new(&self.folder, &name, "mount-rfs");
        let mut all: Vec<String> = vec![self.master_address(), path.display().to_string(), "-f".to_owned()];
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        daemon.start(&all, &self.guardian)?;
        daemon.wait_until(SOON, "it serves", || is_mounted(&path))?;
        Ok(Mount { path, daemon })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
    }
}

impl Cluster {
    /// The ends of all logs, for the report of a failed test.
    #[allow(clippy::print_stderr, reason = "the report of a failed test")]
    fn show_logs(&self) {
        eprintln!("The cluster's folder is kept: {}", self.folder.display());
        let mut logs: Vec<PathBuf> =
            fs::read_dir(self.folder.join("log")).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        logs.sort();
        for log in logs {
            eprintln!("--- the end of {}\n{}", log.display(), end_of(&log, 25));
        }
    }
}

/// Whether an rfs is mounted there and answers.
pub fn is_mounted(path: &Path) -> bool {
    let listed = fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|text| text.lines().any(|line| line.split(' ').nth(4) == path.to_str() && line.contains(" - fuse")));
    listed && rustix::fs::statvfs(path).is_ok()
}

/// A mounted filesystem.
pub struct Mount {
    path: PathBuf,
    daemon: Daemon,
}

impl Mount {
    /// Its root.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Process id of mount.rfs.
    pub fn process_id(&self) -> u32 {
        self.daemon.child.as_ref().map_or(0, Child::id)
    }

    /// Unmounts it as `umount` does, and waits for the process to end well.
    ///
    /// # Errors
    /// If it is in use, or the process ends badly.
    pub fn unmount(mut self) -> anyhow::Result<()> {
        unmount_patiently(&self.path)?;
        let status = self.daemon.wait_for_end(SOON)?;
        ensure!(status.success(), "mount.rfs ended with {status}:\n{}", end_of(&self.daemon.log, 25));
        Ok(())
    }

    /// Ends the process with SIGKILL: what it had not sent is lost, and the mount is dead.
    pub fn kill(mut self) {
        self.daemon.signal(Signal::KILL);
        self.daemon.reap();
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }

    /// Ends the process with SIGKILL, waits until it is gone, and leaves the dead mount where it is.
    ///
    /// # Errors
    /// If it is not gone within `limit`.
    pub fn kill_and_leave(mut self, limit: Duration) -> anyhow::Result<DeadMount> {
        self.daemon.signal(Signal::KILL);
        self.daemon.wait_for_end(limit)?;
        Ok(DeadMount { path: self.path.clone() })
    }

    /// Asks the process to end with SIGTERM, and waits for it.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub fn terminate(mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.daemon.signal(Signal::TERM);
        self.daemon.wait_for_end(limit)
    }

    /// Waits for the process, which somebody else has asked to end.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub fn ends_by_itself(mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.daemon.wait_for_end(limit)
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.daemon.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.daemon.signal(Signal::CONT);
    }
}

/// A mount whose process was killed, and that is still in the tree.
pub struct DeadMount {
    path: PathBuf,
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.daemon.child.is_none() {
            return;
        }
        let _ = unmount(&self.path, UnmountFlags::DETACH);
        if self.daemon.wait_for_end(Duration::from_secs(10)).is_err() {
            self.daemon.signal(Signal::KILL);
            self.daemon.reap();
        }
    }
}

/// One process of the cluster.
struct Daemon {
    name: String,
    program: &'static str,
    data: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// Waits for a line to become the daemon.
    prepared: Option<Child>,
}

impl Daemon {
    fn new(folder: &Path, name: &str, program: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            program,
            data: folder.join(name),
            log: folder.join("log").join(format!("{name}.log")),
            child: None,
            prepared: None,
        }
    }

    fn start(&mut self, arguments: &[String], guardian: &Guardian) -> anyhow::Result<()> {
        if let Some(mut prepared) = self.prepared.take() {
            prepared.stdin.take().context("it reads a line")?.write_all(b"go\n")?;
            self.child = Some(prepared);
            return Ok(());
        }
        let mut command = Command::new(program(self.program));
        command.args(arguments).stdin(Stdio::null()).stdout(self.open_log()?);
        self.child = Some(self.spawn(command, guardian)?);
        Ok(())
    }

    /// Makes the process that the next start turns into the daemon, while the present one still runs.
    ///
    /// A new process has the test's open files until its exec closes them, and closing a file of a mount waits for the
    /// master, and for chunkservers: a test with such files open that starts one of them afterwards would wait for itself.
    fn prepare(&mut self, arguments: &[String], guardian: &Guardian) -> anyhow::Result<()> {
        let mut command = Command::new("sh");
        command.args(["-c", "echo ready; read -r line && exec \"$0\" \"$@\" < /dev/null >&2"]);
        command.arg(program(self.program)).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
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

    fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn wait_until(&mut self, limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) -> anyhow::Result<()> {
        let clock = SystemClock::shared();
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

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.as_ref().and_then(|child| Pid::from_raw(child.id().cast_signed())) {
            let _ = kill_process(pid, signal);
        }
    }

    fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait_for_end(SOON)
    }

    fn wait_for_end(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let clock = SystemClock::shared();
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

fn end_of(log: &Path, lines: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
