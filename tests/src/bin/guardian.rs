//! Cleans up after one test: reads what the test made, one thing a line, and removes all of it when its input ends.
//!
//! Lines: `process PID`, `mount PATH`, `frozen PATH` (of a mount that may be frozen), `loop DEVICE FILE`, `folder PATH`, `keep` (folders stay: the test failed). It runs in a process
//! group of its own, so that nothing that ends the test ends it too.

use std::io::BufRead;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::Timespec;

const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
const END_LIMIT: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

#[derive(Default)]
struct Made {
    /// Not by number: that of one which has ended is given to another, of another test.
    processes: Vec<OwnedFd>,
    mounts: Vec<String>,
    frozen: Vec<String>,
    loops: Vec<(String, String)>,
    folders: Vec<String>,
    keep: bool,
}

fn main() {
    let mut made = Made::default();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        made.note(&line);
    }
    made.remove();
}

impl Made {
    fn note(&mut self, line: &str) {
        let (kind, what) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "process" => {
                self.processes.retain(|process| !has_ended(process, NO_WAIT));
                let pid = what.parse().ok().and_then(Pid::from_raw);
                self.processes.extend(pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()));
            }
            "mount" => self.mounts.push(what.to_owned()),
            "frozen" => self.frozen.push(what.to_owned()),
            "loop" => {
                self.loops.extend(what.split_once(' ').map(|(device, file)| (device.to_owned(), file.to_owned())));
            }
            "folder" => self.folders.push(what.to_owned()),
            "keep" => self.keep = true,
            _ => {}
        }
    }

    /// What is held up goes on first; mounts then, by force, so that no process waits for one; then processes; then what lies beneath.
    fn remove(&self) {
        // Looked at while the files are there: where one lay in a mount, the kernel names it otherwise afterwards.
        let loops: Vec<&String> =
            self.loops.iter().filter(|(device, file)| is_behind(device, file)).map(|(device, _)| device).collect();
        for process in &self.processes {
            let _ = pidfd_send_signal(process, Signal::CONT);
        }
        for path in &self.frozen {
            let _ = Command::new("fsfreeze").arg("--unfreeze").arg(path).output();
        }
        for path in self.mounts.iter().rev() {
            let _ = unmount(path, UnmountFlags::FORCE | UnmountFlags::DETACH);
        }
        for process in &self.processes {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        for process in &self.processes {
            has_ended(process, END_LIMIT);
        }
        for path in self.mounts.iter().rev() {
            let _ = unmount(path, UnmountFlags::DETACH);
        }
        for device in loops {
            let _ = Command::new("losetup").args(["-d", device]).output();
        }
        if !self.keep {
            for folder in &self.folders {
                if Path::new(folder).starts_with(rfs_tests::guardian::folder_of_all_tests()) {
                    let _ = std::fs::remove_dir_all(folder);
                }
            }
        }
    }
}

/// Whether the loop device still is that of this file.
fn is_behind(device: &str, file: &str) -> bool {
    let name = device.trim_start_matches("/dev/");
    let backing = std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
    backing.is_ok_and(|backing| backing.trim_end_matches('\n') == file)
}

/// Whether a process has ended, a zombie too, at the latest after this time.
fn has_ended(process: &OwnedFd, limit: Timespec) -> bool {
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)).is_ok_and(|ready| ready > 0)
}
