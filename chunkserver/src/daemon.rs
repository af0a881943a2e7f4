//! The daemon: volumes, data port and link to the master, started in this order and ended in the reverse one.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rfs_common::clock::SharedClock;
use rfs_common::durable;
use rfs_common::endpoint::CHUNKSERVER_DATA_PORT;
use rfs_common::random::Random;
use rfs_common::shutdown::Shutdown;
use rfs_common::socket::{self, chunkserver_address, files_address};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::data::connection::Shared;
use crate::data::local_port::LocalPort;
use crate::data::peers::Peers;
use crate::data::port::Port;
use crate::link::stream::{End, Link, Setting};
use crate::volume::store::{Counters, Surroundings};
use crate::volumes::Volumes;

/// Bad copies that wait to be reported.
const BAD_COPIES_MAX: usize = 1024;
/// How long the start waits for volumes before it serves those that are there.
const OPENING_LIMIT: Duration = Duration::from_secs(10);
const ADDRESSES_FILE: &str = "addresses";

/// A running chunkserver.
#[derive(Debug)]
pub struct Daemon {
    volumes: Volumes,
    port: Port,
    local: Option<LocalPort>,
    link: Link,
}

impl Daemon {
    /// Starts everything.
    ///
    /// # Errors
    /// A configuration that cannot work, a port that is taken, or folders of which none ever was a volume.
    pub fn start(
        config: &Config,
        clock: &SharedClock,
        random: &dyn Random,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Daemon> {
        ensure!(
            !config.data.is_empty(),
            "no volume is named; give --data DIR for each after `chunkserver init DIR`, or `data` in the file of --config"
        );
        let master = config
            .master
            .clone()
            .context("no master is named; give --master HOST[:PORT], or `master` in the file of --config")?;
        let (bad_sender, bad_copies) = mpsc::channel(BAD_COPIES_MAX);
        let counters = Arc::new(Counters::default());
        let around = Surroundings {
            settings: config.volume_settings(),
            clock: Arc::clone(clock),
            bad_copies: bad_sender,
            counters: Arc::clone(&counters),
        };
        let listener = listen(config)?;
        let volumes = Volumes::start(&config.data, around, config.retry_interval.get())?;
        volumes.wait_until_tried(OPENING_LIMIT);
        if let Err(error) = check_any(&volumes) {
            volumes.stop();
            return Err(error);
        }
        let peers = Peers::new(config.chain_connect_deadline.get(), config.chain_answer_deadline.get());
        let shared = Arc::new(Shared { volumes: volumes.clone(), peers });
        let port = Port::start(
            listener,
            listen_locally(&shared),
            Arc::clone(&shared),
            config.connections_max,
            Arc::clone(clock),
        )?;
        let local = start_local_port(&shared, clock);
        tracing::info!(address = %port.address(), volumes = config.data.len(), "chunkserver serves data");
        if let Some(run_dir) = &config.run_dir {
            write_addresses(run_dir, port.address())?;
        }
        let link = Link::start(Setting {
            master,
            shared,
            counters,
            bad_copies,
            data_port: port.address().port(),
            data_address: config.data_address.clone(),
            host: config.host.clone(),
            start: random.u64() | 1,
            clock: Arc::clone(clock),
            shutdown: shutdown.clone(),
        })?;
        Ok(Daemon { volumes, port, local, link })
    }

    /// Where the data port listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Its volumes.
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// Finishes what is under way, closes the volumes cleanly, and tells the master.
    pub fn stop(self) -> End {
        self.port.stop();
        if let Some(local) = &self.local {
            local.stop();
        }
        self.volumes.stop();
        self.link.leave()
    }
}

/// Without it, clients of this host use the data port like others.
fn listen_locally(shared: &Shared) -> Option<UnixListener> {
    let Some((_, server)) = shared.volumes.owner() else {
        tracing::warn!("no volume is readable yet: programs of this host use TCP until the next start");
        return None;
    };
    let listening = chunkserver_address(server).and_then(|address| socket::listen(&address));
    listening.inspect_err(|error| tracing::warn!(%error, "there is no socket for this host; TCP serves")).ok()
}

/// Without it, clients of this host read through the data port like others.
fn start_local_port(shared: &Arc<Shared>, clock: &SharedClock) -> Option<LocalPort> {
    let (_, server) = shared.volumes.owner()?;
    let started =
        files_address(server).and_then(|address| LocalPort::start(&address, Arc::clone(shared), Arc::clone(clock)));
    started.inspect_err(|error| tracing::warn!(%error, "clients of this host cannot be given files to read from")).ok()
}

fn listen(config: &Config) -> anyhow::Result<TcpListener> {
    let addresses = config.listen.resolve(CHUNKSERVER_DATA_PORT)?;
    TcpListener::bind(&addresses[..]).with_context(|| {
        format!("cannot listen on {}: another program has the port, or this machine has no such address (`listen` sets another one)", config.listen)
    })
}

/// A daemon of which no folder has an identity has nothing to wait for: it was not set up. One whose volumes another process
/// has would take that one's place at the master, without a volume to serve.
fn check_any(volumes: &Volumes) -> anyhow::Result<()> {
    let slots = volumes.slots();
    let may_come =
        slots.iter().any(|slot| slot.identity().is_some()) && !slots.iter().any(|slot| slot.is_held_by_another());
    if !volumes.in_use().is_empty() || may_come {
        return Ok(());
    }
    let mut reasons = String::new();
    for slot in volumes.slots() {
        if let crate::volumes::Current::Out { reason, .. } = slot.current() {
            let _ = write!(reasons, "\n  {reason}");
        }
    }
    bail!("no volume can be used:{reasons}")
}

fn write_addresses(run_dir: &Path, data: SocketAddr) -> anyhow::Result<()> {
    durable::create_folder(run_dir)?;
    durable::write_atomically(&run_dir.join(ADDRESSES_FILE), format!("data = \"{data}\"\n").as_bytes())?;
    Ok(())
}

#[cfg(test)]
#[path = "daemon_test.rs"]
mod tests;
