//! What goes on in a cluster beside the actors: copies made and given up, checkpoints, scrubs. What must stay readable through all
//! that is written once, and verified after every round.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use super::observe;
use super::oracle::{Kind, Problem};
use crate::cluster::{Cluster, Mount};
use crate::programs::program;
use crate::workload;

/// What goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Background {
    /// Nothing.
    #[default]
    Nothing,
    /// The goal of some folders goes up and down.
    Replication,
    /// The master folds its log into its pages, and exports all of it, again and again.
    Checkpoints,
    /// All copies are read again and again.
    Scrub,
}

/// Files that nobody changes.
const FILES: usize = 40;
const FOLDER: &str = "rest";
const FILE_SEED: u64 = 11;
const SCRIPT: &str =
    "while :; do for goal in 3 2; do \"$0\" \"$@\" setgoal --from-root --recursive $goal /rest; sleep 0.7; done; done";

impl Background {
    pub(super) fn master_settings(self) -> &'static [&'static str] {
        match self {
            Self::Checkpoints => &["checkpoint_interval=150ms", "export_interval=1s", "cache_bytes=1MiB"],
            _ => &[],
        }
    }

    pub(super) fn chunkserver_settings(self) -> &'static [&'static str] {
        match self {
            Self::Scrub => &["scrub_period=1s", "scrub_rate_max=1GiB"],
            _ => &[],
        }
    }

    /// Makes the files.
    pub(super) fn prepare(self, mount: &Mount) -> anyhow::Result<()> {
        if matches!(self, Self::Nothing) {
            return Ok(());
        }
        let numbers: Vec<usize> = (0..FILES).collect();
        let root = mount.path().join(FOLDER);
        std::fs::create_dir(&root)?;
        let done = observe::in_parallel(&numbers, |number| workload::write(&root, FILE_SEED, *number, true));
        done.into_iter().collect()
    }

    /// Begins what goes on; it ends with the process.
    pub(super) fn begin(self, cluster: &Cluster) -> anyhow::Result<Option<Child>> {
        if self != Self::Replication {
            return Ok(None);
        }
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT]).arg(program("rfs")).args(["--master", &cluster.master_address()]);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("sh")?;
        cluster.guardian().process(child.id());
        Ok(Some(child))
    }

    /// What is wrong with the files.
    pub(super) fn verify(self, root: &Path) -> Vec<Problem> {
        if matches!(self, Self::Nothing) {
            return Vec::new();
        }
        let numbers: Vec<usize> = (0..FILES).collect();
        let root = root.join(FOLDER);
        let found = observe::in_parallel(&numbers, |number| workload::verify(&root, FILE_SEED, *number));
        found.into_iter().filter_map(Result::err).map(|error| Problem::new(Kind::Bytes, format!("{error:#}"))).collect()
    }
}
