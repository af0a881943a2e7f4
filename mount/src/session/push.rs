//! The push connection: heartbeats up, recalls and notices down, and the life of the session as a whole.
//!
//! One thread reads (and reconnects, reclaims, begins a new session), one sends heartbeats, a few carry out recalls, which
//! come to them through a bounded queue. When the queue is full the reader waits: then nothing is heard from the master,
//! leases are no longer trusted, and the client stands still rather than wrong.
//!
//! Lock order: the writer's lock is taken alone, or after the identity's; neither is held while something is awaited.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rfs_common::background;
use rfs_proto::frame::{FrameType, Header};
use rfs_proto::session as wire;
use rfs_proto::session::Failure;
use rfs_proto::wire::{Awaited, Connection, Envelope, WireError};
use tracing::{debug, info, warn};

use super::dial::{self, Greeted, Stream};
use super::error::ConnectError;
use super::{Backoff, Loss, Phase, SessionEvents, Shared, nanoseconds};

/// Recalls that are carried out at once. Each may wait for the flushing of a file.
const RECALL_THREADS: usize = 8;
/// Recalls and notices that wait for a thread.
const QUEUE_LENGTH: usize = 4096;
/// Recalls that one heartbeat names.
const RECALLS_NAMED_MAX: usize = 4096;
/// Leases, locks and nodes in one Reclaim message.
const RECLAIM_ITEMS_MAX: usize = 4096;
/// Silent heartbeats after which the connection is taken for dead.
const SILENT_HEARTBEATS_MAX: u32 = 3;

pub(super) struct PushState {
    /// The connection that [`super::Session::connect`] made, until the reader takes it.
    first: Mutex<Option<Connection<Stream>>>,
    /// To send on, while there is a connection. Its own buffers; the stream is the reader's.
    writer: Mutex<Option<Connection<Stream>>>,
    /// Recalls that are being carried out: the master sends one again on a new connection.
    under_way: Mutex<HashSet<u64>>,
}

impl PushState {
    pub(super) fn new(connection: Connection<Stream>) -> PushState {
        let writer = Connection::new(connection.stream().clone());
        PushState {
            first: Mutex::new(Some(connection)),
            writer: Mutex::new(Some(writer)),
            under_way: Mutex::new(HashSet::new()),
        }
    }

    /// Makes the reader connect again.
    pub(super) fn break_off(&self) {
        if let Some(writer) = &*self.writer() {
            writer.stream().break_off();
        }
    }

    fn writer(&self) -> MutexGuard<'_, Option<Connection<Stream>>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn under_way(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a frame if there is a connection; one that breaks is the reader's to notice.
    fn send(&self, frame_type: FrameType, id: u64, message: &impl prost::Message) {
        if let Some(writer) = &mut *self.writer()
            && writer.send(Envelope::request(frame_type, id), message, &[]).is_err()
        {
            writer.stream().break_off();
        }
    }
}

/// What a recall thread is given.
enum Pushed {
    Recall(wire::Recall),
    Notice(wire::Notice),
}

pub(super) fn start(shared: &Arc<Shared>, events: &Arc<dyn SessionEvents>) -> std::io::Result<()> {
    let (sender, receiver) = sync_channel(QUEUE_LENGTH);
    let receiver = Arc::new(Mutex::new(receiver));
    for number in 0..RECALL_THREADS {
        let (shared, events, receiver) = (Arc::clone(shared), Arc::clone(events), Arc::clone(&receiver));
        background::spawn(&format!("recall-{number}"), move || carry_out(&shared, &*events, &receiver))?;
    }
    let (heart, its_events) = (Arc::clone(shared), Arc::clone(events));
    background::spawn("heartbeat", move || send_heartbeats(&heart, &*its_events))?;
    let reader = Reader { shared: Arc::clone(shared), events: Arc::clone(events), sender };
    background::spawn("push", move || reader.run())?;
    Ok(())
}

pub(super) fn end(shared: &Shared) {
    // The reader thread reads the answer, finds the session ended and goes.
    shared.push.send(FrameType::Goodbye, 0, &wire::Goodbye {});
    shared.set_phase(Phase::Ended);
    shared.push.break_off_after_answer();
    shared.slots.break_all();
}

impl PushState {
    /// Lets what was sent leave before the stream ends: only our sending side is closed.
    fn break_off_after_answer(&self) {
        if let Some(writer) = self.writer().take() {
            writer.stream().finish();
        }
    }
}

fn carry_out(shared: &Shared, events: &dyn SessionEvents, receiver: &Mutex<Receiver<Pushed>>) {
    loop {
        let pushed = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match pushed {
            Ok(Pushed::Recall(recall)) => {
                let touched = events.recall(&recall);
                shared.statistics.recalled();
                shared.push.under_way().remove(&recall.recall);
                shared.push.send(FrameType::RecallDone, 0, &wire::RecallDone { recall: recall.recall, touched });
            }
            Ok(Pushed::Notice(notice)) => events.notice(&notice),
            Err(_) => return,
        }
    }
}

fn send_heartbeats(shared: &Shared, events: &dyn SessionEvents) {
    while !shared.ended() {
        // The id is the time of sending: the answer tells up to when the master knows us alive.
        let recalls = shared.push.under_way().iter().copied().take(RECALLS_NAMED_MAX).collect();
        shared.push.send(FrameType::Heartbeat, nanoseconds(shared.now()), &wire::Heartbeat { recalls });
        shared.pause(shared.heartbeat);
        if !shared.trusted() && !shared.silent.swap(true, Ordering::AcqRel) {
            warn!("nothing heard from the master for {:?}: operations wait for it", shared.expiry * 4 / 5);
            events.silent();
        }
    }
}

struct Reader {
    shared: Arc<Shared>,
    events: Arc<dyn SessionEvents>,
    sender: SyncSender<Pushed>,
}

impl Reader {
    fn run(&self) {
        let mut connection = self.shared.push.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        while !self.shared.ended() {
            if let Some(connection) = &mut connection {
                let error = self.read_until_broken(connection);
                if self.shared.ended() {
                    return;
                }
                info!(%error, "the connection to the master broke; connecting again");
                if error.is_timeout() {
                    self.shared.slots.break_all();
                }
            }
            self.shared.set_phase(Phase::Down);
            self.shared.push.break_off();
            *self.shared.push.writer() = None;
            connection = self.reconnect();
        }
    }

    fn read_until_broken(&self, connection: &mut Connection<Stream>) -> WireError {
        if let Err(error) = connection.stream().set_read_timeout(Some(self.silence_max())) {
            return error.into();
        }
        loop {
            let taken = connection.receive_head(&Awaited::ANY).and_then(|header| self.take(connection, &header));
            if let Err(error) = taken {
                return error;
            }
        }
    }

    fn silence_max(&self) -> Duration {
        self.shared.heartbeat * SILENT_HEARTBEATS_MAX
    }

    fn take(&self, connection: &Connection<Stream>, header: &Header) -> Result<(), WireError> {
        match header.frame_type {
            FrameType::Heartbeat if header.is_reply() && !header.is_error() => {
                let reply: wire::HeartbeatReply = connection.message(header)?;
                if reply.master_start != self.shared.identity().master_start {
                    return Err(WireError::Closed);
                }
                self.shared.heard(header.request_id);
            }
            FrameType::Recall => {
                let recall: wire::Recall = connection.message(header)?;
                if self.shared.push.under_way().insert(recall.recall) {
                    self.hand_over(Pushed::Recall(recall));
                }
            }
            FrameType::Notice => {
                let notice: wire::Notice = connection.message(header)?;
                self.shared.note_position(notice.log_position);
                self.hand_over(Pushed::Notice(notice));
            }
            FrameType::Goodbye => {}
            got => return Err(WireError::OutOfPlace { expected: "a recall, a notice or a heartbeat's answer", got }),
        }
        Ok(())
    }

    fn hand_over(&self, pushed: Pushed) {
        // The recall threads live as long as this one's sender.
        let _ = self.sender.send(pushed);
    }

    /// A new connection of this session, or of a new one; nothing when the session has been ended meanwhile.
    fn reconnect(&self) -> Option<Connection<Stream>> {
        let mut backoff = Backoff::new();
        let mut told = false;
        while !self.shared.ended() {
            match self.join() {
                Ok(connection) => return Some(connection),
                Err(Unjoined::Lost(loss)) => self.lose_session(loss),
                Err(Unjoined::Wire(error)) => debug!(%error, "the master went away while it was greeted"),
                Err(Unjoined::Connect(error)) => {
                    if !told {
                        warn!(%error, "cannot reach the master; trying for as long as it takes");
                        told = true;
                    }
                }
            }
            self.shared.pause(backoff.next());
        }
        None
    }

    fn join(&self) -> Result<Connection<Stream>, Unjoined> {
        let identity = self.shared.identity().clone();
        let cluster = self.shared.cluster.cluster;
        let begins = identity.session == 0;
        // In this order: an answer that comes now is counted in the position, or its taker sees that it must ask again.
        self.shared.joins.fetch_add(1, Ordering::SeqCst);
        let mut greeted = if begins {
            self.shared.log_position.store(0, Ordering::SeqCst);
            dial::begin_session(&self.shared.options, Some(cluster))?
        } else {
            let log_position = self.shared.log_position.load(Ordering::SeqCst);
            dial::join_push(&self.shared.options, cluster, &identity, log_position)?
        };
        greeted.connection.stream().set_read_timeout(Some(self.silence_max())).map_err(WireError::from)?;
        if !begins && greeted.reply.master_start != identity.master_start {
            self.reclaim(&mut greeted.connection)?;
        }
        self.go_live(&greeted, begins);
        Ok(greeted.connection)
    }

    fn go_live(&self, greeted: &Greeted, begins: bool) {
        let mut identity = self.shared.identity();
        identity.master_start = greeted.reply.master_start;
        if begins {
            identity.session = greeted.reply.session;
            identity.secret.clone_from(&greeted.reply.secret);
        }
        if identity.phase == Phase::Down {
            identity.phase = Phase::Live;
        }
        *self.shared.push.writer() = Some(Connection::new(greeted.connection.stream().clone()));
        drop(identity);
        self.shared.heard(nanoseconds(greeted.asked_at));
        self.shared.identity_changed.notify_all();
        info!(session = greeted.reply.session, "connected to the master");
    }

    /// Everything of the old session goes before a new one begins.
    fn lose_session(&self, loss: Loss) {
        match loss {
            Loss::Expired => {
                warn!("the master gave this client up after it was silent for too long: a new session begins");
            }
            Loss::Log { .. } => warn!(
                "the master lost power, and with it what it had told this client: caches are dropped, fsync fails once \
                 on what is open, and a new session begins"
            ),
        }
        self.shared.statistics.lost();
        {
            let mut identity = self.shared.identity();
            identity.session = 0;
            identity.secret = prost::bytes::Bytes::new();
            identity.generation += 1;
        }
        self.shared.slots.break_all();
        self.shared.push.under_way().clear();
        self.events.lost(loss);
    }

    /// Tells a restarted master what this client holds.
    fn reclaim(&self, connection: &mut Connection<Stream>) -> Result<(), Unjoined> {
        let holdings = self.events.holdings();
        info!(leases = holdings.leases.len(), locks = holdings.locks.len(), "the master restarted: reclaiming");
        let mut leases = holdings.leases.chunks(RECLAIM_ITEMS_MAX);
        let mut locks = holdings.locks.chunks(RECLAIM_ITEMS_MAX);
        let mut open_inodes = holdings.open_inodes.chunks(RECLAIM_ITEMS_MAX);
        let mut refused = Vec::new();
        loop {
            let mut message = wire::Reclaim {
                leases: leases.next().map(<[_]>::to_vec).unwrap_or_default(),
                locks: locks.next().map(<[_]>::to_vec).unwrap_or_default(),
                open_inodes: open_inodes.next().map(<[_]>::to_vec).unwrap_or_default(),
                last: false,
            };
            message.last = leases.len() == 0 && locks.len() == 0 && open_inodes.len() == 0;
            refused.extend(self.reclaim_part(connection, &message)?);
            if message.last {
                break;
            }
        }
        self.shared.statistics.reclaimed();
        if !refused.is_empty() {
            self.events.reclaim_refused(&refused);
        }
        Ok(())
    }

    fn reclaim_part(&self, connection: &mut Connection<Stream>, message: &wire::Reclaim) -> Result<Vec<u64>, Unjoined> {
        connection.send(Envelope::request(FrameType::Reclaim, 0), message, &[])?;
        loop {
            let header = connection.receive_head(&Awaited::ANY)?;
            if header.frame_type != FrameType::Reclaim {
                self.take(connection, &header)?;
            } else if header.is_error() {
                let failure: Failure = connection.message(&header)?;
                warn!(errno = failure.errno, message = failure.message, "the master refused to give leases back");
                return Err(Unjoined::Wire(WireError::Closed));
            } else {
                return Ok(connection.message::<wire::ReclaimReply>(&header)?.refused);
            }
        }
    }
}

/// Why the session has no push connection yet.
enum Unjoined {
    /// The master does not know the session, or has ended it.
    Lost(Loss),
    Connect(ConnectError),
    Wire(WireError),
}

impl From<ConnectError> for Unjoined {
    fn from(error: ConnectError) -> Unjoined {
        match error {
            ConnectError::Expired { .. } => Unjoined::Lost(Loss::Expired),
            ConnectError::LogLost { recovered, .. } => Unjoined::Lost(Loss::Log { recovered }),
            error => Unjoined::Connect(error),
        }
    }
}

impl From<WireError> for Unjoined {
    fn from(error: WireError) -> Unjoined {
        Unjoined::Wire(error)
    }
}
