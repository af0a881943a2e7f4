//! The client's session with the master: one push connection and a pool of slots, over as many TCP connections and
//! master restarts as it takes (docs/protocol.md, section 1).
//!
//! [`Session::connect`] begins it, [`Session::start`] starts its threads, [`Session::call`] asks something: the thread that
//! asks writes the frame and reads the answer itself (`slots.rs`). `push.rs` has the heartbeats and what the master says
//! unasked; it reconnects, reclaims after a restart of the master, and begins a new session when this one was lost.
//!
//! What always holds: a request that may have reached the master is sent again only under the same id, and never in
//! another session if it changes something. No lock of this module is held while a frame is awaited, but the slot's own.

mod dial;
mod error;
mod push;
mod slots;
mod statistics;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rfs_common::clock::{Monotonic, SharedClock};
use rfs_common::endpoint::Endpoint;
use rfs_common::errno::Errno;
use rfs_common::ids::{ClusterId, InodeId, SessionId};
use rfs_proto::session as wire;
use rfs_proto::session_calls::Call;

pub use error::ConnectError;
pub use slots::Lane;
pub use statistics::Statistics;

/// What a session needs to know.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The masters, tried in this order.
    pub endpoints: Vec<Endpoint>,
    /// The cluster that must answer; none: whichever does.
    pub cluster: Option<ClusterId>,
    /// Path below the filesystem's root that is to be this client's root; empty: all of it.
    pub subdirectory: Vec<u8>,
    /// This machine, for people who look at the list of sessions.
    pub host: String,
    /// Where it is mounted, for the same.
    pub mount_point: String,
    /// The master refuses every change.
    pub read_only: bool,
    /// A master on this host is met over a Unix socket.
    pub local: bool,
    /// For one attempt at one address.
    pub connect_timeout: Duration,
    /// How long a call waits for a master that does not answer before it fails with EIO; none: for ever.
    pub master_timeout: Option<Duration>,
    /// The clock.
    pub clock: SharedClock,
}

impl SessionOptions {
    /// The usual ones, for this master.
    pub fn new(endpoint: Endpoint, clock: SharedClock) -> SessionOptions {
        SessionOptions {
            endpoints: vec![endpoint],
            cluster: None,
            subdirectory: Vec::new(),
            host: String::new(),
            mount_point: String::new(),
            read_only: false,
            local: true,
            connect_timeout: Duration::from_secs(3),
            master_timeout: None,
            clock,
        }
    }
}

/// What a client holds, to be reclaimed after a restart of the master.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    /// Leases.
    pub leases: Vec<wire::Lease>,
    /// Locks.
    pub locks: Vec<wire::ReclaimedLock>,
    /// Nodes that are open.
    pub open_inodes: Vec<u64>,
}

/// What the session tells the client's core. `recall` and `notice` run on threads of the session that wait for nothing
/// else; the others on the push thread, before any operation goes on.
pub trait SessionEvents: Send + Sync + 'static {
    /// Carries out a recall; RecallDone is sent when it returns, with the accesses of recalled nodes that it returns.
    fn recall(&self, recall: &wire::Recall) -> Vec<wire::TouchedNode>;
    /// Takes note.
    fn notice(&self, notice: &wire::Notice);
    /// What is to be reclaimed.
    fn holdings(&self) -> Holdings;
    /// Leases that could not be had again.
    fn reclaim_refused(&self, inodes: &[u64]);
    /// The session is over: everything it held is gone; another has begun or will.
    fn lost(&self, loss: Loss);
    /// Nothing was heard for so long that leases cannot be trusted. Calls wait; what the kernel keeps must go.
    fn silent(&self);
}

/// Why a session is over that nobody ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It was silent for too long.
    Expired,
    /// A power cut has taken from the master's log what the session was told: what it has changed since its last fsync
    /// may be undone, and what it read of others' changes, too.
    Log {
        /// Up to where the log has everything.
        recovered: u64,
    },
}

/// Where the session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The master knows it; operations connections may join.
    Live,
    /// The push connection is broken, or the session is being reclaimed or begun anew: operations wait.
    Down,
    /// Over, by our own will.
    Ended,
}

#[derive(Clone, Debug)]
struct Identity {
    session: u64,
    secret: prost::bytes::Bytes,
    /// Counts the sessions of this client: a request of an earlier one is never repeated in a later one.
    generation: u64,
    master_start: u64,
    phase: Phase,
}

/// What does not change over the life of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node that this client shows as its root.
    pub root: InodeId,
    /// Port of the administration service.
    pub cluster_port: u16,
    /// Port of the web page.
    pub web_port: u16,
    /// The master can be told of accesses.
    pub takes_accesses: bool,
}

struct Shared {
    options: SessionOptions,
    cluster: Cluster,
    expiry: Duration,
    heartbeat: Duration,
    identity: Mutex<Identity>,
    identity_changed: Condvar,
    slots: slots::SlotPool,
    push: push::PushState,
    /// When the youngest heartbeat that was answered was sent: nanoseconds of the monotonic clock.
    heard_nanoseconds: AtomicU64,
    silent: AtomicBool,
    /// The highest position of the master's log that an answer rested on.
    log_position: AtomicU64,
    /// Rises before each attempt to join the session anew: an answer from a connection older than that was not counted in
    /// the position that the master was told, and is asked for again.
    joins: AtomicU64,
    statistics: Statistics,
}

/// A session. Clones are of the same one.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

impl Session {
    /// Connects to the first master that answers and begins a session. [`Session::start`] must follow within the expiry.
    ///
    /// # Errors
    /// [`ConnectError`], whose text is for the person who mounts.
    pub fn connect(options: SessionOptions) -> Result<Session, ConnectError> {
        let begun = dial::begin_session(&options, options.cluster)?;
        let reply = begun.reply;
        let identity = Identity {
            session: reply.session,
            secret: reply.secret,
            generation: 1,
            master_start: reply.master_start,
            phase: Phase::Live,
        };
        let cluster = Cluster {
            cluster: dial::cluster_of(&reply.cluster),
            root: InodeId::new(reply.root),
            cluster_port: u16::try_from(reply.cluster_port).unwrap_or(0),
            web_port: u16::try_from(reply.web_port).unwrap_or(0),
            takes_accesses: reply.takes_accesses,
        };
        let shared = Shared {
            cluster,
            expiry: Duration::from_millis(u64::from(reply.session_expiry_ms).max(1)),
            heartbeat: Duration::from_millis(u64::from(reply.heartbeat_ms).max(1)),
            identity: Mutex::new(identity),
            identity_changed: Condvar::new(),
            slots: slots::SlotPool::new(reply.slots_max),
            push: push::PushState::new(begun.connection),
            heard_nanoseconds: AtomicU64::new(nanoseconds(begun.asked_at)),
            silent: AtomicBool::new(false),
            log_position: AtomicU64::new(0),
            joins: AtomicU64::new(0),
            statistics: Statistics::default(),
            options,
        };
        Ok(Session { shared: Arc::new(shared) })
    }

    /// Starts heartbeats, recalls and reconnection.
    ///
    /// # Errors
    /// If the system has no threads left.
    pub fn start(&self, events: &Arc<dyn SessionEvents>) -> std::io::Result<()> {
        push::start(&self.shared, events)
    }

    /// Asks the master, for as long as it takes, and gives its answer.
    ///
    /// # Errors
    /// What the master refused with; EIO when the session has ended, `master_timeout` has passed, or a change was on its
    /// way when the session was lost.
    pub fn call<C: Call>(&self, request: &C) -> Result<C::Reply, Errno> {
        self.call_in(Lane::Operations, request, &mut || {})
    }

    /// The same in a lane of one's choice. `on_repeat` is called each time before the request is sent again: what the
    /// master answered to the earlier one will not arrive any more.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub fn call_in<C: Call>(&self, lane: Lane, request: &C, on_repeat: &mut dyn FnMut()) -> Result<C::Reply, Errno> {
        slots::call(&self.shared, lane, request, on_repeat)
    }

    /// What the master said about the cluster.
    pub fn cluster(&self) -> Cluster {
        self.shared.cluster
    }

    /// The highest position of the master's log that an answer in this session rested on.
    pub fn log_position(&self) -> u64 {
        self.shared.log_position.load(Ordering::SeqCst)
    }

    /// The number of the present session.
    pub fn id(&self) -> SessionId {
        SessionId::new(self.shared.identity().session)
    }

    /// Counts the sessions this client has had.
    pub fn generation(&self) -> u64 {
        self.shared.identity().generation
    }

    /// Whether the master was heard from lately enough that what leases allow is allowed.
    pub fn trusted(&self) -> bool {
        self.shared.trusted()
    }

    /// Waits until leases can be trusted again.
    ///
    /// # Errors
    /// EIO when the session has ended or `master_timeout` has passed.
    pub fn wait_trusted(&self) -> Result<(), Errno> {
        if self.shared.trusted() { Ok(()) } else { self.shared.wait_trusted() }
    }

    /// How long ago the youngest question was asked that the master answered; heartbeats are such questions.
    pub fn silence(&self) -> Duration {
        let heard = self.shared.heard_nanoseconds.load(Ordering::Acquire);
        Duration::from_nanos(nanoseconds(self.shared.now()).saturating_sub(heard))
    }

    /// Whether the session is joined: calls need not wait for a connection.
    pub fn is_live(&self) -> bool {
        self.shared.identity().phase == Phase::Live
    }

    /// How long after the last sign of life the master forgets this session.
    pub fn expiry(&self) -> Duration {
        self.shared.expiry
    }

    /// Counts of what was asked.
    pub fn statistics(&self) -> &Statistics {
        &self.shared.statistics
    }

    /// Whether [`Session::end`] was called.
    pub fn has_ended(&self) -> bool {
        self.shared.identity().phase == Phase::Ended
    }

    /// Ends the session: tells the master, and makes every call that waits or comes fail with EIO.
    pub fn end(&self) {
        push::end(&self.shared);
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Session").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Shared {
    fn identity(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Monotonic {
        self.options.clock.monotonic()
    }

    /// Leases hold for the expiry; a fifth less, since clocks and schedulers are what they are.
    fn trusted(&self) -> bool {
        let heard = self.heard_nanoseconds.load(Ordering::Acquire);
        let silence = nanoseconds(self.now()).saturating_sub(heard);
        u128::from(silence) < self.expiry.as_nanos() * 4 / 5
    }

    fn heard(&self, asked_at_nanoseconds: u64) {
        self.heard_nanoseconds.fetch_max(asked_at_nanoseconds, Ordering::AcqRel);
        if self.silent.swap(false, Ordering::AcqRel) {
            drop(self.identity());
            self.identity_changed.notify_all();
        }
    }

    fn note_position(&self, position: u64) {
        self.log_position.fetch_max(position, Ordering::SeqCst);
    }

    fn wait_trusted(&self) -> Result<(), Errno> {
        let deadline = self.options.master_timeout.map(|timeout| self.now() + timeout);
        let mut identity = self.identity();
        while !self.trusted() {
            if identity.phase == Phase::Ended || deadline.is_some_and(|deadline| self.now() >= deadline) {
                return Err(Errno::EIO);
            }
            let waited = self.identity_changed.wait_timeout(identity, Duration::from_millis(50));
            identity = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// The identity, once the session is live.
    fn wait_live(&self, deadline: Option<Monotonic>) -> Result<Identity, Errno> {
        let mut identity = self.identity();
        loop {
            match identity.phase {
                Phase::Live => return Ok(identity.clone()),
                Phase::Ended => return Err(Errno::EIO),
                Phase::Down if deadline.is_some_and(|deadline| self.now() >= deadline) => return Err(Errno::EIO),
                Phase::Down => {}
            }
            let pause = deadline.map_or(Duration::from_secs(1), |deadline| self.now().until(deadline));
            let pause = pause.clamp(Duration::from_millis(1), Duration::from_secs(1));
            let waited = self.identity_changed.wait_timeout(identity, pause);
            identity = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Changes where the session stands, unless it has ended.
    fn set_phase(&self, phase: Phase) {
        let mut identity = self.identity();
        if identity.phase != Phase::Ended {
            identity.phase = phase;
        }
        self.identity_changed.notify_all();
    }

    fn ended(&self) -> bool {
        self.identity().phase == Phase::Ended
    }
}

fn nanoseconds(moment: Monotonic) -> u64 {
    u64::try_from(moment.since_start().as_nanos()).unwrap_or(u64::MAX)
}

/// Pauses between attempts to reach the master: 50 ms, doubling up to 1 s.
#[derive(Debug)]
struct Backoff {
    pause: Duration,
}

impl Backoff {
    fn new() -> Backoff {
        Backoff { pause: Duration::from_millis(50) }
    }

    fn next(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(Duration::from_secs(1));
        pause
    }
}
