//! A second process, the closer, that closes the kernel's connection when the process that serves the mount has died.
//!
//! A connection closes by itself when the last file of /dev/fuse is closed, and that is when the last *thread* of a killed
//! process is gone. A thread that has the kernel forget something may at that moment wait in the kernel for a page or a
//! folder that is locked on behalf of a program, whose request only this process would have answered. No signal ends
//! that wait: thread, connection and program would stay until somebody writes to fusectl. So a process that shares no
//! files with the first one, and never asks the kernel for anything of the mount, does that.
//!
//! The kernel tells it of the death by a signal (PR_SET_PDEATHSIG) when the first process's main thread ends, which no
//! notification can hold up. It holds the connection's `abort` file open from the start, so it needs no rights, no path and no
//! memory when the time has come, and can never meet another connection of the same number.
//!
//! What always holds: the connection is closed only after the main thread of the first process has ended. Signals that
//! end a whole group or service (SIGTERM, SIGINT, SIGHUP) do not end the closer, which the end of a mount may yet need.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rfs_common::clock::SystemClock;
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};

use super::ExitStatus;
use crate::mountpoint::DeviceNumber;

/// The process to outlive; set for the closer.
const WATCHED_VARIABLE: &str = "RFS_MOUNT_CLOSER_OF";

/// What `ps` shows, so that nobody who ends `mount.rfs` by its name ends the closer first.
const NAME: &str = "rfs-mount-end";

/// Where the kernel shows its FUSE connections, if somebody has mounted that.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// The signal comes a moment before the process is seen to be dead.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const LOOKS: u32 = 200;

/// Starts the closer for the mount on this device. To be called by the main thread, whose end the closer waits for.
///
/// # Errors
/// If the connection's file cannot be opened (it needs root, or fusectl mounted), or the process cannot be started.
pub(super) fn start(device: DeviceNumber) -> io::Result<()> {
    let abort = open_abort(device)?;
    // Nobody waits for this child: it ends after this process.
    Command::new(std::env::current_exe()?)
        .arg0(NAME)
        .env(WATCHED_VARIABLE, std::process::id().to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(abort)
        .spawn()
        .map(drop)
}

/// A connection is known by its device, whose major number is that of all file systems without a disk.
fn open_abort(device: DeviceNumber) -> io::Result<File> {
    let name = format!("{}/abort", device.minor);
    if let Ok(file) = OpenOptions::new().write(true).open(Path::new(CONNECTIONS).join(&name)) {
        return Ok(file);
    }
    // A mount that is in no folder, and gone with its last open file.
    let filesystem = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&filesystem)?;
    let connections = fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(File::from(openat(connections, &name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?))
}

/// The process that this one is the closer of, if it is one.
pub(super) fn watched_process() -> Option<i32> {
    std::env::var(WATCHED_VARIABLE).ok()?.parse().ok()
}

/// The closer's life: waits for the process's end and closes its connection, whose `abort` is the standard output.
pub(super) fn watch(process: i32) -> ExitStatus {
    let closed = wait_for_end(process).and_then(|()| close(&mut io::stdout().lock()));
    match closed {
        Ok(()) => ExitStatus::Success,
        Err(error) => {
            super::say(&format!("cannot close the connection of the dead mount.rfs {process}: {error}"));
            ExitStatus::System
        }
    }
}

fn wait_for_end(process: i32) -> io::Result<()> {
    rustix::thread::set_name(c"rfs-mount-end")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let _taken = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        let mut ended = signal(SignalKind::user_defined1())?;
        set_parent_process_death_signal(Some(Signal::USR1))?;
        // It may have ended before the kernel was asked to tell.
        while !ends(process) {
            ended.recv().await;
        }
        Ok(())
    })
}

/// Whether the process has ended, or does so now.
fn ends(process: i32) -> bool {
    let clock = SystemClock::shared();
    for _ in 0..LOOKS {
        if has_ended(process) {
            return true;
        }
        clock.sleep(LOOK_EVERY);
    }
    false
}

/// Whether its main thread has. Then this process has another parent, or the same as a zombie that other threads keep.
fn has_ended(process: i32) -> bool {
    if getppid().map(|parent| parent.as_raw_nonzero().get()) != Some(process) {
        return true;
    }
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    stat.map_or(true, |stat| is_dead(&stat))
}

/// Reads the state out of proc_pid_stat(5): what follows the name, which is in parentheses and may contain some.
fn is_dead(stat: &str) -> bool {
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

fn close(abort: &mut impl Write) -> io::Result<()> {
    abort.write_all(b"1\n")?;
    abort.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_is_dead_whatever_its_name() {
        assert!(is_dead("7 (mount.rfs) Z 1 7"));
        assert!(is_dead("7 (a) S (b) X 1 7"));
        assert!(!is_dead("7 (mount) Z (rfs) S 1 7"));
        assert!(!is_dead("7 (mount.rfs) D 1 7"));
    }

    #[test]
    fn a_living_parent_has_not_ended_and_any_other_process_has() {
        let parent = getppid().unwrap().as_raw_nonzero().get();
        assert!(!has_ended(parent));
        assert!(has_ended(parent + 1));
    }
}
