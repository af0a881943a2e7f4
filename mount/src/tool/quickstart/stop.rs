//! Ends a quickstart cluster: the mount first, so that all it holds is written, then chunkservers, then the master.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rfs_common::folder_lock::{FolderLock, FolderLockError};
use rfs_common::shutdown::Shutdown;
use rfs_common::trusted;
use rustix::mount::{UnmountFlags, unmount};
use serde_json::json;

use super::plan::{Plan, absolute};
use super::processes::{Ended, Process};
use super::programs::own_name;
use super::start::{Daemons, is_mounted, lock, wait_until_unmounted};
use crate::tool::cli::QuickstartArguments;
use crate::tool::output::{Form, complain, print_json, print_text, spinner};

/// Within which a mount that was unmounted ends by itself.
const TAKES_LEAVE_WITHIN: Duration = Duration::from_secs(5);
const UNMOUNTED_WITHIN: Duration = Duration::from_secs(30);

/// What the daemons make in the folders they were given. Only these are removed by `--purge`: a folder may be a mount
/// point, or hold what is not ours.
const OURS_IN_META: &[&str] = &[
    "identity",
    "identity.new",
    "log",
    "pages",
    "checkpoint",
    "checkpoint.new",
    "reserve",
    "opening-reserve",
    "lock",
    "addresses.json",
    "exports",
    "unfinished",
];
const OURS_IN_DATA: &[&str] =
    &["volume.toml", "volume.toml.new", "running.toml", "chunks", "incoming", "lost", "lock", "probe", "scrub.toml"];
const OURS_IN_DIR: &[&str] = &["run", "log", "quickstart.toml.new"];

/// `rfs quickstart --stop [--purge]`
pub(super) fn stop(arguments: &QuickstartArguments, form: Form) -> anyhow::Result<()> {
    trusted::require_private(&arguments.dir)?;
    let dir = absolute(&arguments.dir)?;
    let Some(plan) = Plan::load(&dir)? else {
        bail!("there is no quickstart cluster in {}; name its folder with --dir", dir.display());
    };
    let only_one = lock(&dir)?;
    let daemons = Daemons::of(&dir, &plan, &Shutdown::new())?;
    let bar = spinner(form, "Unmounting, and ending the daemons ...");
    end_mount(&daemons.mount, &plan)?;
    for process in daemons.chunkservers.iter().chain([&daemons.master]) {
        end(process)?;
    }
    drop(only_one);
    bar.finish_and_clear();
    if arguments.purge {
        purge(&dir, &plan)?;
    }
    if form == Form::Programs {
        return print_json(&json!({ "dir": dir, "ended": true, "removed": arguments.purge }));
    }
    if arguments.purge {
        return print_text(&format!("The cluster in {} is ended and removed.", dir.display()));
    }
    let (rfs, dir) = (own_name(), dir.display());
    print_text(&format!("The cluster in {dir} is ended. `{rfs} quickstart --dir {dir}` starts it again."))
}

fn end_mount(process: &Process, plan: &Plan) -> anyhow::Result<()> {
    if is_mounted(plan) {
        match unmount(&plan.mount, UnmountFlags::empty()) {
            Ok(()) => {}
            Err(rustix::io::Errno::BUSY) => bail!(
                "{0} is in use; end what uses it (fuser -vm {0} shows it), then run this again",
                plan.mount.display()
            ),
            Err(rustix::io::Errno::PERM) => unmount_as_user(&plan.mount)?,
            Err(error) => return Err(error).with_context(|| format!("cannot unmount {}", plan.mount.display())),
        }
        if !wait_until_unmounted(plan, UNMOUNTED_WITHIN) {
            bail!("{} is still mounted; see {}", plan.mount.display(), process.log_file().display());
        }
        // It takes leave of the master: the next start would wait for its session otherwise.
        process.let_end(TAKES_LEAVE_WITHIN);
    }
    end(process)
}

/// Users mounted with the help of fusermount3, and unmount with it.
fn unmount_as_user(mount: &Path) -> anyhow::Result<()> {
    let output = Command::new("fusermount3").arg("-u").arg(mount).output().context("cannot run fusermount3")?;
    if !output.status.success() {
        bail!("cannot unmount {}: {}", mount.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn end(process: &Process) -> anyhow::Result<()> {
    if process.end()? == Ended::Killed {
        complain(&format!(
            "{} did not end by itself and was killed; its log is {}",
            process.name(),
            process.log_file().display()
        ));
    }
    Ok(())
}

/// Locks every folder of the cluster, so that what is removed is nobody's: a daemon that was started by other means, or that the
/// records have lost, holds its folder's lock.
fn lock_all(plan: &Plan) -> anyhow::Result<Vec<FolderLock>> {
    let mut locks = Vec::new();
    for folder in plan.data.iter().chain([&plan.meta]).filter(|folder| folder.is_dir()) {
        match FolderLock::acquire(folder) {
            Ok(lock) => locks.push(lock),
            Err(FolderLockError::Held { folder, pid }) => {
                let who = pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
                bail!(
                    "{} is in use by {who}, which this quickstart has not started, or knows nothing of any more; nothing was removed. \
                     End it, then run this again",
                    folder.display()
                );
            }
            // Where not even a lock's file can be made there may still be something to remove.
            Err(error) => complain(&format!("rfs: {error}")),
        }
    }
    Ok(locks)
}

fn purge(dir: &Path, plan: &Plan) -> anyhow::Result<()> {
    let _locks = lock_all(plan)?;
    remove_ours(&plan.meta, OURS_IN_META)?;
    for folder in &plan.data {
        remove_ours(folder, OURS_IN_DATA)?;
    }
    remove_ours(dir, OURS_IN_DIR)?;
    Plan::forget(dir)?;
    // Folders go if nothing else is in them; mount points and other people's files stay.
    for folder in plan.data.iter().chain([&plan.meta, &plan.mount]) {
        let _ = fs::remove_dir(folder);
    }
    let _ = fs::remove_dir(dir);
    Ok(())
}

fn remove_ours(folder: &Path, names: &[&str]) -> anyhow::Result<()> {
    for name in names {
        let path = folder.join(name);
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(_) => continue,
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_removed_from_under_a_daemon_that_the_records_do_not_know() {
        let folder = tempfile::tempdir().expect("a folder");
        let (meta, data) = (folder.path().join("meta"), folder.path().join("data1"));
        for place in [&meta, &data] {
            fs::create_dir(place).expect("made");
            fs::write(place.join("identity"), "here").expect("written");
            fs::write(place.join("volume.toml"), "here").expect("written");
        }
        let (mount, made) = (folder.path().join("mount"), Vec::new());
        let plan = Plan { mount, meta: meta.clone(), data: vec![data.clone()], goal: 1, port_base: 0, made };
        let daemon = FolderLock::acquire(&data).expect("locked");
        let error = purge(folder.path(), &plan).expect_err("it runs");
        assert!(error.to_string().contains("nothing was removed"), "{error:#}");
        assert!(meta.join("identity").exists() && data.join("volume.toml").exists());
        drop(daemon);
        purge(folder.path(), &plan).expect("removed");
        assert!(!meta.exists() || !meta.join("identity").exists());
        assert!(!data.join("volume.toml").exists());
    }
}
