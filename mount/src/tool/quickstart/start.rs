//! Starts what is down of a quickstart cluster, in order: master, chunkservers, mount.
//!
//! The plan is the first thing on disk, and what `init` has made counts only once its identity is there, so that a
//! quickstart that was interrupted anywhere goes on when it is run again. SIGINT and SIGTERM are looked at between steps.

use std::ffi::OsStr;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rfs_common::endpoint::Endpoint;
use rfs_common::folder_lock::{FolderLock, FolderLockError, LOCK_FILE_NAME};
use rfs_common::shutdown::Shutdown;
use rfs_common::trusted;
use rfs_proto::admin::StatusRequest;
use serde_json::json;

use super::plan::{Plan, absolute, require_free};
use super::processes::{Process, Started, Wait};
use super::programs::{mount_program, own_name, program};
use crate::tool::cli::QuickstartArguments;
use crate::tool::find_master;
use crate::tool::master_link::{MasterLink, ask};
use crate::tool::output::{Form, print_json, print_text, spinner};

/// How long other quickstarts may take with their ports.
const TURN_WITHIN: Duration = Duration::from_secs(120);
const MASTER_READY: Duration = Duration::from_secs(30);
const CHUNKSERVERS_READY: Duration = Duration::from_secs(30);
const MOUNT_READY: Duration = Duration::from_secs(30);
/// Names of the files that make a folder the master's, or a volume.
const MASTER_IDENTITY: &str = "identity";
const VOLUME_IDENTITY: &str = "volume.toml";
/// All daemons listen on, and the mount connects to, this machine only.
const HOST: &str = "127.0.0.1";

/// The daemons of a cluster, whether they run or not.
pub(super) struct Daemons {
    /// `mfs-master`
    pub(super) master: Process,
    /// `chunkserver1`, ...
    pub(super) chunkservers: Vec<Process>,
    /// `mount`
    pub(super) mount: Process,
}

impl Daemons {
    /// Those of the cluster in `dir`.
    pub(super) fn of(dir: &Path, plan: &Plan, interrupt: &Shutdown) -> anyhow::Result<Self> {
        let chunkserver = program("chunkserver")?;
        let chunkservers = (1..=plan.data.len())
            .map(|number| Process::new(dir, &format!("chunkserver{number}"), chunkserver.clone(), interrupt))
            .collect();
        Ok(Self {
            master: Process::new(dir, "mfs-master", program("mfs-master")?, interrupt),
            chunkservers,
            mount: Process::new(dir, "mount", mount_program()?, interrupt),
        })
    }
}

/// `rfs quickstart`
pub(super) fn start(arguments: &QuickstartArguments, form: Form) -> anyhow::Result<()> {
    trusted::require_private(&arguments.dir)?;
    let dir = absolute(&arguments.dir)?;
    let interrupt = Shutdown::on_signals().context("cannot wait for signals")?;
    // Until its daemons listen, another quickstart would find the ports of this one free.
    let ports = TurnForPorts::wait(&interrupt);
    let plan = match Plan::load(&dir)? {
        Some(plan) => {
            plan.agree(arguments)?;
            plan
        }
        None => {
            let plan = new_plan(&dir, arguments)?;
            // While nothing is on record, so that the next try may name others.
            require_free(&plan.master_ports(), "the master")?;
            for index in 0..plan.data.len() {
                require_free(&[plan.data_port(index)], "a chunkserver")?;
            }
            // So that other users can reach the mount point in it.
            trusted::create_folder_with_mode(&dir, 0o755)?;
            trusted::require_private(&dir)?;
            plan.save(&dir)?;
            plan
        }
    };
    make_folders(&dir, &plan)?;
    let _only_one = lock(&dir)?;
    let mut plan = Plan::load(&dir)?.context("the cluster was removed just now; run this again to make a new one")?;
    let bar = spinner(form, "Starting the master, chunkservers and the mount ...");
    let started = start_all(&dir, &mut plan, ports, &interrupt);
    bar.finish_and_clear();
    if let Err(error) = started {
        bail!(
            "{error:#}\nWhat was started runs on; `{0} quickstart --dir {1}` goes on, `{0} quickstart --stop --dir {1}` ends it.",
            own_name(),
            dir.display()
        );
    }
    report(&dir, &plan, form)
}

fn start_all(dir: &Path, plan: &mut Plan, ports: TurnForPorts, interrupt: &Shutdown) -> anyhow::Result<()> {
    let daemons = Daemons::of(dir, plan, interrupt)?;
    // Nothing is started while a folder's mount is missing.
    is_to_be_made(&plan.meta, MASTER_IDENTITY, "the master's metadata", plan)?;
    for (process, folder) in daemons.chunkservers.iter().zip(&plan.data) {
        is_to_be_made(folder, VOLUME_IDENTITY, &format!("the volume of {}", process.name()), plan)?;
    }
    make_master(&daemons.master, dir, plan)?;
    start_master(&daemons.master, plan)?;
    for (index, process) in daemons.chunkservers.iter().enumerate() {
        make_volume(process, index, dir, plan)?;
    }
    start_chunkservers(&daemons.chunkservers, plan)?;
    drop(ports);
    start_mount(&daemons.mount, plan)
}

/// While it is held, no other quickstart of this network namespace chooses ports. The kernel lets go of it whatever happens.
struct TurnForPorts {
    _name: Option<UnixListener>,
}

impl TurnForPorts {
    /// Waits until the others have their ports, but not for ever: then the check of each port has to do.
    fn wait(interrupt: &Shutdown) -> TurnForPorts {
        let wait = Wait::new(TURN_WITHIN);
        loop {
            let name = SocketAddr::from_abstract_name(b"rfs-quickstart-ports");
            if let Ok(listener) = name.and_then(|name| UnixListener::bind_addr(&name)) {
                return TurnForPorts { _name: Some(listener) };
            }
            if interrupt.is_requested() || !wait.again() {
                return TurnForPorts { _name: None };
            }
        }
    }
}

/// A plan for a new cluster, after a look at what is already in its places.
fn new_plan(dir: &Path, arguments: &QuickstartArguments) -> anyhow::Result<Plan> {
    let plan = Plan::new(dir, arguments)?;
    let foreign = |folder: &Path, why: &str| -> anyhow::Result<()> {
        ensure!(
            is_empty(folder)?,
            "{} is not empty; {why} needs a folder of its own: name another one, or empty it",
            folder.display()
        );
        Ok(())
    };
    foreign(&plan.mount, "the mount point")?;
    foreign(&plan.meta, "the master")?;
    foreign(&dir.join("run"), "the cluster's process ids")?;
    foreign(&dir.join("log"), "the cluster's logs")?;
    plan.data.iter().try_for_each(|folder| foreign(folder, "a chunkserver"))?;
    refuse_foreign_entries(dir, &plan)?;
    plan.require_trusted(dir)?;
    Ok(plan)
}

/// A cluster's folder has nothing in it but what is for the cluster.
fn refuse_foreign_entries(dir: &Path, plan: &Plan) -> anyhow::Result<()> {
    let ours = |name: &OsStr| {
        ["run", "log", "lost+found", "quickstart.toml.new"].iter().any(|own| name == *own) || plan.has_place(dir, name)
    };
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.find_map(|entry| entry.ok().filter(|entry| !ours(&entry.file_name()))) {
            Some(entry) => bail!(
                "{} is not empty (it has {:?}); a cluster needs a folder of its own: name another one with --dir",
                dir.display(),
                entry.file_name()
            ),
            None => Ok(()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot look into {}", dir.display())),
    }
}

/// Whether nothing is in the folder, or it is not there. A fresh filesystem's lost+found does not count, nor does the lock
/// that every daemon takes first.
fn is_empty(folder: &Path) -> anyhow::Result<bool> {
    let counts = |name: &OsStr| name != "lost+found" && name != LOCK_FILE_NAME;
    match fs::read_dir(folder) {
        Ok(entries) => Ok(!entries.flatten().any(|entry| counts(&entry.file_name()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| format!("cannot look into {}", folder.display())),
    }
}

fn make_folders(dir: &Path, plan: &Plan) -> anyhow::Result<()> {
    for folder in [dir.join("run"), dir.join("log")] {
        trusted::create_folder_with_mode(&folder, 0o755)?;
    }
    for folder in plan.data.iter().chain([&plan.meta]) {
        trusted::create_folder_with_mode(folder, 0o700)?;
    }
    // The mount point may be a dead mount of an earlier life, which mount.rfs takes care of.
    if fs::symlink_metadata(&plan.mount).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        trusted::create_folder_with_mode(&plan.mount, 0o755)?;
    }
    Ok(())
}

/// Two quickstarts on one folder at once would start everything twice.
pub(super) fn lock(dir: &Path) -> anyhow::Result<FolderLock> {
    match FolderLock::acquire(&dir.join("run")) {
        Ok(lock) => Ok(lock),
        Err(FolderLockError::Held { .. }) => {
            bail!("another `rfs quickstart` works on {} just now; wait for it to end", dir.display())
        }
        Err(error) => Err(error.into()),
    }
}

fn client_endpoint(plan: &Plan) -> Endpoint {
    Endpoint::new(HOST, plan.client_port())
}

/// Whether something is still to be made in the folder; `init` finishes what it had begun there. One that was made and is
/// empty now is refused: made anew, it would be another cluster, or on the wrong disk.
fn is_to_be_made(folder: &Path, identity: &str, whose: &str, plan: &Plan) -> anyhow::Result<bool> {
    let was_made = plan.made.iter().any(|made| made == folder);
    ensure!(
        !was_made || !is_empty(folder)?,
        "{} is empty, and {whose} was in it; mount its filesystem again, or remove the cluster with \
         `{} quickstart --stop --purge`",
        folder.display(),
        own_name()
    );
    Ok(!was_made && !folder.join(identity).exists())
}

fn remember_made(folder: PathBuf, dir: &Path, plan: &mut Plan) -> anyhow::Result<()> {
    if plan.made.contains(&folder) {
        return Ok(());
    }
    plan.made.push(folder);
    plan.save(dir)
}

fn make_master(process: &Process, dir: &Path, plan: &mut Plan) -> anyhow::Result<()> {
    if !is_to_be_made(&plan.meta, MASTER_IDENTITY, "the master's metadata", plan)? {
        return remember_made(plan.meta.clone(), dir, plan);
    }
    let meta = plan.meta.display().to_string();
    // Who starts a cluster may write to it.
    let owner = format!("{}:{}", rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    process
        .run(&["init", &meta, "--goal", &plan.goal.to_string(), "--owner", &owner].map(str::to_owned))
        .with_context(|| format!("cannot make the master's folder {meta}"))?;
    remember_made(plan.meta.clone(), dir, plan)
}

fn start_master(process: &Process, plan: &Plan) -> anyhow::Result<()> {
    if process.runs() {
        return Ok(());
    }
    require_free(&plan.master_ports(), "the master")?;
    let mut arguments = vec!["--data".to_owned(), plan.meta.display().to_string()];
    let settings = [
        ("listen.clients", format!("{HOST}:{}", plan.client_port())),
        ("listen.cluster", format!("{HOST}:{}", plan.cluster_port())),
        ("listen.web", format!("{HOST}:{}", plan.web_port())),
        ("listen.metrics", format!("{HOST}:{}", plan.metrics_port())),
    ];
    for (key, value) in settings {
        arguments.extend(["-o".to_owned(), format!("{key}={value}")]);
    }
    process.start(&arguments)?.wait_until(MASTER_READY, "it served", || ask(&client_endpoint(plan)).is_ok())
}

fn start_chunkservers(processes: &[Process], plan: &Plan) -> anyhow::Result<()> {
    let mut started: Vec<Started> = Vec::new();
    for (index, (process, folder)) in processes.iter().zip(&plan.data).enumerate() {
        if !process.runs() {
            started.push(start_chunkserver(process, index, folder, plan)?);
        }
    }
    let mut link = MasterLink::connect(&client_endpoint(plan))?;
    let expected = plan.data.len();
    let mut in_service = || {
        link.call(|mut client| async move { client.get_status(StatusRequest {}).await })
            .is_ok_and(|status| status.volumes_in_service as usize >= expected)
    };
    match started.as_mut_slice() {
        [] => Ok(()),
        [all @ .., last] => {
            last.wait_until(CHUNKSERVERS_READY, "the master had all volumes in service", &mut in_service)?;
            // The others are there as well, or the wait above had not ended; an early end still wants its own words.
            all.iter_mut().try_for_each(|one| one.wait_until(Duration::ZERO, "its volume served", || true))
        }
    }
}

fn make_volume(process: &Process, index: usize, dir: &Path, plan: &mut Plan) -> anyhow::Result<()> {
    let folder = plan.data[index].clone();
    if !is_to_be_made(&folder, VOLUME_IDENTITY, &format!("the volume of {}", process.name()), plan)? {
        return remember_made(folder, dir, plan);
    }
    let data = folder.display().to_string();
    let master = client_endpoint(plan).to_string();
    let mut init = ["init", &data, "--master", &master, "--host", process.name()].map(str::to_owned).to_vec();
    // A mount point that is missing later is then noticed by the chunkserver as well.
    if !find_master::is_mount_point(&folder)? {
        init.push("--not-a-mount-point".to_owned());
    }
    process.run(&init).with_context(|| format!("cannot make the volume {data}"))?;
    remember_made(folder, dir, plan)
}

fn start_chunkserver(process: &Process, index: usize, folder: &Path, plan: &Plan) -> anyhow::Result<Started> {
    require_free(&[plan.data_port(index)], process.name())?;
    let data = folder.display().to_string();
    let master = client_endpoint(plan).to_string();
    let mut arguments: Vec<String> = ["--data", &data, "--master", &master].map(str::to_owned).to_vec();
    arguments.extend(["-o".to_owned(), format!("listen={HOST}:{}", plan.data_port(index))]);
    process.start(&arguments)
}

fn start_mount(process: &Process, plan: &Plan) -> anyhow::Result<()> {
    if process.runs() && is_mounted(plan) {
        return Ok(());
    }
    let arguments = [client_endpoint(plan).to_string(), plan.mount.display().to_string(), "-f".to_owned()];
    process.start(&arguments)?.wait_until(MOUNT_READY, "the mount served", || {
        is_mounted(plan) && rustix::fs::statvfs(&plan.mount).is_ok_and(|space| space.f_blocks > 0)
    })
}

/// Whether our filesystem is mounted there.
pub(super) fn is_mounted(plan: &Plan) -> bool {
    find_master::mounts().is_ok_and(|mounts| mounts.iter().any(|mount| mount.mount_point == plan.mount))
}

/// Waits until it is not mounted any more.
pub(super) fn wait_until_unmounted(plan: &Plan, limit: Duration) -> bool {
    let wait = Wait::new(limit);
    while is_mounted(plan) {
        if !wait.again() {
            return false;
        }
    }
    true
}

fn report(dir: &Path, plan: &Plan, form: Form) -> anyhow::Result<()> {
    let data: Vec<String> = (0..plan.data.len()).map(|index| format!("{HOST}:{}", plan.data_port(index))).collect();
    let web = format!("http://{HOST}:{}/", plan.web_port());
    if form == Form::Programs {
        return print_json(&json!({
            "dir": dir, "mount": plan.mount, "master": client_endpoint(plan).to_string(),
            "cluster": format!("{HOST}:{}", plan.cluster_port()), "web": web,
            "metrics": format!("http://{HOST}:{}/metrics", plan.metrics_port()), "chunkservers": data,
            "meta": plan.meta, "data": plan.data, "goal": plan.goal,
        }));
    }
    print_text(&format!("Mounted on    {}", plan.mount.display()))?;
    print_text(&format!("Web page      {web}"))?;
    print_text(&format!(
        "Master        {} (clients), {HOST}:{} (chunkservers, administration)",
        client_endpoint(plan),
        plan.cluster_port()
    ))?;
    print_text(&format!("Metrics       http://{HOST}:{}/metrics", plan.metrics_port()))?;
    for (index, (address, folder)) in data.iter().zip(&plan.data).enumerate() {
        print_text(&format!("Chunkserver {} {address}, volume {}", index + 1, folder.display()))?;
    }
    print_text(&format!("Goal          {} copies", plan.goal))?;
    let rfs = own_name();
    print_text(&format!("State         {rfs} status --master {}", client_endpoint(plan)))?;
    print_text(&format!("Logs          {}", dir.join("log").display()))?;
    print_text(&format!("End it        {rfs} quickstart --stop --dir {}", dir.display()))?;
    print_text(&format!("Remove it     {rfs} quickstart --stop --purge --dir {}", dir.display()))
}
