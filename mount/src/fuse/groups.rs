//! The supplementary groups of whoever asks.
//!
//! A FUSE request names user, group and thread of the caller, not its supplementary groups. The kernel itself decides with
//! all of them (`default_permissions`), but the master decides again, and would refuse what the kernel has allowed. So they
//! are read from `/proc/PID/status`, for users other than root, to whom permissions do not apply.
//!
//! Reading that file takes some 20 us, so groups are kept for [`KEPT_FOR`] per process. A process is told from a later one
//! with the same number by the inode of its folder in /proc, which is new for each process.
//!
//! What always holds: when the groups cannot be read (the process is gone, or lives in another PID namespace, number 0),
//! none are claimed; the master can then only refuse more than the kernel did, never less.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rfs_common::clock::{Monotonic, SharedClock};

/// How long a process that changes its groups is still taken to have the old ones.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// Processes remembered; all are forgotten when there are more.
const REMEMBERED_MAX: usize = 1024;

/// The groups of a process; shared, since many requests of one process need the same.
pub(super) type GroupList = Arc<[u32]>;

/// Reads and remembers the groups of processes.
#[derive(Debug)]
pub(super) struct Groups {
    clock: SharedClock,
    remembered: Mutex<HashMap<u32, Remembered>>,
}

#[derive(Debug)]
struct Remembered {
    user: u32,
    group: u32,
    folder_inode: u64,
    groups: GroupList,
    read_at: Monotonic,
}

impl Groups {
    pub(super) fn new(clock: SharedClock) -> Groups {
        Groups { clock, remembered: Mutex::default() }
    }

    /// The supplementary groups of this thread, which acts as this user and group.
    pub(super) fn of(&self, process: u32, user: u32, group: u32) -> GroupList {
        if user == 0 || process == 0 {
            return GroupList::default();
        }
        let Ok(folder) = fs::metadata(format!("/proc/{process}")) else { return GroupList::default() };
        let (folder_inode, now) = (folder.ino(), self.clock.monotonic());
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let known = remembered.get(&process).filter(|known| {
            (known.user, known.group, known.folder_inode) == (user, group, folder_inode)
                && now.since(known.read_at) < KEPT_FOR
        });
        if let Some(known) = known {
            return Arc::clone(&known.groups);
        }
        let groups = read_groups(process);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        let entry = Remembered { user, group, folder_inode, groups: Arc::clone(&groups), read_at: now };
        remembered.insert(process, entry);
        groups
    }
}

fn read_groups(process: u32) -> GroupList {
    fs::read_to_string(format!("/proc/{process}/status")).map(|status| parse_groups(&status)).unwrap_or_default()
}

/// The line `Groups:` of proc_pid_status(5).
fn parse_groups(status: &str) -> GroupList {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_ascii_whitespace().filter_map(|group| group.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rfs_common::clock::SystemClock;

    #[test]
    fn finds_the_line_among_others() {
        assert_eq!(&*parse_groups("Name:\tx\nGid:\t1\t1\t1\t1\nGroups:\t4 24 1000 \nNgid:\t0\n"), [4, 24, 1000]);
        assert!(parse_groups("Groups:\t \n").is_empty());
        assert!(parse_groups("").is_empty());
    }

    #[test]
    fn root_and_strangers_have_none() {
        let groups = Groups::new(SystemClock::shared());
        let own = std::process::id();
        assert!(groups.of(own, 0, 0).is_empty());
        assert!(groups.of(0, 1000, 1000).is_empty());
        assert!(groups.of(u32::MAX, 1000, 1000).is_empty());
        assert_eq!(groups.remembered.lock().unwrap().len(), 0);
        groups.of(own, 1000, 1000);
        groups.of(own, 1000, 1000);
        assert_eq!(groups.remembered.lock().unwrap().len(), 1);
    }
}
