//! However a mount ends, and whatever it was doing, nobody who used it hangs.
//!
//! The worst moment for a killed mount.rfs is when the kernel is being told to forget what is locked for a program that waits
//! for mount.rfs. Another mount that changes the same files and names all the time makes many such moments.
//! `RFS_ROUNDS=n` kills more often.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rfs_tests::cluster::{Cluster, Mount, Shape};
use rustix::mount::{UnmountFlags, unmount};

/// In which nobody waits any more after the mount's process was killed.
const SOON: Duration = Duration::from_secs(2);
const FILES: usize = 3;
const FILE_BYTES: usize = 2 << 20;

/// In which they end on a machine that is busy with other things.
const SOON_WHEN_BUSY: Duration = Duration::from_secs(15);

/// Says when it has used the mount once, and uses it until that fails, or for ten minutes.
const PROGRAM: &str = r#"
import mmap, os, sys, time
what, root = sys.argv[1], sys.argv[2]
end = time.monotonic() + 600
files = [f"{root}/file{number}" for number in range(3)]
try:
    while time.monotonic() < end:
        for path in files:
            if what == "read":
                with open(path, "rb", buffering=0) as file:
                    while file.read(1 << 17): pass
            elif what == "map":
                with open(path, "rb") as file:
                    with mmap.mmap(file.fileno(), 1 << 20, prot=mmap.PROT_READ) as memory:
                        for at in range(0, 1 << 20, 4096): memory[at]
            elif what == "write":
                fd = os.open(path, os.O_RDWR)
                for at in range(0, 1 << 20, 1 << 16): os.pwrite(fd, b"a" * 65536, at)
                os.close(fd)
            elif what == "stat":
                os.stat(path)
                os.listdir(root)
            elif what == "names":
                name = f"{root}/names/{os.getpid()}"
                open(name, "w").close()
                os.rename(name, name + "b")
                os.path.exists(f"{root}/names/shared{files.index(path)}")
                os.unlink(name + "b")
        print("used", flush=True)
except (OSError, ValueError):
    sys.exit(0)
"#;

const PROGRAMS: [&str; 8] = ["read", "read", "map", "map", "write", "stat", "names", "names"];

/// Starts them, and waits until each has used the mount.
fn start_programs(root: &Path) -> Vec<(&'static str, Child)> {
    let start = |what: &&'static str| {
        let mut command = Command::new("python3");
        command.args(["-c", PROGRAM, what]).arg(root).stdout(Stdio::piped()).stderr(Stdio::null());
        (*what, command.spawn().expect("python3"))
    };
    let mut programs: Vec<_> = PROGRAMS.iter().map(start).collect();
    for (what, program) in &mut programs {
        let mut output = BufReader::new(program.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("read");
        assert_eq!(line, "used\n", "{what} could not use the mount");
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    }
    programs
}

/// Whether it has ended or computes: what computes does not wait for the mount, and needs its turn on a busy machine.
fn ended_or_runs(program: &mut Child) -> bool {
    let runs = || fs::read_to_string(format!("/proc/{}/stat", program.id())).is_ok_and(|stat| stat.contains(") R "));
    runs() || program.try_wait().expect("waited").is_some()
}

/// Waits until all have ended, whatever with, or panics with the states of those that have not.
fn expect_ends(cluster: &Cluster, programs: &mut [(&'static str, Child)], when: &str) {
    let none_hangs = cluster.wait(SOON, || programs.iter_mut().all(|(_, program)| ended_or_runs(program)));
    let all_ended = |programs: &mut [(&str, Child)]| {
        programs.iter_mut().all(|(_, program)| program.try_wait().expect("waited").is_some())
    };
    if none_hangs && cluster.wait(SOON_WHEN_BUSY, || all_ended(programs)) {
        return;
    }
    let left: Vec<String> = programs
        .iter_mut()
        .filter_map(|(what, program)| {
            let hangs = matches!(program.try_wait(), Ok(None));
            let stack = fs::read_to_string(format!("/proc/{}/stack", program.id())).unwrap_or_default();
            let stack = stack.lines().take(5).collect::<Vec<_>>().join(" < ");
            hangs.then(|| format!("{what} {}: {stack}", program.id()))
        })
        .collect();
    programs.iter_mut().for_each(|(_, program)| drop(program.kill()));
    panic!("{when}: these have not ended: {left:#?}");
}

/// Changes files and names under the programs' feet, until told to stop.
fn disturb(root: &Path, stop: &AtomicBool, changes: &AtomicUsize) {
    let block = vec![7; 64 << 10];
    let mut number = 0usize;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let file = OpenOptions::new().write(true).open(root.join(format!("file{}", number % FILES))).expect("open");
        file.write_all_at(&block, (number * block.len() % FILE_BYTES) as u64).expect("written");
        drop(file);
        let name = root.join("names").join(format!("shared{}", number % FILES));
        if fs::remove_file(&name).is_err() {
            fs::write(&name, "").expect("made");
        }
        changes.fetch_add(1, Ordering::Relaxed);
    }
}

fn prepare(root: &Path) {
    fs::create_dir(root.join("names")).expect("made");
    for number in 0..FILES {
        fs::write(root.join(format!("file{number}")), vec![1; FILE_BYTES]).expect("written");
    }
}

#[test]
fn a_killed_mount_leaves_nobody_hanging_and_its_folder_can_be_mounted_again() {
    let rounds: usize = std::env::var("RFS_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    // What a killed mount holds is waited for in each round, until its session has expired.
    let master_settings = ["session_expiry=5s", "heartbeat_interval=1s"].map(str::to_owned).to_vec();
    let cluster = Cluster::start_shaped(Shape { master_settings, ..Shape::default() }).expect("a cluster");
    let (mount, other) = (cluster.mount().expect("a mount"), cluster.mount().expect("another"));
    prepare(other.path());
    let (stop, changes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mount = std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for _ in 0..2 {
            scope.spawn(|| disturb(other.path(), &stop, &changes));
        }
        let mut mount = mount;
        for round in 0..rounds {
            let when = format!("round {round}");
            let before = changes.load(Ordering::Relaxed);
            let mut programs = start_programs(mount.path());
            // The mount that was killed before holds leases until its session has expired, so the other one waits a while.
            let worked = cluster.wait(Duration::from_secs(40), || changes.load(Ordering::Relaxed) > before + 40);
            assert!(worked, "{when}: the other mount gets nothing done");
            std::thread::sleep(Duration::from_millis(37 * round as u64 % 100));
            let dead = mount.kill_and_leave(SOON).expect("the process ends");
            expect_ends(&cluster, &mut programs, &when);
            mount = cluster.mount_again(dead).expect("mounted again");
            fs::metadata(mount.path().join("file0")).unwrap_or_else(|error| panic!("{when}: file0: {error}"));
        }
        mount
    });
    mount.unmount().expect("unmounted");
    other.unmount().expect("unmounted");
}

/// Also when a check fails, so that the scope's threads end.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Within this the process has ended whatever the master does: `END_PATIENCE` and margins of mount.rfs.
const BOUNDED: Duration = Duration::from_secs(20);

fn mounted_with_programs(cluster: &Cluster) -> (Mount, Vec<(&'static str, Child)>) {
    let mount = cluster.mount().expect("a mount");
    prepare(mount.path());
    let programs = start_programs(mount.path());
    std::thread::sleep(Duration::from_millis(500));
    (mount, programs)
}

#[test]
fn a_mount_without_its_master_ends_in_bounded_time_when_told_to() {
    let mut cluster = Cluster::start().expect("a cluster");
    let (mount, mut programs) = mounted_with_programs(&cluster);
    cluster.kill_master();
    std::thread::sleep(Duration::from_millis(500));
    let status = mount.terminate(BOUNDED).expect("it ends");
    assert!(!status.success(), "what was not written is reported: {status}");
    expect_ends(&cluster, &mut programs, "SIGTERM without a master");
}

#[test]
fn a_mount_without_its_master_can_be_unmounted_by_force() {
    let mut cluster = Cluster::start().expect("a cluster");
    let (mount, mut programs) = mounted_with_programs(&cluster);
    cluster.kill_master();
    std::thread::sleep(Duration::from_millis(500));
    unmount(mount.path(), UnmountFlags::FORCE | UnmountFlags::DETACH).expect("unmounted");
    expect_ends(&cluster, &mut programs, "umount -f without a master");
    mount.ends_by_itself(BOUNDED).expect("it ends");
}
