//! The chunkservers' service: one bidirectional stream is one registration, and the loss of the stream is the loss of the
//! server.
//!
//! Each stream has two tasks: one hands what the chunkserver says to the chunk table, one message at a time and on threads
//! that may block; the other takes commands out when the chunk table raises the server's [`Signal`] and puts them into the
//! stream's bounded channel. The stream ends when either does, when the server is silent for too long (the chunk table
//! says so), or when the same server registers anew.

pub(crate) mod asked;
mod epochs;
pub mod keeper;
pub mod known;
mod translate;

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rfs_common::clock::Monotonic;
use rfs_common::ids::{ChunkId, ChunkVersion, ServerId, VolumeId};
use rfs_proto::PROTOCOL_VERSION;
use rfs_proto::cluster as wire;
use rfs_proto::cluster::cluster_server::{Cluster, ClusterServer};
use rfs_proto::cluster::from_chunkserver::Message as From;
use rfs_proto::cluster::to_chunkserver::Message as To;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::chunks::{Chunks, CopyFault, InventoryPart, Registration, Severity, Signal, StreamId};
use crate::grpc::is_nonsense;
use crate::namespace::source::StoreError;
use crate::status::{MasterState, MasterStateExt};
use crate::strangers::Strangers;

/// Messages of a chunkserver that are taken in at once.
const MESSAGES_AT_ONCE_MAX: usize = 256;
/// Messages to a chunkserver that wait for the network.
const OUTBOUND_MAX: usize = 256;
/// A connection that does not say who it is for this long is closed.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);
/// How often a chunkserver is to send a heartbeat.
const HEARTBEAT_MS: u32 = 1_000;
/// An inventory part is a few bytes per copy; nothing else is large.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

type Outbound = mpsc::Sender<Result<wire::ToChunkserver, Status>>;

/// The service. See the module's page.
pub struct ClusterService {
    state: Arc<dyn MasterState>,
    strangers: Arc<Strangers>,
    next_stream: AtomicU64,
}

impl ClusterService {
    /// Makes the chunk table know the servers that were seen before and what was asked of them, and the service for them to come back to.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub fn new(state: Arc<dyn MasterState>) -> Result<ClusterService, StoreError> {
        for registration in known::known_servers(state.source())? {
            state.with_chunks(|chunks, _| chunks.know_server(registration));
        }
        state.with_chunks(|chunks, _| asked::load(state.source(), chunks, state.clock()))?;
        state.with_chunks(|chunks, _| epochs::load(state.source(), chunks))?;
        let strangers = Arc::new(Strangers::new("cluster", state.clock().clone()));
        Ok(ClusterService { state, strangers, next_stream: AtomicU64::new(1) })
    }

    /// Whom the port tells of what is not of its protocol.
    pub(crate) fn strangers(&self) -> Arc<Strangers> {
        Arc::clone(&self.strangers)
    }

    /// The service as tonic takes it.
    pub fn into_server(self) -> ClusterServer<ClusterService> {
        ClusterServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    type ServeStream = ReceiverStream<Result<wire::ToChunkserver, Status>>;

    async fn serve(
        &self,
        request: Request<Streaming<wire::FromChunkserver>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let peer = Peer { address: request.remote_addr(), strangers: Arc::clone(&self.strangers) };
        let (sender, receiver) = mpsc::channel(OUTBOUND_MAX);
        let stream = StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed));
        let state = Arc::clone(&self.state);
        tokio::spawn(serve_stream(state, stream, request.into_inner(), sender, peer));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn serve_stream(
    state: Arc<dyn MasterState>,
    stream: StreamId,
    mut inbound: Streaming<wire::FromChunkserver>,
    outbound: Outbound,
    peer: Peer,
) {
    let first = tokio::time::timeout(REGISTER_WITHIN, inbound.message()).await;
    let Ok(Ok(Some(wire::FromChunkserver { message: Some(From::Register(register)) }))) = first else {
        match &first {
            Ok(Err(status)) => peer.sent(status),
            Ok(Ok(Some(_))) => peer.strangers.note(peer.address, &"the first message is no registration"),
            Ok(Ok(None)) | Err(_) => {}
        }
        refuse(&outbound, "a chunkserver's first message must be its registration".to_owned(), Vec::new(), true).await;
        return;
    };
    let server = ServerId::new(register.server);
    let signal = Signal::default();
    let admitted = {
        let (state, signal) = (Arc::clone(&state), signal.clone());
        let address = peer.address.map(|address| address.ip());
        blocking(move || admit(&*state, &register, stream, signal, address)).await
    };
    let registered = match admitted {
        Ok(registered) => registered,
        Err(Refusal { reason, volumes, is_final }) => return refuse(&outbound, reason, volumes, is_final).await,
    };
    if outbound.send(Ok(translate::message(To::Registered(registered)))).await.is_ok() {
        let connection = Connection { state: Arc::clone(&state), server, stream, peer };
        tokio::select! {
            () = connection.listen(&mut inbound, &outbound) => {}
            () = connection.send_commands(&signal, &outbound) => {}
        }
    }
    blocking(move || state.with_chunks(|chunks, now| chunks.disconnected(now, server, stream))).await;
}

/// Who is at the other end of a stream.
struct Peer {
    address: Option<SocketAddr>,
    strangers: Arc<Strangers>,
}

impl Peer {
    /// The stream has ended with this status: told if it was for what came on it.
    fn sent(&self, status: &Status) {
        if is_nonsense(status) {
            self.strangers.note(self.address, &status.message());
        }
    }
}

/// Why a chunkserver is not admitted.
struct Refusal {
    reason: String,
    volumes: Vec<u64>,
    is_final: bool,
}

impl Refusal {
    fn for_good(reason: String) -> Refusal {
        Refusal { reason, volumes: Vec::new(), is_final: true }
    }
}

async fn refuse(outbound: &Outbound, reason: String, volumes: Vec<u64>, is_final: bool) {
    let refused = wire::Refused { reason, volumes, r#final: is_final };
    // A peer that is gone needs no refusal.
    let _ = outbound.send(Ok(translate::message(To::Refused(refused)))).await;
}

fn admit(
    state: &dyn MasterState,
    register: &wire::Register,
    stream: StreamId,
    signal: Signal,
    peer: Option<IpAddr>,
) -> Result<wire::Registered, Refusal> {
    check_identity(state, register)?;
    let registration = translate::registration(register, peer);
    let volumes: Vec<VolumeId> = registration.volumes.iter().map(|volume| volume.volume).collect();
    let mut stored = registration.clone();
    let registered = state.with_chunks(|chunks, now| {
        let server = registration.server;
        let refused = chunks.register(now, registration, stream, signal)?;
        Ok((refused, chunks.config().server_expiry, chunks.take_judgements(server)))
    });
    let (refused, expiry, judgements) = registered.map_err(|refusal: crate::chunks::RegistrationRefusal| {
        let reason = refusal.to_string();
        state.report(Severity::Error, format!("a registration was refused: {reason}"));
        // The other server may only not have been missed yet, so the chunkserver may try again.
        Refusal { reason, volumes: volumes.iter().map(|volume| volume.get()).collect(), is_final: false }
    })?;
    stored.volumes.retain(|report| !refused.contains(&report.volume));
    remember(state, &stored);
    let cluster = state.cluster().get().to_be_bytes().to_vec();
    let judgements = judgements.iter().map(translate::judgement).collect();
    let expiry_ms = expiry.as_millis() as u32;
    Ok(wire::Registered { heartbeat_ms: HEARTBEAT_MS, expiry_ms, cluster: cluster.into(), judgements })
}

fn check_identity(state: &dyn MasterState, register: &wire::Register) -> Result<(), Refusal> {
    let cluster = state.cluster();
    if register.protocol_version != PROTOCOL_VERSION {
        return Err(Refusal::for_good(format!(
            "the chunkserver speaks version {} of the protocol and the master version {PROTOCOL_VERSION}; install the same \
             version of rfs on both",
            register.protocol_version
        )));
    }
    let theirs = <[u8; 16]>::try_from(&register.cluster[..]).map(u128::from_be_bytes).unwrap_or(0);
    if theirs == 0 {
        return Err(Refusal::for_good(format!(
            "the chunkserver's volumes belong to no cluster yet; initialise them with `chunkserver init --cluster {cluster}` \
             and start it again"
        )));
    }
    if theirs != cluster.get() {
        let theirs = rfs_common::ids::ClusterId::new(theirs);
        return Err(Refusal::for_good(format!(
            "the chunkserver belongs to cluster {theirs} and this is the master of cluster {cluster}; check the master \
             address in the chunkserver's configuration"
        )));
    }
    if register.server == 0 || register.data_address.is_empty() {
        return Err(Refusal::for_good("the registration lacks the server's id or its data address".to_owned()));
    }
    Ok(())
}

/// Stores the server as known. Without it everything works, but its absence after a restart would not be seen.
fn remember(state: &dyn MasterState, registration: &Registration) {
    let stored = known::change_to_store(state.source(), registration).map_err(|error| error.to_string());
    let stored = stored.and_then(|change| change.map_or(Ok(()), |change| state.commit(vec![change])));
    if let Err(reason) = stored {
        let server = registration.server;
        state.report(Severity::Warning, format!("chunkserver {server} could not be stored as known: {reason}"));
    }
}

/// One registered stream.
struct Connection {
    state: Arc<dyn MasterState>,
    server: ServerId,
    stream: StreamId,
    peer: Peer,
}

impl Connection {
    /// Hands on what the chunkserver says, until the stream ends or is void.
    async fn listen(&self, inbound: &mut Streaming<wire::FromChunkserver>, outbound: &Outbound) {
        loop {
            let message = match inbound.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(status) => return self.peer.sent(&status),
            };
            let mut messages: Vec<From> = message.message.into_iter().collect();
            let ended = add_what_has_come(inbound, &mut messages, &self.peer);
            let answers = self.handle(messages).await;
            let Some(answers) = answers else { return };
            for answer in answers {
                if outbound.send(Ok(translate::message(answer))).await.is_err() {
                    return;
                }
            }
            if ended {
                return;
            }
        }
    }

    /// Returns what is to be answered, or nothing if the stream is void.
    async fn handle(&self, messages: Vec<From>) -> Option<Vec<To>> {
        let (state, server, stream) = (Arc::clone(&self.state), self.server, self.stream);
        blocking(move || {
            state.with_chunks(|chunks, now| {
                let mut answers = Vec::new();
                for message in messages {
                    // Of a copy that is bad it does not matter who says so.
                    if let From::BadCopy(bad) = &message {
                        report_bad_copy(chunks, bad);
                        continue;
                    }
                    if !chunks.is_stream_of(server, stream) {
                        return None;
                    }
                    answers.extend(take_in(chunks, now, (server, stream), message));
                }
                Some(answers)
            })
        })
        .await
    }

    /// Sends commands whenever there are any, until the stream is void.
    ///
    /// A chunkserver carries out a command for good. So it is sent only when a power cut of the master can no longer take
    /// back what it follows from: the removal of a file whose chunks are deleted, the version that copies are raised to.
    async fn send_commands(&self, signal: &Signal, outbound: &Outbound) {
        loop {
            let (state, server, stream) = (Arc::clone(&self.state), self.server, self.stream);
            let taken = blocking(move || {
                let commands = state.with_chunks(|chunks, _| {
                    chunks.is_stream_of(server, stream).then(|| chunks.take_commands(server, stream))
                })?;
                // A log that takes nothing more is reported where it failed.
                (commands.is_empty() || state.wait_until_durable().is_ok()).then_some(commands)
            });
            let Some(commands) = taken.await else { return };
            if commands.is_empty() {
                signal.raised().await;
            }
            for command in commands {
                if outbound.send(Ok(translate::command(command))).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Adds the messages that are there already, a bounded number: results of many orders come together, and each hand-over
/// to a thread that may block costs more than they do. Whether the stream has ended.
fn add_what_has_come(inbound: &mut Streaming<wire::FromChunkserver>, messages: &mut Vec<From>, peer: &Peer) -> bool {
    // Whoever waits for the stream next registers a waker of his own.
    let mut context = Context::from_waker(Waker::noop());
    while messages.len() < MESSAGES_AT_ONCE_MAX {
        match pin!(inbound.message()).poll(&mut context) {
            Poll::Pending => return false,
            Poll::Ready(Ok(Some(message))) => messages.extend(message.message),
            Poll::Ready(Ok(None)) => return true,
            Poll::Ready(Err(status)) => {
                peer.sent(&status);
                return true;
            }
        }
    }
    false
}

/// Gives one message to the chunk table; what is to be answered.
fn take_in(chunks: &mut Chunks, now: Monotonic, (server, stream): (ServerId, StreamId), message: From) -> Vec<To> {
    let mut answers = Vec::new();
    match message {
        From::Inventory(inventory) => {
            let held: Vec<_> = inventory.chunks.iter().map(translate::held).collect();
            let part = InventoryPart { first: inventory.first, last: inventory.last };
            chunks.inventory(now, server, stream, VolumeId::new(inventory.volume), &held, part);
        }
        From::Heartbeat(heartbeat) => {
            let traffic = translate::traffic(&heartbeat);
            let reports = heartbeat.volumes.iter().map(translate::volume).collect();
            let wanted = chunks.heartbeat(now, server, stream, reports, traffic);
            let ask = |volume: VolumeId| To::SendInventory(wire::SendInventory { volume: volume.get() });
            let judgements = chunks.take_judgements(server).iter().map(translate::judgement).collect();
            answers.push(To::Heartbeat(wire::HeartbeatReply { judgements }));
            answers.extend(wanted.into_iter().map(ask));
        }
        From::Result(result) => chunks.command_result(now, server, stream, &translate::result(&result)),
        From::Leaving(_) => chunks.leaving(server, stream),
        // A second registration on one stream changes nothing.
        From::Register(_) | From::BadCopy(_) => {}
    }
    answers
}

fn report_bad_copy(chunks: &mut Chunks, bad: &wire::BadCopy) {
    let (volume, chunk) = (VolumeId::new(bad.volume), ChunkId::new(bad.chunk));
    let version = ChunkVersion::new(bad.version);
    let fault = CopyFault::Found(bad.reason.clone());
    chunks.bad_copy(volume, chunk, version, &fault);
}

/// Runs what may wait for the engine's lock away from the async threads.
async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // A panic ends the process, so this is the runtime's end, which ends the caller too.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "cluster_test.rs"]
mod tests;
