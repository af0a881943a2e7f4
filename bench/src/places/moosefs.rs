//! A MooseFS cluster from the distribution's packages, with what it ships as, or syncing as much as it can.
//!
//! Its chunkservers refuse a master on 127.0.0.1, so each cluster has a network namespace of its own, whose loopback has
//! another address, too. Its mounts are visible everywhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::command::run;
use super::volumes::Volumes;
use super::{CHUNKSERVER_BYTES, CHUNKSERVERS, MASTER_BYTES, Place};

const ADDRESS: &str = "10.99.0.1";
/// What the package has for a new master.
const EMPTY_METADATA: &str = "/var/lib/mfs/metadata.mfs.empty";
/// How long chunkservers and mounts may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// What it syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syncing {
    /// Nothing.
    AsShipped,
    /// The log of changes after each change, each chunk when it is closed.
    All,
}

impl Syncing {
    pub(super) fn name(self) -> &'static str {
        match self {
            Syncing::AsShipped => "moosefs",
            Syncing::All => "moosefs-fsync",
        }
    }
}

/// A running cluster; ended when this is dropped.
pub(super) struct MooseFs {
    dir: PathBuf,
    syncing: Syncing,
    namespace: String,
    /// Programs and their configurations, as they were started.
    started: Vec<(&'static str, PathBuf)>,
    mounts: Vec<PathBuf>,
}

impl MooseFs {
    pub(super) fn start(dir: &Path, syncing: Syncing, volumes: &mut Volumes) -> anyhow::Result<MooseFs> {
        ensure!(
            Path::new(EMPTY_METADATA).exists(),
            "MooseFS is not installed ({EMPTY_METADATA} is missing): install moosefs-master, moosefs-chunkserver and \
             moosefs-client, or leave it out with --places rfs,xfs"
        );
        fs::create_dir(dir)?;
        let namespace = format!("rfs-bench-{}-{}", syncing.name(), std::process::id());
        run("ip", &["netns", "add", &namespace], &[])?;
        let mut cluster = MooseFs { dir: dir.to_owned(), syncing, namespace, started: Vec::new(), mounts: Vec::new() };
        run("ip", &["-n", &cluster.namespace, "link", "set", "lo", "up"], &[])?;
        run("ip", &["-n", &cluster.namespace, "addr", "add", &format!("{ADDRESS}/32"), "dev", "lo"], &[])?;
        cluster.start_master(volumes)?;
        for number in 1..=CHUNKSERVERS {
            cluster.start_chunkserver(number, volumes)?;
        }
        for name in ["mnt", "second"] {
            cluster.mount(name)?;
        }
        cluster.run_inside("mfssetgoal", &["2"], &[&cluster.mounts[0].clone()])?;
        Ok(cluster)
    }

    pub(super) fn place(&self) -> Place {
        let statistics = self.mounts[0].join(".stats");
        Place {
            second_path: self.mounts[1].clone(),
            daemons: Some(format!("{}/", self.dir.display())),
            requests: Some(Box::new(move || packets_sent(&fs::read_to_string(&statistics).ok()?))),
            ..Place::mounted(self.syncing.name(), &self.mounts[0])
        }
    }

    fn start_master(&mut self, volumes: &mut Volumes) -> anyhow::Result<()> {
        let data = volumes.make(&self.dir.join("master"), MASTER_BYTES)?;
        fs::copy(EMPTY_METADATA, data.join("metadata.mfs"))?;
        let (exports, topology) = (self.dir.join("exports.cfg"), self.dir.join("topology.cfg"));
        fs::write(&exports, "* / rw,alldirs,admin,maproot=0:0\n")?;
        fs::write(&topology, "")?;
        let save_mode = if self.syncing == Syncing::All { 2 } else { 0 };
        let settings = format!(
            "DATA_PATH = {}\nEXPORTS_FILENAME = {}\nTOPOLOGY_FILENAME = {}\nCHANGELOG_SAVE_MODE = {save_mode}\n",
            data.display(),
            exports.display(),
            topology.display()
        );
        self.start_daemon("mfsmaster", "master.cfg", &settings)
    }

    fn start_chunkserver(&mut self, number: usize, volumes: &mut Volumes) -> anyhow::Result<()> {
        let volume = volumes.make(&self.dir.join(format!("chunk{number}")), CHUNKSERVER_BYTES)?;
        let (own, disks) = (self.dir.join(format!("chunkserver{number}")), self.dir.join(format!("disks{number}.cfg")));
        fs::create_dir(&own)?;
        let chunks = volume.join("chunks");
        fs::create_dir(&chunks)?;
        fs::write(&disks, format!("{}\n", chunks.display()))?;
        let syncs = u8::from(self.syncing == Syncing::All);
        let settings = format!(
            "DATA_PATH = {}\nHDD_CONF_FILENAME = {}\nMASTER_HOST = {ADDRESS}\nCSSERV_LISTEN_PORT = {}\n\
             HDD_FSYNC_BEFORE_CLOSE = {syncs}\n",
            own.display(),
            disks.display(),
            9430 + number
        );
        self.start_daemon("mfschunkserver", &format!("chunkserver{number}.cfg"), &settings)
    }

    fn start_daemon(&mut self, program: &'static str, name: &str, settings: &str) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        fs::write(&path, format!("WORKING_USER = root\nWORKING_GROUP = root\nLOCK_MEMORY = 0\n{settings}"))?;
        self.run_inside(program, &["-c", &path.display().to_string(), "start"], &[])?;
        self.started.push((program, path));
        Ok(())
    }

    /// Tries until the master answers and the chunkservers have told of their space.
    fn mount(&mut self, name: &str) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        fs::create_dir(&path)?;
        let steps = PATIENCE.as_millis() / 500;
        for step in 1..=steps {
            let mounted = self.run_inside("mfsmount", &[&path.display().to_string(), "-H", ADDRESS], &[]);
            if mounted.is_ok() || step == steps {
                mounted?;
                break;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        self.mounts.push(path.clone());
        for _ in 0..steps {
            if rustix::fs::statvfs(&path)?.f_blocks > 0 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        anyhow::bail!("the chunkservers of MooseFS did not come within {PATIENCE:?}")
    }

    /// `ip netns exec` would hide the mount; only the network is to be another one.
    fn run_inside(&self, program: &str, words: &[&str], paths: &[&Path]) -> anyhow::Result<String> {
        let network = format!("--net=/run/netns/{}", self.namespace);
        let all: Vec<&str> = [network.as_str(), program].into_iter().chain(words.iter().copied()).collect();
        run("nsenter", &all, paths).with_context(|| format!("{} does not do this", self.syncing.name()))
    }
}

impl Drop for MooseFs {
    fn drop(&mut self) {
        for mount in &self.mounts {
            report(run("umount", &[], &[mount]));
        }
        for (program, settings) in self.started.iter().rev() {
            report(run(program, &["-c", &settings.display().to_string(), "stop"], &[]));
        }
        report(run("ip", &["netns", "del", &self.namespace], &[]));
    }
}

fn report(result: anyhow::Result<String>) {
    if let Err(error) = result {
        eprintln!("{error}");
    }
}

/// Packets that a mount has sent to its master: one for each request.
fn packets_sent(statistics: &str) -> Option<f64> {
    let line = statistics.lines().find(|line| line.contains("packets_sent"))?;
    line.rsplit([' ', ':', '=']).find_map(|word| word.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statistics_of_its_mount_are_understood() {
        assert_eq!(packets_sent("master.bytes_sent: 7\nmaster.packets_sent: 42\n"), Some(42.0));
        assert_eq!(packets_sent("nothing\n"), None);
    }
}
