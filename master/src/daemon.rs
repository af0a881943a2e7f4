//! The running master: opens its folder, starts what serves, waits for the end, and ends cleanly.
//!
//! Ports are bound before anything serves, so that a port in use stops the start and nothing half runs. When all serves,
//! `addresses.json` in the data folder says where. At the end operations under way are answered, then the store is folded,
//! so that the next start replays nothing.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use rfs_common::background::{self, WorkerHandle};
use rfs_common::clock::{SharedClock, SystemClock};
use rfs_common::durable::write_atomically;
use rfs_common::endpoint::{CHUNKSERVER_TO_MASTER_PORT, CLIENT_TO_MASTER_PORT, Endpoint, METRICS_PORT, WEB_PORT};
use rfs_common::folder_lock::FolderLock;
use rfs_common::ids::ClusterId;
use rfs_common::random::SystemRandom;
use rfs_common::shutdown::Shutdown;
use rfs_common::socket::{self, master_address};
use serde::Serialize;
use tokio::runtime::Runtime;
use tonic::service::Routes;

use crate::admin::AdminService;
use crate::chunks::Severity;
use crate::cluster::ClusterService;
use crate::cluster::keeper::AskedKeeper;
use crate::config::MasterConfig;
use crate::engine::{CompareCopies, CopyDigests, Engine, Storage, Ticker};
use crate::exports::{ExportWorker, Exports};
use crate::grpc;
use crate::session::listener::{Announced, SessionServer};
use crate::status::{Gatherer, HealthWatch, MasterState, RedundancyWatch, StoreHandle};
use crate::store::anchor::{Anchor, shown};
use crate::store::{OpenError, Store};
use crate::web;

/// Name of the file that says where a running master listens.
pub const ADDRESSES_FILE: &str = "addresses.json";

/// For answers under way at the end.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Where a running master listens.
#[derive(Debug, Serialize)]
struct Addresses {
    clients: SocketAddr,
    cluster: SocketAddr,
    web: SocketAddr,
    metrics: SocketAddr,
    process_id: u32,
}

struct Sockets {
    clients: TcpListener,
    cluster: TcpListener,
    web: TcpListener,
    metrics: TcpListener,
}

/// Runs the master until a signal ends it.
///
/// # Errors
/// Why it cannot start, or could not end cleanly.
pub fn run(config: &MasterConfig) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals().context("cannot wait for signals")?;
    serve(config, &SystemClock::shared(), &shutdown)
}

fn serve(config: &MasterConfig, clock: &SharedClock, shutdown: &Shutdown) -> anyhow::Result<()> {
    require_store(&config.data)?;
    let folder = config.data.as_path();
    let anchor = Anchor::of(folder).with_context(|| format!("cannot open {}", folder.display()))?;
    // What was mounted on the folder, if anything was: it may be unmounted while the master runs.
    let config = &MasterConfig { data: anchor.path(), ..config.clone() };
    let _lock = FolderLock::acquire_through(&config.data, folder)?;
    let sockets = Sockets::bind(config)?;
    let addresses = sockets.addresses()?;
    let store = Arc::new(open_store(config, clock.clone())?);
    let cluster = ClusterId::new(u128::from_be_bytes(store.cluster()));
    let storage: Arc<dyn Storage> = Arc::clone(&store) as Arc<dyn Storage>;
    let engine = Engine::open(storage, cluster, config.engine_config(), clock.clone(), SystemRandom::shared())
        .context("cannot start")?;
    let exports = Exports::new(config.exports_config());
    let state: Arc<dyn MasterState> = Arc::clone(&engine) as Arc<dyn MasterState>;
    let handle = StoreHandle { store: Arc::clone(&store), folder: config.data.clone() };
    let gatherer = Arc::new(Gatherer::new(state, Some(handle), exports.clone(), env!("CARGO_PKG_VERSION")));
    let workers = start_workers(&engine, &store, &exports, &gatherer, shutdown)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("service")
        .enable_all()
        .build()
        .context("cannot start the threads for chunkservers and administration")?;
    let announced = Announced { cluster_port: addresses.cluster.port(), web_port: addresses.web.port() };
    let Sockets { clients, cluster: cluster_socket, web, metrics } = sockets;
    let names = config.web_names.clone();
    start_services(&runtime, &engine, &gatherer, (cluster_socket, web, metrics), names, shutdown)?;
    let local = master_address(cluster, engine.master_start()).and_then(|address| socket::listen(&address));
    let local = local.inspect_err(|error| tracing::warn!(%error, "there is no socket for this host; TCP serves")).ok();
    let sessions = SessionServer::start(clients, local, Arc::clone(&engine), config.listener_config(), announced)
        .context("cannot serve clients")?;
    if let Err(error) = write_addresses(&config.data, &addresses) {
        // A full disk, most likely; the ports are usually known without it.
        tracing::warn!(
            error = format!("{error:#}"),
            "no {ADDRESSES_FILE}: programs that look there do not find this master"
        );
    }
    tracing::info!(
        %cluster, data = %folder.display(), clients = %addresses.clients, chunkservers = %addresses.cluster,
        page = %addresses.web, metrics = %addresses.metrics, "the master serves"
    );
    let started = format!("the master has started (version {}, cluster {cluster})", env!("CARGO_PKG_VERSION"));
    MasterState::report(&*engine, Severity::Information, started);
    shutdown.wait();
    tracing::info!(reason = %shutdown.reason().map(|reason| reason.to_string()).unwrap_or_default(), "the master stops");
    engine.stop();
    sessions.stop(STOP_PATIENCE);
    runtime.shutdown_timeout(STOP_PATIENCE);
    workers.into_iter().for_each(WorkerHandle::join);
    store
        .close()
        .context("the metadata could not be folded at the end; nothing is lost, the next start takes longer")?;
    tracing::info!("the master has stopped");
    Ok(())
}

/// Checks that a folder has a master's metadata in it.
///
/// # Errors
/// With the command that makes one.
pub fn require_store(folder: &Path) -> anyhow::Result<()> {
    if crate::store::is_store(folder) {
        return Ok(());
    }
    let shown = folder.display();
    bail!(
        "{shown} has no metadata in it; if a disk belongs there, mount it; if this is to be a new filesystem, type: \
         mfs-master init {shown}"
    );
}

fn open_store(config: &MasterConfig, clock: SharedClock) -> anyhow::Result<Store> {
    let opened = Store::open(&config.data, config.store_options(), clock);
    opened.map_err(|error: OpenError| {
        let is_damaged = matches!(error, OpenError::Damaged { .. } | OpenError::Pages(_));
        let error = anyhow::Error::new(error).context("the metadata cannot be opened");
        if is_damaged { anyhow!("{error:#}; {}", way_back(&config.exports_config().folder)) } else { error }
    })
}

/// What to type when the metadata is damaged, with the newest export.
pub fn way_back(exports: &Path) -> String {
    match crate::exports::newest(exports) {
        Some(export) => {
            format!("to go on from the newest export, type: mfs-master restore {} NEW-FOLDER", shown(&export))
        }
        None => format!("there is no export in {} to restore from", shown(exports)),
    }
}

fn start_workers(
    engine: &Arc<Engine>,
    store: &Arc<Store>,
    exports: &Exports,
    gatherer: &Arc<Gatherer>,
    shutdown: &Shutdown,
) -> anyhow::Result<Vec<WorkerHandle>> {
    let clock = engine.clock();
    let digests: Arc<dyn CompareCopies> = Arc::new(CopyDigests::new(engine.cluster()));
    let ticker = Ticker::new(Arc::clone(engine), &digests).context("cannot start a thread")?;
    let export = ExportWorker::new(exports.clone(), Arc::clone(store), clock.clone());
    let started = [
        background::start(ticker, shutdown.clone(), clock.clone()),
        background::start(export, shutdown.clone(), clock.clone()),
        background::start(gatherer.sampler(), shutdown.clone(), clock.clone()),
        background::start(AskedKeeper::new(Arc::clone(gatherer.state())), shutdown.clone(), clock.clone()),
        background::start(RedundancyWatch::new(Arc::clone(gatherer.state())), shutdown.clone(), clock.clone()),
        background::start(HealthWatch::new(Arc::clone(gatherer)), shutdown.clone(), clock.clone()),
    ];
    started.into_iter().collect::<Result<_, _>>().context("cannot start a thread")
}

fn start_services(
    runtime: &Runtime,
    engine: &Arc<Engine>,
    gatherer: &Arc<Gatherer>,
    (cluster, web, metrics): (TcpListener, TcpListener, TcpListener),
    names: Vec<String>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let state: Arc<dyn MasterState> = Arc::clone(engine) as Arc<dyn MasterState>;
    let service = ClusterService::new(state).context("the known chunkservers cannot be read")?;
    let strangers = service.strangers();
    let service = service.into_server();
    let admin = AdminService::new(Arc::clone(gatherer)).into_server();
    let _inside = runtime.enter();
    let asynchronous = |socket: TcpListener| {
        socket.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(socket)
    };
    let cluster = asynchronous(cluster).context("cannot serve chunkservers")?;
    let routes = Routes::new(service).add_service(admin);
    runtime.spawn(grpc::serve(cluster, routes, strangers, shutdown.clone()));
    let web = asynchronous(web).context("cannot serve the status page")?;
    let metrics = asynchronous(metrics).context("cannot serve metrics")?;
    let (for_web, for_metrics) = (Arc::clone(gatherer), Arc::clone(gatherer));
    let (web_end, metrics_end) = (shutdown.clone(), shutdown.clone());
    runtime.spawn(async move {
        if let Err(error) = web::serve_page(web, for_web, names, web_end).await {
            tracing::error!(%error, "the status page ended");
        }
    });
    runtime.spawn(async move {
        if let Err(error) = web::serve_metrics(metrics, for_metrics, metrics_end).await {
            tracing::error!(%error, "the metrics ended");
        }
    });
    Ok(())
}

impl Sockets {
    fn bind(config: &MasterConfig) -> anyhow::Result<Sockets> {
        let listen = &config.listen;
        Ok(Sockets {
            clients: bind(&listen.clients, CLIENT_TO_MASTER_PORT, "listen.clients")?,
            cluster: bind(&listen.cluster, CHUNKSERVER_TO_MASTER_PORT, "listen.cluster")?,
            web: bind(&listen.web, WEB_PORT, "listen.web")?,
            metrics: bind(&listen.metrics, METRICS_PORT, "listen.metrics")?,
        })
    }

    fn addresses(&self) -> anyhow::Result<Addresses> {
        Ok(Addresses {
            clients: self.clients.local_addr()?,
            cluster: self.cluster.local_addr()?,
            web: self.web.local_addr()?,
            metrics: self.metrics.local_addr()?,
            process_id: std::process::id(),
        })
    }
}

fn bind(endpoint: &Endpoint, default_port: u16, setting: &str) -> anyhow::Result<TcpListener> {
    let resolved =
        endpoint.resolve(default_port).with_context(|| format!("cannot listen on {endpoint} ({setting})"))?;
    TcpListener::bind(&resolved[..]).with_context(|| {
        format!(
            "cannot listen on {endpoint}: another program has the port, or this machine has no such address ({setting} sets \
             another one)"
        )
    })
}

fn write_addresses(folder: &Path, addresses: &Addresses) -> anyhow::Result<()> {
    let text = serde_json::to_vec_pretty(addresses).context("addresses as JSON")?;
    write_atomically(&folder.join(ADDRESSES_FILE), &text).context("cannot note where the master listens")
}

#[cfg(test)]
#[path = "daemon_test.rs"]
mod tests;
