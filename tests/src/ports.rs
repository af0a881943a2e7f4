//! Free ports for a cluster, that stay its own while daemons are down.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};

use anyhow::{Context as _, ensure};

pub(crate) const HOST: &str = "127.0.0.1";
/// Below those that the kernel gives to outgoing connections (`ip_local_port_range`), or a daemon that is down for a moment could
/// lose its port to one.
const PORTS: std::ops::Range<u16> = 12_000..32_000;
const PORTS_PER_CLUSTER: u16 = 16;

/// The ports of one cluster.
pub(crate) struct Ports {
    /// Nobody else gets these ports while this is there.
    _taken: UnixListener,
    pub(crate) cluster: u16,
    pub(crate) clients: u16,
    pub(crate) web: u16,
    pub(crate) metrics: u16,
    pub(crate) data: Vec<u16>,
}

impl Ports {
    /// Free ones, that stay this cluster's also while its daemons are down: a block of ports belongs to whoever has bound a
    /// socket of its name. The kernel gives none of them to outgoing connections.
    pub(crate) fn free(chunkservers: usize) -> anyhow::Result<Self> {
        ensure!(chunkservers + 4 <= usize::from(PORTS_PER_CLUSTER), "a block of ports has too few");
        let blocks = (PORTS.end - PORTS.start) / PORTS_PER_CLUSTER;
        let first = rand::random_range(0..blocks);
        let mut taken =
            (0..blocks).filter_map(|step| Self::take(PORTS.start + (first + step) % blocks * PORTS_PER_CLUSTER));
        let (taken, base) = taken.next().context("all blocks of ports for tests are in use")?;
        Ok(Self {
            _taken: taken,
            cluster: base,
            clients: base + 1,
            web: base + 2,
            metrics: base + 3,
            data: (base + 4..).take(chunkservers).collect(),
        })
    }

    /// None if others use some of them.
    fn take(base: u16) -> Option<(UnixListener, u16)> {
        let name = UnixAddress::from_abstract_name(format!("rfs-test-ports-{base}")).ok()?;
        let taken = UnixListener::bind_addr(&name).ok()?;
        let all_free = (base..base + PORTS_PER_CLUSTER).all(|port| TcpListener::bind((HOST, port)).is_ok());
        all_free.then_some((taken, base))
    }
}
