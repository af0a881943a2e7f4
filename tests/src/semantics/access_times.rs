//! Which call sets the time of access, under each of the options of mount(8) about it: a series of steps, of which each is
//! judged by what the same step does on a local XFS that is mounted with the same option.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use rustix::fs::{AtFlags, CWD, OFlags, Timespec, Timestamps, UTIME_OMIT, readlinkat, utimensat};

use super::calls::{Map, MapKind};
use super::checks::{chmod, let_time_pass, make_file, open_new, stat};

/// A step: what it does, and of which node the time of access is looked at.
struct Step {
    name: &'static str,
    node: &'static str,
    run: fn(&Path) -> anyhow::Result<()>,
}

/// In this order; later steps build on earlier ones. The folder is `folder`, below that in which they run.
const STEPS: &[Step] = &[
    Step { name: "make and write", node: "folder/file", run: |root| make(root) },
    Step { name: "stat", node: "folder/file", run: |root| stat(&file(root)).map(drop) },
    Step { name: "open and close", node: "folder/file", run: |root| Ok(File::open(file(root)).map(drop)?) },
    Step { name: "read with O_NOATIME", node: "folder/file", run: |root| read_unnoted(root) },
    Step { name: "read", node: "folder/file", run: |root| read(&file(root)) },
    Step { name: "read again", node: "folder/file", run: |root| read(&file(root)) },
    Step {
        name: "change the mode, then read",
        node: "folder/file",
        run: |root| {
            chmod(&file(root), 0o600)?;
            let_time_pass();
            read(&file(root))
        },
    },
    Step {
        name: "write through one descriptor, read through an older one",
        node: "folder/file",
        run: |root| {
            let reader = File::open(file(root))?;
            OpenOptions::new().write(true).open(file(root))?.write_all_at(b"other", 3)?;
            let_time_pass();
            Ok(reader.read_exact_at(&mut [0; 20], 0)?)
        },
    },
    Step {
        name: "write and read through one descriptor",
        node: "folder/file",
        run: |root| {
            let both = open_new(&file(root))?;
            both.write_all_at(b"more", 5)?;
            let_time_pass();
            Ok(both.read_exact_at(&mut [0; 20], 0)?)
        },
    },
    Step { name: "read what only another descriptor read", node: "folder/file", run: |root| read(&file(root)) },
    Step { name: "set the time back", node: "folder/file", run: |root| set_access(&file(root), 1_000_000_000) },
    Step { name: "read after that", node: "folder/file", run: |root| read(&file(root)) },
    Step {
        name: "map and look",
        node: "folder/file",
        run: |root| {
            chmod(&file(root), 0o644)?;
            let_time_pass();
            look_through_a_map(&file(root))
        },
    },
    Step {
        name: "rename, then read",
        node: "folder/file",
        run: |root| {
            fs::rename(file(root), root.join("folder/moved"))?;
            fs::rename(root.join("folder/moved"), file(root))?;
            let_time_pass();
            read(&file(root))
        },
    },
    Step { name: "read a file without bytes", node: "folder/empty", run: |root| read(&root.join("folder/empty")) },
    Step {
        name: "run a program",
        node: "folder/program",
        run: |root| {
            ensure!(Command::new(root.join("folder/program")).status()?.success(), "it fails");
            Ok(())
        },
    },
    Step { name: "list", node: "folder", run: |root| list(root) },
    Step { name: "list again", node: "folder", run: |root| list(root) },
    Step {
        name: "make a file, then list",
        node: "folder",
        run: |root| {
            File::create(root.join("folder/one more"))?;
            let_time_pass();
            list(root)
        },
    },
    Step {
        name: "look up",
        node: "folder",
        run: |root| stat(&root.join("folder/none")).map_or_else(|_| Ok(()), |_| Ok(())),
    },
    Step { name: "read a link", node: "folder/link", run: |root| read_link(root) },
    Step { name: "read a link again", node: "folder/link", run: |root| read_link(root) },
    Step {
        name: "follow another link",
        node: "folder/second link",
        run: |root| read(&root.join("folder/second link")),
    },
];

/// Runs the steps in a folder, and says of each whether the time of access rose, fell or stayed.
///
/// # Errors
/// If a step fails.
pub fn trace(root: &Path) -> anyhow::Result<Vec<String>> {
    prepare(root)?;
    let mut lines = Vec::new();
    for step in STEPS {
        let_time_pass();
        let before = access(&root.join(step.node))?;
        (step.run)(root).context(step.name)?;
        let after = access(&root.join(step.node))?;
        lines.push(format!("{}: {:?}", step.name, after.cmp(&before)));
    }
    Ok(lines)
}

fn prepare(root: &Path) -> anyhow::Result<()> {
    fs::create_dir(root.join("folder"))?;
    File::create(root.join("folder/file"))?;
    File::create(root.join("folder/empty"))?;
    fs::copy("/bin/true", root.join("folder/program"))?;
    fs::set_permissions(root.join("folder/program"), fs::Permissions::from_mode(0o755))?;
    symlink("file", root.join("folder/link"))?;
    Ok(symlink("file", root.join("folder/second link"))?)
}

fn file(root: &Path) -> std::path::PathBuf {
    root.join("folder/file")
}

fn access(path: &Path) -> anyhow::Result<(i64, i64)> {
    let stat = stat(path)?;
    Ok((stat.atime(), stat.atime_nsec()))
}

fn make(root: &Path) -> anyhow::Result<()> {
    make_file(&file(root), &[b'x'; 10_000])
}

fn read(path: &Path) -> anyhow::Result<()> {
    Ok(File::open(path)?.read_to_end(&mut Vec::new()).map(drop)?)
}

fn read_unnoted(root: &Path) -> anyhow::Result<()> {
    let flags = i32::try_from(OFlags::NOATIME.bits())?;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(file(root))?;
    Ok(file.read_to_end(&mut Vec::new()).map(drop)?)
}

fn set_access(path: &Path, seconds: i64) -> anyhow::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: seconds, tv_nsec: 5 },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    };
    Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
}

fn look_through_a_map(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path)?;
    let map = Map::new(&file, MapKind::SharedForReading, 0, 4096)?;
    ensure!(map.read(0, 1) == b"x", "another byte");
    Ok(())
}

fn list(root: &Path) -> anyhow::Result<()> {
    ensure!(fs::read_dir(root.join("folder"))?.count() >= 5, "all names");
    Ok(())
}

fn read_link(root: &Path) -> anyhow::Result<()> {
    ensure!(readlinkat(CWD, root.join("folder/link"), Vec::new())?.as_bytes() == b"file", "another target");
    Ok(())
}
