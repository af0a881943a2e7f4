//! What a program may expect of any local filesystem, as a table of small cases.
//!
//! Each case is a function that gets an empty folder of its own and fails with words. All cases pass on a local XFS
//! volume (that finds a case that is itself wrong), and must pass on a mount of rfs without a change. The cases stand in
//! one file per subject; [`run_all`] runs them, each in a thread of its own with a time limit, prints their names, and
//! collects what failed instead of stopping at the first. `RFS_CASE=text` picks the cases with `text` in their name.

pub(crate) mod calls;

pub(crate) mod checks;

pub(crate) mod lock_holder;

mod times;

mod time_limits;

pub mod access_times;

mod modes;

mod owners;

mod acls;

mod rename;

mod links;

mod directories;

mod names;

mod data;

mod sparse;

mod open_files;

mod xattrs;

mod locks;

mod mmap;

mod special;

pub mod exerciser;

use std::fs;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rfs_common::clock::{Clock as _, SystemClock};

/// No case needs a second on a local filesystem; one that takes this long hangs.
const CASE_LIMIT: Duration = Duration::from_secs(60);

/// One thing that must hold.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    name: &'static str,
    run: fn(&Path) -> anyhow::Result<()>,
    on_xfs: OnXfs,
}

/// Whether XFS is a judge of a case.
#[derive(Clone, Copy)]
pub(crate) enum OnXfs {
    /// It must pass there too.
    Passes,
    /// XFS legitimately differs, for this reason.
    Differs(&'static str),
}

impl Case {
    pub(crate) const fn new(name: &'static str, run: fn(&Path) -> anyhow::Result<()>) -> Self {
        Self { name, run, on_xfs: OnXfs::Passes }
    }

    /// For what a filesystem may do better than XFS.
    pub(crate) const fn differs_on_xfs(mut self, reason: &'static str) -> Self {
        self.on_xfs = OnXfs::Differs(reason);
        self
    }
}

/// A table of cases named as their functions.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        &[$($crate::semantics::Case::new(stringify!($case), $case)),*]
    };
}
pub(crate) use cases;

/// Subjects in the order in which they run.
fn subjects() -> Vec<(&'static str, Vec<Case>)> {
    let tables: [(&str, &[Case]); 16] = [
        ("times", times::CASES),
        ("time_limits", time_limits::CASES),
        ("modes", modes::CASES),
        ("owners", owners::CASES),
        ("acls", acls::CASES),
        ("rename", rename::CASES),
        ("links", links::CASES),
        ("directories", directories::CASES),
        ("names", names::CASES),
        ("data", data::CASES),
        ("sparse", sparse::CASES),
        ("open_files", open_files::CASES),
        ("xattrs", xattrs::CASES),
        ("locks", locks::CASES),
        ("mmap", mmap::CASES),
        ("special", special::CASES),
    ];
    tables.into_iter().map(|(subject, cases)| (subject, cases.to_vec())).collect()
}

/// On what the cases are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// A local XFS, which judges the cases themselves.
    LocalXfs,
    /// A mount of rfs.
    Rfs,
}

/// Cases in which rfs differs on purpose, and why; docs/known-limits.md says what an application sees.
const RFS_DIFFERS: &[(&str, &str)] = &[];

/// Why a case is left out on this ground.
fn differs(name: &str, case: &Case, ground: Ground) -> Option<&'static str> {
    match (ground, case.on_xfs) {
        (Ground::LocalXfs, OnXfs::Differs(reason)) => Some(reason),
        (Ground::LocalXfs, OnXfs::Passes) => None,
        (Ground::Rfs, _) => RFS_DIFFERS.iter().find(|(known, _)| *known == name).map(|(_, reason)| *reason),
    }
}

/// Runs every case below `root`, which other users can reach, and prints a line for each.
///
/// # Errors
/// With the names of the cases that failed and what they said.
#[allow(clippy::print_stdout, reason = "the list of cases is what a person looks for in a test's output")]
pub fn run_all(root: &Path, ground: Ground) -> anyhow::Result<()> {
    let wanted = std::env::var("RFS_CASE").unwrap_or_default();
    let mut failures = Vec::new();
    let mut count = 0;
    for (subject, cases) in subjects() {
        for case in cases {
            let name = format!("{subject}::{}", case.name);
            if !name.contains(&wanted) {
                continue;
            }
            if let Some(reason) = differs(&name, &case, ground) {
                println!("skipped {name}: {reason}");
                continue;
            }
            count += 1;
            let start = SystemClock.monotonic();
            let result = run_one(&root.join(&name), case.run);
            let took_ms = SystemClock.monotonic().since(start).as_millis();
            match result {
                Ok(()) => println!("ok      {name} ({took_ms} ms)"),
                Err(error) => {
                    println!("FAILED  {name} ({took_ms} ms): {error:#}");
                    failures.push(format!("{name}: {error:#}"));
                }
            }
        }
    }
    if count == 0 {
        bail!("no case has {wanted:?} in its name");
    }
    if !failures.is_empty() {
        bail!("{} of {count} cases failed:\n{}", failures.len(), failures.join("\n"));
    }
    println!("{count} cases passed");
    Ok(())
}

/// In a thread of its own: its umask, working directory, and user are its own affair, and it may hang.
fn run_one(folder: &Path, case: fn(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    fs::create_dir(folder).with_context(|| format!("a folder for the case: {}", folder.display()))?;
    checks::chmod(folder, 0o755)?;
    let (done, result) = channel();
    let path = folder.to_owned();
    let thread = std::thread::Builder::new().name("case".into()).spawn(move || {
        let outcome = calls::own_umask_and_directory().and_then(|()| case(&path));
        let _ = done.send(outcome);
    })?;
    match result.recv_timeout(CASE_LIMIT) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => bail!("it does not end within {} s", CASE_LIMIT.as_secs()),
        Err(RecvTimeoutError::Disconnected) => {
            let panic = thread.join().err();
            let words = panic.as_ref().and_then(|panic| {
                panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()))
            });
            bail!("it panicked: {}", words.unwrap_or_default())
        }
    }
}
