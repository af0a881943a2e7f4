//! The stream to the master: registers, tells, takes orders, and begins again for as long as the daemon runs.
//!
//! It runs on a thread of its own with a small tokio runtime; nothing of the data path waits for it. A stream that is
//! silent for twice the master's expiry time is given up.

use std::sync::Arc;
use std::time::Duration;

use rfs_common::background;
use rfs_common::clock::SharedClock;
use rfs_common::endpoint::Endpoint;
use rfs_common::random::{Random, SystemRandom};
use rfs_common::shutdown::Shutdown;
use rfs_proto::PROTOCOL_VERSION;
use rfs_proto::cluster::cluster_client::ClusterClient;
use rfs_proto::cluster::from_chunkserver::Message;
use rfs_proto::cluster::to_chunkserver::Message as Told;
use rfs_proto::cluster::{
    BadCopy as WireBadCopy, FromChunkserver, Judgement, Leaving, Refused, Register, Registered, ToChunkserver,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::data::connection::Shared;
use crate::volume::identity::with_sources;
use crate::volume::store::{BadCopy, Counters};
use crate::volumes::Slot;

use super::ask::{Answer, ask};
use super::messages::{Rates, inventory, message, volumes};
use super::orders::Orders;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
const REGISTER_LIMIT: Duration = Duration::from_secs(10);
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// What the link is made of.
#[derive(Debug)]
pub struct Setting {
    /// The master's address for clients.
    pub master: Endpoint,
    /// Volumes and connections.
    pub shared: Arc<Shared>,
    /// What has been done.
    pub counters: Arc<Counters>,
    /// Found by the volumes.
    pub bad_copies: mpsc::Receiver<BadCopy>,
    /// Port of the data port.
    pub data_port: u16,
    /// The address to tell others instead of the one found out.
    pub data_address: Option<Endpoint>,
    /// Name of this machine.
    pub host: Option<String>,
    /// Changes with every start.
    pub start: u64,
    /// The clock.
    pub clock: SharedClock,
    /// Requested when the master refuses for good.
    pub shutdown: Shutdown,
}

/// The link's thread.
#[derive(Debug)]
pub struct Link {
    leave: watch::Sender<bool>,
    thread: std::thread::JoinHandle<End>,
}

/// How the link ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Because it was told to leave.
    Left,
    /// Because the master will never take this chunkserver.
    Refused(String),
}

impl Link {
    /// Starts the thread.
    ///
    /// # Errors
    /// Those of the system.
    pub fn start(setting: Setting) -> std::io::Result<Link> {
        let (leave, left) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shutdown = setting.shutdown.clone();
        let thread = background::spawn("master-link", move || {
            let end = runtime.block_on(Runner::new(setting, left).run());
            runtime.shutdown_background();
            if let End::Refused(_) = end {
                shutdown.request();
            }
            end
        })?;
        Ok(Link { leave, thread })
    }

    /// Tells the master that this chunkserver leaves, and ends.
    pub fn leave(self) -> End {
        self.leave.send_replace(true);
        self.thread.join().unwrap_or(End::Left)
    }
}

struct Runner {
    setting: Setting,
    orders: Orders,
    left: watch::Receiver<bool>,
    last_trouble: String,
}

/// Why one stream ended.
enum StreamEnd {
    Left,
    Broken(String),
    RefusedForGood(String),
}

/// One registration.
struct Session {
    sender: mpsc::Sender<FromChunkserver>,
    incoming: Streaming<ToChunkserver>,
    registered: Registered,
    /// Openings of each slot whose inventory was sent.
    told: Vec<u64>,
    rates: Rates,
}

impl Runner {
    fn new(setting: Setting, left: watch::Receiver<bool>) -> Runner {
        let orders = Orders::new(Arc::clone(&setting.shared));
        Runner { setting, orders, left, last_trouble: String::new() }
    }

    async fn run(mut self) -> End {
        let mut backoff = BACKOFF_FIRST;
        loop {
            let started = self.setting.clock.monotonic();
            let trouble = match self.one_stream().await {
                StreamEnd::Left => return End::Left,
                StreamEnd::RefusedForGood(reason) => return End::Refused(reason),
                StreamEnd::Broken(trouble) => trouble,
            };
            if self.last_trouble != trouble {
                tracing::warn!("no connection to the master; trying again until there is one: {trouble}");
                self.last_trouble = trouble;
            }
            if self.setting.clock.monotonic() - started > 2 * BACKOFF_MAX {
                backoff = BACKOFF_FIRST;
            }
            let wait = tokio::time::timeout(SystemRandom.jitter(backoff), self.left.wait_for(|left| *left)).await;
            if wait.is_ok() {
                return End::Left;
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn one_stream(&mut self) -> StreamEnd {
        let mut left = self.left.clone();
        let begun = tokio::select! {
            begun = self.begin() => begun,
            _ = left.wait_for(|left| *left) => return StreamEnd::Left,
        };
        match begun {
            Ok(session) => {
                self.last_trouble.clear();
                self.serve(session).await
            }
            Err(end) => end,
        }
    }

    async fn begin(&mut self) -> Result<Session, StreamEnd> {
        let Some((cluster, server)) = self.setting.shared.volumes.owner() else {
            return Err(StreamEnd::Broken(
                "no volume is readable, so it is not known whose chunkserver this is".to_owned(),
            ));
        };
        let master = self.setting.master.clone();
        let answer = tokio::task::spawn_blocking(move || ask(&master)).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(StreamEnd::Broken(with_sources(&error))),
            Err(error) => return Err(StreamEnd::Broken(error.to_string())),
        };
        if answer.cluster != cluster {
            let (volumes, masters) = (cluster, answer.cluster);
            return Err(StreamEnd::RefusedForGood(format!(
                "the volumes belong to cluster {volumes}, and the master at {} is of cluster {masters}; give --master the \
                 address of their own master, or initialise other volumes for this cluster",
                self.setting.master
            )));
        }
        let broken = |error: &(dyn std::error::Error + 'static)| StreamEnd::Broken(with_sources(error));
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", answer.cluster_address))
            .map_err(|error| broken(&error))?
            .connect_timeout(Duration::from_secs(3))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(4))
            .keep_alive_while_idle(true)
            .connect()
            .await
            .map_err(|error| broken(&error))?;
        let (sender, receiver) = mpsc::channel(256);
        let openings: Vec<u64> = self.setting.shared.volumes.slots().iter().map(|slot| slot.openings()).collect();
        let register = self.register(cluster, server, &answer);
        sender.send(message(Message::Register(register))).await.map_err(|error| broken(&error))?;
        let registering = async {
            let mut client = ClusterClient::new(channel);
            let mut incoming = client.serve(ReceiverStream::new(receiver)).await?.into_inner();
            let first = incoming.message().await?;
            Ok::<_, tonic::Status>((incoming, first))
        };
        let (incoming, first) = match tokio::time::timeout(REGISTER_LIMIT, registering).await {
            Err(_) => return Err(StreamEnd::Broken("the master does not answer the registration".to_owned())),
            Ok(Err(status)) => {
                return Err(StreamEnd::Broken(format!("the master ended the stream: {}", status.message())));
            }
            Ok(Ok(begun)) => begun,
        };
        match first.and_then(|first| first.message) {
            Some(Told::Registered(registered)) => {
                tracing::info!(master = %self.setting.master, "registered with the master");
                self.judge(&registered.judgements);
                let told = vec![0; openings.len()];
                Ok(Session { sender, incoming, registered, told, rates: Rates::default() })
            }
            Some(Told::Refused(refused)) => Err(refused_end(&refused)),
            other => Err(StreamEnd::Broken(format!("the master answered the registration with {other:?}"))),
        }
    }

    fn register(
        &self,
        cluster: rfs_common::ids::ClusterId,
        server: rfs_common::ids::ServerId,
        answer: &Answer,
    ) -> Register {
        let setting = &self.setting;
        let found = || Endpoint::new(answer.own_address.to_string(), setting.data_port);
        let data_address = setting.data_address.clone().map(|address| address.with_default_port(setting.data_port));
        let known_host = || setting.shared.volumes.own_slots().next().map(|(_, identity)| identity.host);
        Register {
            protocol_version: PROTOCOL_VERSION,
            cluster: cluster.get().to_be_bytes().to_vec().into(),
            server: server.get(),
            host: setting.host.clone().or_else(known_host).unwrap_or_default(),
            data_address: data_address.unwrap_or_else(found).to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            volumes: volumes(&setting.shared.volumes),
            start: setting.start,
        }
    }

    async fn serve(&mut self, mut session: Session) -> StreamEnd {
        let heartbeat = Duration::from_millis(u64::from(session.registered.heartbeat_ms.clamp(100, 60_000)));
        let silence = 2 * Duration::from_millis(u64::from(session.registered.expiry_ms.max(1000)));
        let mut ticker = tokio::time::interval(heartbeat);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard = self.setting.clock.monotonic();
        let mut left = self.left.clone();
        loop {
            tokio::select! {
                told = session.incoming.message() => {
                    heard = self.setting.clock.monotonic();
                    match told {
                        Ok(Some(ToChunkserver { message: Some(told) })) => {
                            if let Some(end) = self.take(&session, told).await {
                                return end;
                            }
                        }
                        Ok(Some(ToChunkserver { message: None })) => {}
                        Ok(None) => return StreamEnd::Broken("the master ended the stream".to_owned()),
                        Err(status) => return StreamEnd::Broken(format!("the stream broke: {}", status.message())),
                    }
                }
                _ = ticker.tick() => {
                    if self.setting.clock.monotonic() - heard > silence {
                        return StreamEnd::Broken("the master is silent".to_owned());
                    }
                    self.tell_new_inventories(&mut session);
                    let beat = session.rates.heartbeat(volumes(&self.setting.shared.volumes), &self.setting.counters);
                    // A full queue means that inventories are on their way: those show that this server is alive.
                    if let Err(mpsc::error::TrySendError::Closed(_)) = session.sender.try_send(beat) {
                        return StreamEnd::Broken("the stream is closed".to_owned());
                    }
                }
                Some(bad) = self.setting.bad_copies.recv() => {
                    let report = WireBadCopy {
                        volume: bad.volume.get(), chunk: bad.chunk.get(), version: bad.version, reason: bad.reason,
                    };
                    if session.sender.send(message(Message::BadCopy(report))).await.is_err() {
                        return StreamEnd::Broken("the stream is closed".to_owned());
                    }
                }
                _ = left.wait_for(|left| *left) => return say_goodbye(session).await,
            }
        }
    }

    async fn take(&self, session: &Session, told: Told) -> Option<StreamEnd> {
        match told {
            Told::Command(command) => {
                if let Some(answer) = self.orders.take(command, session.sender.clone())
                    && session.sender.send(answer).await.is_err()
                {
                    return Some(StreamEnd::Broken("the stream is closed".to_owned()));
                }
                None
            }
            Told::SendInventory(wanted) => {
                let slots = self.setting.shared.volumes.slots();
                let slot =
                    slots.iter().find(|slot| slot.identity().is_some_and(|known| known.volume.get() == wanted.volume));
                if let Some(slot) = slot {
                    send_inventory(Arc::clone(slot), session.sender.clone());
                }
                None
            }
            Told::Refused(refused) => Some(refused_end(&refused)),
            Told::Heartbeat(beat) => {
                self.judge(&beat.judgements);
                None
            }
            Told::Registered(_) => None,
        }
    }

    fn judge(&self, judgements: &[Judgement]) {
        for judgement in judgements {
            let volume = self.setting.shared.volumes.find(rfs_common::ids::VolumeId::new(judgement.volume));
            if let Ok(volume) = volume {
                volume.judge(judgement);
            }
        }
    }

    /// Volumes that were opened since the master last had their inventory.
    fn tell_new_inventories(&self, session: &mut Session) {
        for (slot, told) in self.setting.shared.volumes.slots().iter().zip(&mut session.told) {
            let openings = slot.openings();
            if openings != *told && slot.volume().is_some() {
                *told = openings;
                send_inventory(Arc::clone(slot), session.sender.clone());
            }
        }
    }
}

/// From a thread of its own: a copy whose volume hangs keeps the inventory waiting, and nothing else.
fn send_inventory(slot: Arc<Slot>, sender: mpsc::Sender<FromChunkserver>) {
    tokio::task::spawn_blocking(move || {
        let Some(volume) = slot.volume() else { return };
        for part in inventory(volume.id().get(), &volume.inventory()) {
            if sender.blocking_send(part).is_err() {
                return;
            }
        }
    });
}

fn refused_end(refused: &Refused) -> StreamEnd {
    if refused.r#final {
        StreamEnd::RefusedForGood(format!("the master refuses this chunkserver: {}", refused.reason))
    } else {
        let volumes: Vec<String> =
            refused.volumes.iter().map(|id| rfs_common::ids::VolumeId::new(*id).to_string()).collect();
        let about = if volumes.is_empty() { String::new() } else { format!(" (volumes {})", volumes.join(", ")) };
        StreamEnd::Broken(format!("the master does not take this chunkserver now: {}{about}", refused.reason))
    }
}

async fn say_goodbye(mut session: Session) -> StreamEnd {
    let goodbye = async {
        if session.sender.send(message(Message::Leaving(Leaving {}))).await.is_ok() {
            // The stream's end in this direction; the master's answer to it is the end in the other.
            drop(session.sender);
            while let Ok(Some(_)) = session.incoming.message().await {}
        }
    };
    if tokio::time::timeout(LEAVE_LIMIT, goodbye).await.is_err() {
        tracing::debug!("the master did not end the stream in time");
    }
    StreamEnd::Left
}
