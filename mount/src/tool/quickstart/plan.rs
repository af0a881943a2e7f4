//! What a quickstart cluster consists of, and the file that remembers it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use rfs_common::{durable, trusted};
use serde::{Deserialize, Serialize};

use crate::tool::cli::QuickstartArguments;

const FILE_NAME: &str = "quickstart.toml";
const FILE_BYTES_MAX: u64 = 64 << 10;
const CHUNKSERVERS_DEFAULT: u16 = 3;
const PORT_BASE_FIRST: u16 = 9420;
const PORT_BASE_LAST: u16 = 19_420;
/// Offset of the first chunkserver's data port from the base; the master's ports lie below it.
const DATA_PORTS: u16 = 10;

/// A cluster: where its files are and which ports it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// The master's folder.
    pub(super) meta: PathBuf,
    /// One folder for each chunkserver.
    pub(super) data: Vec<PathBuf>,
    /// Copies of each chunk.
    pub(super) goal: u8,
    /// The master's gRPC port; clients +1, web +5, data from +10.
    pub(super) port_base: u16,
    /// The folders in which the master's metadata and the volumes have been made. Such a folder is never made again: if it
    /// is empty, a mount is missing.
    #[serde(default)]
    pub(super) made: Vec<PathBuf>,
}

impl Plan {
    /// The plan of the cluster in `dir`, or none if there is no cluster yet. What another user can have put there is refused:
    /// it would say which processes to end and which folders to remove.
    pub(super) fn load(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(FILE_NAME);
        for place in [dir, &path, &dir.join("run"), &dir.join("log")] {
            trusted::require_private(place)?;
        }
        if !path.exists() {
            return Ok(None);
        }
        let text = durable::read_text_limited(&path, FILE_BYTES_MAX)?;
        let plan: Self = toml::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
        plan.require_trusted(dir)?;
        Ok(Some(plan))
    }

    /// Refuses folders of other users.
    pub(super) fn require_trusted(&self, dir: &Path) -> anyhow::Result<()> {
        for folder in self.data.iter().chain([&self.meta]) {
            match folder.starts_with(dir) {
                true => trusted::require_private(folder)?,
                false => trusted::require_owned(folder)?,
            }
        }
        Ok(())
    }

    /// Whether something with this name in `dir` is for this cluster.
    pub(super) fn has_place(&self, dir: &Path, name: &std::ffi::OsStr) -> bool {
        let path = dir.join(name);
        let folders = self.data.iter().chain([&self.meta, &self.mount]);
        folders.into_iter().any(|folder| folder.starts_with(&path))
    }

    /// Remembers the plan.
    pub(super) fn save(&self, dir: &Path) -> anyhow::Result<()> {
        let text = toml::to_string(self).context("cannot write the plan")?;
        Ok(durable::write_atomically(&dir.join(FILE_NAME), text.as_bytes())?)
    }

    /// Removes the file.
    pub(super) fn forget(dir: &Path) -> anyhow::Result<()> {
        Ok(durable::remove_file(&dir.join(FILE_NAME))?)
    }

    /// A plan for a new cluster in `dir` (absolute).
    pub(super) fn new(dir: &Path, arguments: &QuickstartArguments) -> anyhow::Result<Self> {
        let count = chunkserver_count(arguments)?;
        let data = if arguments.data.is_empty() {
            (1..=count).map(|number| dir.join(format!("chunkserver{number}"))).collect()
        } else {
            arguments.data.iter().map(|path| absolute(path)).collect::<anyhow::Result<Vec<_>>>()?
        };
        let plan = Self {
            mount: arguments.mount.as_deref().map_or_else(|| Ok(dir.join("mnt")), absolute)?,
            meta: arguments.meta.as_deref().map_or_else(|| Ok(dir.join("master")), absolute)?,
            goal: arguments.goal.unwrap_or(if count == 1 { 1 } else { 2 }),
            port_base: match arguments.port_base {
                Some(base) => base,
                None => free_port_base(count)?,
            },
            data,
            made: Vec::new(),
        };
        plan.check(count)?;
        Ok(plan)
    }

    fn check(&self, count: u16) -> anyhow::Result<()> {
        ensure!(
            u16::from(self.goal) <= count,
            "--goal {} needs as many chunkservers, and there are {count}; lower the goal or raise --chunkservers",
            self.goal
        );
        let mut folders: Vec<&PathBuf> = self.data.iter().chain([&self.meta, &self.mount]).collect();
        folders.sort();
        for pair in folders.windows(2) {
            ensure!(
                pair[0] != pair[1],
                "{} is given for two purposes; each needs a folder of its own",
                pair[0].display()
            );
        }
        for folder in self.data.iter().chain([&self.meta]) {
            ensure!(
                !folder.starts_with(&self.mount),
                "{} lies below the mount point {}; the cluster's data cannot be inside itself",
                folder.display(),
                self.mount.display()
            );
        }
        Ok(())
    }

    /// Refuses arguments that would change what the cluster already is.
    pub(super) fn agree(&self, arguments: &QuickstartArguments) -> anyhow::Result<()> {
        let differs = |option: &str, have: String, asked: String| -> anyhow::Result<()> {
            bail!(
                "the cluster that is here has {option} {have}, not {asked}; leave the option out, or use another --dir"
            )
        };
        if let Some(mount) = &arguments.mount {
            let mount = absolute(mount)?;
            if mount != self.mount {
                differs("--mount", self.mount.display().to_string(), mount.display().to_string())?;
            }
        }
        if let Some(meta) = &arguments.meta {
            let meta = absolute(meta)?;
            if meta != self.meta {
                differs("--meta", self.meta.display().to_string(), meta.display().to_string())?;
            }
        }
        if let Some(goal) = arguments.goal.filter(|goal| *goal != self.goal) {
            differs("--goal", self.goal.to_string(), goal.to_string())?;
        }
        if let Some(base) = arguments.port_base.filter(|base| *base != self.port_base) {
            differs("--port-base", self.port_base.to_string(), base.to_string())?;
        }
        if let Some(count) = arguments.chunkservers.filter(|count| usize::from(*count) != self.data.len()) {
            differs("--chunkservers", self.data.len().to_string(), count.to_string())?;
        }
        let data = arguments.data.iter().map(|path| absolute(path)).collect::<anyhow::Result<Vec<_>>>()?;
        if !data.is_empty() && data != self.data {
            let list = |paths: &[PathBuf]| paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
            differs("--data", list(&self.data), list(&data))?;
        }
        Ok(())
    }

    /// gRPC: chunkservers and administration.
    pub(super) fn cluster_port(&self) -> u16 {
        self.port_base
    }

    /// Clients.
    pub(super) fn client_port(&self) -> u16 {
        self.port_base + 1
    }

    /// The web page.
    pub(super) fn web_port(&self) -> u16 {
        self.port_base + 5
    }

    /// Metrics.
    pub(super) fn metrics_port(&self) -> u16 {
        self.port_base + 6
    }

    /// All ports of the master.
    pub(super) fn master_ports(&self) -> [u16; 4] {
        [self.cluster_port(), self.client_port(), self.web_port(), self.metrics_port()]
    }

    /// Data port of a chunkserver, counted from 0.
    pub(super) fn data_port(&self, index: usize) -> u16 {
        self.port_base + DATA_PORTS + u16::try_from(index).unwrap_or(u16::MAX - self.port_base - DATA_PORTS)
    }
}

fn chunkserver_count(arguments: &QuickstartArguments) -> anyhow::Result<u16> {
    let given = u16::try_from(arguments.data.len()).context("too many --data")?;
    match (arguments.chunkservers, given) {
        (Some(count), 0) => Ok(count),
        (None, 0) => Ok(CHUNKSERVERS_DEFAULT),
        (None, given) => Ok(given),
        (Some(count), given) if count == given => Ok(count),
        (Some(count), given) => {
            bail!("--chunkservers {count} does not fit {given} times --data; give one --data for each, or none")
        }
    }
}

/// The path from the root, without following links that are not there yet.
pub(super) fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    if let Ok(existing) = std::fs::canonicalize(path) {
        return Ok(existing);
    }
    std::path::absolute(path).with_context(|| format!("cannot use the path {}", path.display()))
}

/// Refuses ports that another program has: whoever answers there would be taken for a part of this cluster.
pub(super) fn require_free(ports: &[u16], whose: &str) -> anyhow::Result<()> {
    match ports.iter().find(|port| !is_free(**port)) {
        None => Ok(()),
        Some(port) => bail!(
            "port {port}, which {whose} needs, is in use by another program; end that one, or give a new cluster \
             other ports with --port-base"
        ),
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

/// The first base from 9420 whose ports are all free now.
fn free_port_base(chunkservers: u16) -> anyhow::Result<u16> {
    let step = DATA_PORTS + chunkservers.next_multiple_of(10);
    (PORT_BASE_FIRST..PORT_BASE_LAST)
        .step_by(usize::from(step))
        .find(|base| {
            [0, 1, 5, 6].iter().all(|offset| is_free(base + offset))
                && (0..chunkservers).all(|index| is_free(base + DATA_PORTS + index))
        })
        .context("no free ports from 9420 on; name some with --port-base")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: QuickstartArguments,
    }

    fn arguments(line: &[&str]) -> QuickstartArguments {
        Line::parse_from(std::iter::once(&"quickstart").chain(line)).arguments
    }

    #[test]
    fn the_number_of_folders_is_the_number_of_chunkservers() {
        let plan = Plan::new(Path::new("/x"), &arguments(&["--data", "/a", "--data", "/b", "--port-base", "2000"]));
        assert_eq!(plan.expect("a plan").data, [PathBuf::from("/a"), PathBuf::from("/b")]);
        let wrong = Plan::new(Path::new("/x"), &arguments(&["--data", "/a", "--chunkservers", "2"]));
        assert!(wrong.expect_err("refused").to_string().contains("--chunkservers 2"));
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_is_made() {
        let refused = |line: &[&str]| Plan::new(Path::new("/x"), &arguments(line)).expect_err("refused").to_string();
        assert!(refused(&["--chunkservers", "1", "--goal", "2"]).contains("--goal 2"));
        assert!(refused(&["--meta", "/x/mnt"]).contains("two purposes"));
        assert!(refused(&["--mount", "/y", "--data", "/y/z"]).contains("inside itself"));
    }

    #[test]
    fn an_existing_cluster_is_not_changed() {
        let plan = Plan::new(Path::new("/x"), &arguments(&["--port-base", "2000"])).expect("a plan");
        assert!(plan.agree(&arguments(&["--goal", "2"])).is_ok());
        assert!(plan.agree(&arguments(&["--goal", "3"])).is_err());
        assert!(plan.agree(&arguments(&["--mount", "/elsewhere"])).is_err());
    }

    #[test]
    fn a_plan_survives_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let plan = Plan::new(Path::new("/x"), &arguments(&["--port-base", "2000"])).expect("a plan");
        plan.save(folder.path()).expect("saved");
        assert_eq!(Plan::load(folder.path()).expect("loaded"), Some(plan));
    }
}
