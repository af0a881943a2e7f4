//! Machines that are network namespaces: the master's, one for each chunkserver, a client's, and the hub between them, in which the
//! test itself stands. Each can be cut off, both ways or one way, and each has a file that says how wrong its wall clock is.
//!
//! A namespace has no name in the system: it is there for as long as a process is in it. The process that keeps it ends with its
//! standard input, which is the test's, so that nothing is left of a test that was killed.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::daemon::Place;
use crate::guardian::Guardian;
use crate::programs::run;

/// One of the machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// The master's.
    Master,
    /// That of this chunkserver, counted from 0.
    Chunkserver(usize),
    /// The one that [`crate::cluster::Cluster::mount_on_client`] mounts on.
    Client,
}

/// What does not get through any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Silence {
    /// Nothing at all.
    BothWays,
    /// What others send to the machine.
    Incoming,
    /// What the machine sends.
    Outgoing,
}

/// The network of one cluster.
pub(crate) struct Network {
    /// In the order of [`Network::number`].
    machines: Vec<Namespace>,
    hub: Namespace,
    clocks: PathBuf,
    home: File,
}

struct Namespace {
    keeper: Child,
    path: PathBuf,
}

impl Network {
    /// Makes them all, and moves this thread into the hub.
    pub(crate) fn make(guardian: &Guardian, folder: &Path, chunkservers: usize) -> anyhow::Result<Self> {
        let clocks = folder.join("clocks");
        fs::create_dir(&clocks)?;
        let home = File::open("/proc/thread-self/ns/net")?;
        let hub = Namespace::make(guardian)?;
        hub.shell(
            "ip link set lo up; ip link add hub type bridge; ip addr add 10.77.0.1/24 dev hub; ip link set hub up",
        )?;
        let network = Self {
            machines: (0..chunkservers + 2).map(|_| Namespace::make(guardian)).collect::<anyhow::Result<_>>()?,
            hub,
            clocks,
            home,
        };
        for (number, machine) in network.machines.iter().enumerate() {
            fs::write(network.clock(number), "0")?;
            let keeper = machine.keeper.id();
            network.hub.shell(&format!(
                "ip link add m{number} type veth peer name eth0 netns {keeper}; ip link set m{number} master hub up"
            ))?;
            let address = address(number);
            machine.shell(&format!("ip link set lo up; ip addr add {address}/24 dev eth0; ip link set eth0 up"))?;
        }
        enter(&File::open(&network.hub.path)?)?;
        Ok(network)
    }

    fn number(machine: Machine) -> usize {
        match machine {
            Machine::Master => 0,
            Machine::Client => 1,
            Machine::Chunkserver(index) => index + 2,
        }
    }

    /// The machine's address.
    pub(crate) fn address(machine: Machine) -> String {
        address(Self::number(machine))
    }

    /// What a process needs to run there.
    pub(crate) fn place(&self, machine: Machine) -> Place {
        let number = Self::number(machine);
        Place { network: self.machines[number].path.clone(), clock: self.clock(number) }
    }

    pub(crate) fn cut_off(&self, machine: Machine, silence: Silence) -> anyhow::Result<()> {
        let incoming = "chain i { type filter hook input priority 0; policy drop; iif lo accept; }";
        let outgoing = "chain o { type filter hook output priority 0; policy drop; oif lo accept; }";
        let chains = match silence {
            Silence::BothWays => format!("{incoming}; {outgoing}"),
            Silence::Incoming => incoming.to_owned(),
            Silence::Outgoing => outgoing.to_owned(),
        };
        self.nft(machine, &format!("table inet cut {{ {chains}; }}"))
    }

    pub(crate) fn connect_again(&self, machine: Machine) -> anyhow::Result<()> {
        self.nft(machine, "flush ruleset")
    }

    fn nft(&self, machine: Machine, rules: &str) -> anyhow::Result<()> {
        self.machines[Self::number(machine)].shell(&format!("nft '{rules}'"))
    }

    pub(crate) fn set_clock(&self, machine: Machine, seconds: i64) -> anyhow::Result<()> {
        // In one step: whoever reads it meanwhile has the old or the new one.
        let (path, new) = (self.clock(Self::number(machine)), self.clocks.join("new"));
        fs::write(&new, seconds.to_string())?;
        Ok(fs::rename(new, path)?)
    }

    fn clock(&self, number: usize) -> PathBuf {
        self.clocks.join(number.to_string())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The thread that is left may make another network.
        let _ = enter(&self.home);
    }
}

fn address(number: usize) -> String {
    format!("10.77.0.{}", number + 10)
}

fn enter(namespace: &File) -> anyhow::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).context("a network namespace")
}

impl Namespace {
    fn make(guardian: &Guardian) -> anyhow::Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo ready; exec cat"]).current_dir("/");
        let mut keeper = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("unshare")?;
        guardian.process(keeper.id());
        let said = keeper.stdout.as_mut().context("it writes a line")?.read(&mut [0; 8])?;
        ensure!(said > 0, "no network namespace can be made");
        let path = PathBuf::from(format!("/proc/{}/ns/net", keeper.id()));
        Ok(Self { keeper, path })
    }

    fn shell(&self, line: &str) -> anyhow::Result<()> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path.display())).args(["sh", "-ec", line]);
        run(&mut command).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
