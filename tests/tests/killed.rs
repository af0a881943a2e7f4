//! Programs that are killed while they wait for a master that is away: they end at once, also those that handled another signal
//! before, and those that list directories, look names up or open files.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rfs_tests::cluster::Cluster;
use rustix::process::{Pid, Signal, kill_process};

/// Handles SIGUSR1, and makes one call.
const PROGRAM: &str = "
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: None)
call, path = sys.argv[1:]
os.open(path, os.O_RDONLY) if call == 'open' else getattr(os, call)(path)
";

fn start(call: &str, path: &Path) -> Child {
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM, call]).arg(path).stderr(Stdio::null());
    command.spawn().expect("python3")
}

fn is_waiting(child: &mut Child, call: &str, after: &str) {
    assert!(child.try_wait().expect("waited").is_none(), "{call} is over {after}, and the master is away");
}

#[test]
fn whoever_waits_for_the_master_can_be_killed_also_after_another_signal() {
    let mut cluster = Cluster::start().expect("a cluster");
    let (mount, other) = (cluster.mount().expect("a mount"), cluster.mount().expect("another"));
    fs::create_dir(other.path().join("folder")).expect("made");
    for name in ["folder/one", "folder/two", "file"] {
        fs::write(other.path().join(name), name).expect("written");
    }
    let folder = mount.path().join("folder");
    fs::metadata(&folder).expect("known here, but not what is in it");
    cluster.kill_master();
    let calls = [("statvfs", mount.path().to_owned()), ("listdir", folder.clone())];
    let calls = calls.into_iter().chain([("stat", folder.join("one")), ("open", folder.join("two"))]);
    let mut programs: Vec<(&str, Child)> = calls.map(|(call, path)| (call, start(call, &path))).collect();
    std::thread::sleep(Duration::from_millis(1_500));
    for (call, program) in &mut programs {
        is_waiting(program, call, "at once");
        kill_process(Pid::from_child(program), Signal::USR1).expect("told");
    }
    std::thread::sleep(Duration::from_millis(500));
    for (call, program) in &mut programs {
        is_waiting(program, call, "after a signal that it handles");
        program.kill().expect("killed");
        let ended = cluster.wait(Duration::from_secs(2), || program.try_wait().expect("waited").is_some());
        assert!(ended, "SIGKILL does not end a program in {call} that handled a signal before");
    }
    cluster.start_master().expect("the master again");
    let mut names: Vec<_> =
        fs::read_dir(&folder).expect("listed").map(|entry| entry.expect("entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(fs::read_to_string(folder.join("two")).expect("read"), "folder/two");
    mount.unmount().expect("unmounted: nothing that was given up is still held");
}
