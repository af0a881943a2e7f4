//! The folders that are measured: an rfs cluster and a local XFS volume, made here and removed at the end, and any others.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use rfs_common::trusted;

const LOCAL_BYTES: u64 = 6 << 30;
const CHUNKSERVER_BYTES: u64 = 4 << 30;
const MASTER_BYTES: u64 = 2 << 30;

/// A folder to measure.
pub(crate) struct Place {
    /// For the table.
    pub(crate) name: String,
    /// The folder.
    pub(crate) path: PathBuf,
    /// Words in the command lines of its daemons.
    pub(crate) daemons: Vec<String>,
}

/// All of them. What was made is removed when this is dropped.
pub(crate) struct Places {
    list: Vec<Place>,
    rfs: PathBuf,
    dir: PathBuf,
    volumes: Vec<PathBuf>,
}

impl Places {
    /// Makes the volumes and starts the cluster.
    pub(crate) fn start(bin_dir: &Path, dir: &Path, beside: &[String], daemons: &[String]) -> anyhow::Result<Self> {
        ensure!(!dir.exists(), "{} is there already; remove it, or name another --dir", dir.display());
        trusted::create_folder_with_mode(dir, 0o755)?;
        trusted::require_private(dir)?;
        let rfs = fs::canonicalize(bin_dir)?.join("rfs");
        let mut places = Self { list: Vec::new(), rfs, dir: fs::canonicalize(dir)?, volumes: Vec::new() };
        let local = places.make_volume("local", LOCAL_BYTES)?;
        let master = places.make_volume("master", MASTER_BYTES)?;
        let mut quickstart = Command::new(&places.rfs);
        quickstart.arg("quickstart").arg("--dir").arg(places.cluster()).arg("--meta").arg(master);
        for number in 1..=3 {
            quickstart.arg("--data").arg(places.make_volume(&format!("chunk{number}"), CHUNKSERVER_BYTES)?);
        }
        run(&mut quickstart)?;
        let ours = vec![places.dir.to_string_lossy().into_owned()];
        places.list.push(Place { name: "rfs, goal 2".into(), path: places.cluster().join("mnt"), daemons: ours });
        places.list.push(Place { name: "local XFS".into(), path: local, daemons: Vec::new() });
        for other in beside {
            let (name, path) = other.split_once('=').context("--beside is NAME=PATH")?;
            let words = daemons.iter().filter_map(|daemon| daemon.split_once('=')).filter(|(of, _)| *of == name);
            let daemons = words.map(|(_, word)| word.to_owned()).collect();
            places.list.push(Place { name: name.into(), path: path.into(), daemons });
        }
        Ok(places)
    }

    /// The places of a round: each round begins with another one.
    pub(crate) fn in_turn(&self, round: usize) -> impl Iterator<Item = &Place> {
        let count = self.list.len();
        (0..count).map(move |at| &self.list[(at + round) % count])
    }

    fn cluster(&self) -> PathBuf {
        self.dir.join("cluster")
    }

    fn make_volume(&mut self, name: &str, bytes: u64) -> anyhow::Result<PathBuf> {
        let (image, path) = (self.dir.join(format!("{name}.xfs")), self.dir.join(name));
        File::create(&image)?.set_len(bytes)?;
        fs::create_dir(&path)?;
        run(Command::new("mkfs.xfs").args(["-q", "-f"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path))?;
        self.volumes.push(path.clone());
        Ok(path)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let cluster = self.cluster();
        let _ = run(Command::new(&self.rfs).args(["quickstart", "--stop", "--purge", "--dir"]).arg(cluster));
        for volume in &self.volumes {
            let _ = run(Command::new("umount").arg(volume));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
