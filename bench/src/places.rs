//! The folders that are measured: clusters and a local volume, made here and removed at the end, and any others.

mod command;

mod moosefs;

mod rfs;

mod volumes;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use rfs_common::trusted;

use crate::cost;
use moosefs::{MooseFs, Syncing};
use rfs::Rfs;
use volumes::Volumes;

const LOCAL_BYTES: u64 = 12 << 30;
const CHUNKSERVER_BYTES: u64 = 10 << 30;
const MASTER_BYTES: u64 = 2 << 30;
const CHUNKSERVERS: usize = 3;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Our cluster, goal 2.
    Rfs,
    /// MooseFS as it ships, goal 2.
    #[value(name = "moosefs")]
    MooseFs,
    /// MooseFS with its log and its chunks synced as far as it can.
    #[value(name = "moosefs-fsync")]
    MooseFsSyncing,
    /// An XFS volume without a network.
    Xfs,
}

/// A folder to measure.
pub(crate) struct Place {
    /// For the table.
    pub(crate) name: String,
    /// The folder.
    pub(crate) path: PathBuf,
    /// The same by another mount; the same path where there is no other.
    pub(crate) second_path: PathBuf,
    /// What the command lines of its daemons have in them.
    daemons: Option<String>,
    /// How its master tells what it was asked.
    requests: Option<Box<dyn Fn() -> Option<f64>>>,
}

impl Place {
    fn mounted(name: impl Into<String>, path: impl Into<PathBuf>) -> Place {
        let path = path.into();
        Place { name: name.into(), second_path: path.clone(), path, daemons: None, requests: None }
    }

    /// What its daemons and mounts have used so far.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        Some(cost::usage(self.daemons.as_ref()?).cpu_seconds)
    }

    /// The sum of the peaks of its daemons and mounts.
    pub(crate) fn peak_memory_mib(&self) -> Option<f64> {
        Some(cost::usage(self.daemons.as_ref()?).memory_mib)
    }

    /// What its master has answered so far.
    pub(crate) fn master_requests(&self) -> Option<f64> {
        self.requests.as_ref()?()
    }
}

/// All of them. What was made is removed when this is dropped: first the clusters, then their volumes, then the folder.
pub(crate) struct Places {
    list: Vec<Place>,
    _rfs: Option<Rfs>,
    _moosefs: Vec<MooseFs>,
    _volumes: Volumes,
    _folder: Folder,
}

struct Folder(PathBuf);

impl Places {
    /// Makes the volumes and starts the clusters.
    pub(crate) fn start(bin_dir: &Path, dir: &Path, kinds: &[Kind], beside: &[String]) -> anyhow::Result<Places> {
        ensure!(!dir.exists(), "{} is there already; remove it, or name another --dir", dir.display());
        trusted::create_folder_with_mode(dir, 0o755)?;
        trusted::require_private(dir)?;
        let dir = fs::canonicalize(dir)?;
        let mut places = Places {
            list: Vec::new(),
            _rfs: None,
            _moosefs: Vec::new(),
            _volumes: Volumes::default(),
            _folder: Folder(dir.clone()),
        };
        for kind in kinds {
            places.add(*kind, bin_dir, &dir)?;
        }
        for other in beside {
            let (name, path) = other.split_once('=').context("--beside is NAME=PATH")?;
            places.list.push(Place::mounted(name, path));
        }
        Ok(places)
    }

    fn add(&mut self, kind: Kind, bin_dir: &Path, dir: &Path) -> anyhow::Result<()> {
        let volumes = &mut self._volumes;
        match kind {
            Kind::Xfs => {
                let path = volumes.make(&dir.join("xfs"), LOCAL_BYTES)?;
                self.list.push(Place::mounted("local XFS", path));
            }
            Kind::Rfs => {
                let cluster = self._rfs.insert(Rfs::start(bin_dir, &dir.join("rfs"), volumes)?);
                self.list.push(cluster.place()?);
            }
            Kind::MooseFs | Kind::MooseFsSyncing => {
                let syncing = if kind == Kind::MooseFs { Syncing::AsShipped } else { Syncing::All };
                let cluster = MooseFs::start(&dir.join(syncing.name()), syncing, volumes)?;
                self.list.push(cluster.place());
                self._moosefs.push(cluster);
            }
        }
        Ok(())
    }

    /// Their names, in the order of the table.
    pub(crate) fn names(&self) -> Vec<String> {
        self.list.iter().map(|place| place.name.clone()).collect()
    }

    /// The places of a round: each round begins with another one.
    pub(crate) fn in_turn(&self, round: usize) -> impl Iterator<Item = &Place> {
        let count = self.list.len();
        (0..count).map(move |at| &self.list[(at + round) % count])
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Only what is not mounted any more is removed.
        let _ = command::run("rm", &["-rf", "--one-file-system"], &[&self.0]);
    }
}
