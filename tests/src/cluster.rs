//! A cluster of real processes: one master, some chunkservers, any number of mounts.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rfs_common::clock::{Monotonic, SharedClock, SystemClock};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use serde_json::Value;

use crate::daemon::{Daemon, Place, end_of};
use crate::guardian::{Guardian, folder_of_all_tests};
use crate::network::{Machine, Network, Silence};
use crate::ports::{HOST, Ports};
use crate::programs::{program, require_root_and_fuse, run};
use crate::volumes::{XfsVolume, unmount_patiently};

pub use crate::daemon::SOON;

const LOOK_EVERY: Duration = Duration::from_millis(20);
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
        /// Whether the disks of the master and of the first chunkserver can fail on demand.
        disks_may_fail: bool,
    },
}

/// Where daemons and mounts run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machines {
    /// All on this one: they are told apart by ports.
    One,
    /// Each on its own: a network namespace that can be cut off, and a clock that can be set. The thread that starts such a cluster
    /// stands in the middle of its network from then on, and so does every mount but those of [`Cluster::mount_on_client`].
    Many,
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
    /// Where daemons run.
    pub machines: Machines,
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
            machines: Machines::One,
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
    network: Option<Network>,
    mounts_made: Mutex<usize>,
    clock: SharedClock,
    // Last, so that it removes what the fields above have let go of.
    guardian: Guardian,
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
            network: None,
            mounts_made: Mutex::new(0),
            clock: SystemClock::shared(),
            guardian,
        };
        if cluster.shape.machines == Machines::Many {
            cluster.make_machines()?;
        }
        cluster.make_volumes()?;
        cluster.initialise()?;
        cluster.start_everything()?;
        Ok(cluster)
    }

    fn make_machines(&mut self) -> anyhow::Result<()> {
        let network = Network::make(&self.guardian, &self.folder, self.chunkservers.len())?;
        self.master.put_into(network.place(Machine::Master));
        for (index, daemon) in self.chunkservers.iter_mut().enumerate() {
            daemon.put_into(network.place(Machine::Chunkserver(index)));
        }
        self.network = Some(network);
        Ok(())
    }

    fn make_volumes(&mut self) -> anyhow::Result<()> {
        match self.shape.storage {
            Storage::Folders => {
                for daemon in std::iter::once(&self.master).chain(&self.chunkservers) {
                    fs::create_dir(&daemon.data)?;
                }
            }
            Storage::Xfs { master_bytes, chunkserver_bytes, disks_may_fail } => {
                for (at, daemon) in std::iter::once(&self.master).chain(&self.chunkservers).enumerate() {
                    let bytes = if at == 0 { master_bytes } else { chunkserver_bytes };
                    let image = self.folder.join(format!("{}.xfs", daemon.name));
                    let create = match at <= 1 && disks_may_fail {
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
        let address = self.master_address();
        self.master.wait_until(SOON, "it listens", || std::net::TcpStream::connect(&address).is_ok())
    }

    fn master_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--data".to_owned(), self.master.data.display().to_string()];
        let listen = [
            ("listen.clients", self.ports.clients),
            ("listen.cluster", self.ports.cluster),
            ("listen.web", self.ports.web),
            ("listen.metrics", self.ports.metrics),
        ];
        let host = self.listening_host();
        let settings = listen.iter().map(|(key, port)| format!("{key}={host}:{port}"));
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
        format!("{}:{}", self.master_host(), self.ports.clients)
    }

    fn master_host(&self) -> String {
        self.network.as_ref().map_or_else(|| HOST.to_owned(), |_| Network::address(Machine::Master))
    }

    fn listening_host(&self) -> &'static str {
        if self.network.is_some() { "0.0.0.0" } else { HOST }
    }

    /// The page's address.
    pub fn web_address(&self) -> String {
        format!("http://{}:{}", self.master_host(), self.ports.web)
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
        let listen = format!("listen={}:{}", self.listening_host(), self.ports.data[index]);
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

    // ------------------------------------------------------------ machines

    /// Nothing leaves a machine any more, or nothing arrives, or both.
    ///
    /// # Errors
    /// Those of nft; without machines.
    pub fn cut_off(&self, machine: Machine, silence: Silence) -> anyhow::Result<()> {
        self.network()?.cut_off(machine, silence)
    }

    /// Ends what [`Self::cut_off`] began.
    ///
    /// # Errors
    /// As above.
    pub fn connect_again(&self, machine: Machine) -> anyhow::Result<()> {
        self.network()?.connect_again(machine)
    }

    /// The wall clock of a machine is wrong by this much from now on.
    ///
    /// # Errors
    /// Without machines; those of the system.
    pub fn set_clock(&self, machine: Machine, seconds: i64) -> anyhow::Result<()> {
        self.network()?.set_clock(machine, seconds)
    }

    fn network(&self) -> anyhow::Result<&Network> {
        self.network.as_ref().context("the cluster has no machines of its own")
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
        self.mount_on(self.new_mount_point()?, arguments, None)
    }

    fn new_mount_point(&self) -> anyhow::Result<PathBuf> {
        let number = {
            let mut made = self.mounts_made.lock().expect("not poisoned");
            *made += 1;
            *made
        };
        let path = self.folder.join(format!("mount{number}"));
        fs::create_dir(&path)?;
        self.guardian.mount(&path);
        Ok(path)
    }

    /// Mounts it on the client's own machine.
    ///
    /// # Errors
    /// With the end of the mount's log.
    pub fn mount_on_client(&self, arguments: &[&str]) -> anyhow::Result<Mount> {
        let place = self.network()?.place(Machine::Client);
        self.mount_on(self.new_mount_point()?, arguments, Some(place))
    }

    /// Mounts it on the folder of a mount whose process is gone.
    ///
    /// # Errors
    /// With the end of the mount's log.
    pub fn mount_again(&self, dead: DeadMount) -> anyhow::Result<Mount> {
        self.mount_on(dead.path, &[], None)
    }

    fn mount_on(&self, path: PathBuf, arguments: &[&str], place: Option<Place>) -> anyhow::Result<Mount> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut daemon = Daemon::new(&self.folder, &name, "mount-rfs");
        if let Some(place) = place {
            daemon.put_into(place);
        }
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
    // A dead mount may be listed, and be detached a moment later: then the folder beneath it is what answers.
    let is_fuse = |kind: rustix::fs::FsWord| kind == FUSE_SUPER_MAGIC;
    listed && rustix::fs::statfs(path).is_ok_and(|found| is_fuse(found.f_type))
}

/// `f_type` of FUSE mounts, of linux/magic.h.
const FUSE_SUPER_MAGIC: rustix::fs::FsWord = 0x6573_5546;

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
