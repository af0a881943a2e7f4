//! What a mount does and waits for just now: told on a socket of its own, so that it can be asked also while the master is
//! away and every call to the file system waits. `rfs mounts` asks.
//!
//! The socket is a name in the abstract namespace, made of the number that the mount's device has in the mount table. Only
//! root and the user whose process serves the mount are answered: which process works on which file is nobody else's business.

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use rfs_common::background;
use rfs_common::clock::{Monotonic, SharedClock};
use rfs_common::socket;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::data::Purpose;
use crate::fuse::Work;
use crate::mountpoint::DeviceNumber;

/// How long either end waits for the other.
const LIMIT: Duration = Duration::from_secs(2);
/// More than any answer has: some thousand requests under way.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// What a mount tells. Times are milliseconds until now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The process that serves it.
    pub process: u32,
    /// The number of its session with the master.
    pub session: u64,
    /// Whether it is connected to the master; calls that need it wait otherwise.
    pub connected: bool,
    /// Since the master was heard last.
    pub silence_ms: u64,
    /// Bytes that were written and that chunkservers have not acknowledged yet.
    pub unsent_bytes: usize,
    /// Bytes kept for reading.
    pub cached_bytes: usize,
    /// Requests of the kernel that are worked on, the oldest first.
    pub under_way: Vec<RequestUnderWay>,
    /// Chunks whose copies cannot be had, the oldest wait first.
    pub chunk_waits: Vec<ChunkWait>,
    /// Programs that wait for locks of others.
    pub lock_waits: usize,
    /// Counts since the mount.
    pub counts: Counts,
}

/// A request of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestUnderWay {
    /// What is to be done, in FUSE's words.
    pub operation: String,
    /// With which inode.
    pub inode: u64,
    /// The thread that waits for it; 0 if none does.
    pub thread: u32,
    /// Since it came.
    pub waiting_ms: u64,
}

/// A chunk that cannot be read or written just now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkWait {
    /// The file's inode.
    pub inode: u64,
    /// Which of its chunks, from 0.
    pub index: u32,
    /// Whether something is to be written; otherwise read.
    pub write: bool,
    /// Since the first attempt failed.
    pub waiting_ms: u64,
}

/// Counts since the mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests that the master answered.
    pub master_requests: u64,
    /// Requests sent again after a connection broke.
    pub repeats: u64,
    /// Leases that the master asked back.
    pub recalls: u64,
    /// Sessions that expired or were lost.
    pub sessions_lost: u64,
    /// Times that the master had been restarted, and was told again what this mount holds.
    pub reclaims: u64,
}

/// Tells people about one mount.
pub(crate) struct Teller {
    client: Arc<Client>,
    work: Work,
    clock: SharedClock,
}

impl Teller {
    pub(crate) fn new(client: Arc<Client>, work: Work, clock: SharedClock) -> Teller {
        Teller { client, work, clock }
    }

    /// Answers, in a thread of its own, until the process ends.
    ///
    /// # Errors
    /// The name is taken, or the system has no threads left.
    pub(crate) fn start(self, device: DeviceNumber) -> io::Result<()> {
        let listener = socket::listen(&address(device)?)?;
        background::spawn("standing", move || self.answer_all(&listener)).map(drop)
    }

    fn answer_all(&self, listener: &UnixListener) {
        for stream in listener.incoming() {
            let answered = stream.and_then(|stream| self.answer(&stream));
            if let Err(error) = answered {
                tracing::debug!(%error, "who asked what this mount does was not answered");
            }
        }
    }

    fn answer(&self, mut stream: &UnixStream) -> io::Result<()> {
        if !socket::is_trusted(stream)? {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        stream.set_write_timeout(Some(LIMIT))?;
        stream.write_all(&serde_json::to_vec(&self.standing())?)
    }

    fn standing(&self) -> Standing {
        let (session, bytes, now) = (self.client.session(), self.client.bytes_standing(), self.clock.monotonic());
        let waiting_ms = |since: Monotonic| milliseconds(now.since(since));
        let statistics = session.statistics();
        Standing {
            process: std::process::id(),
            session: session.id().get(),
            connected: session.is_live() && session.trusted(),
            silence_ms: milliseconds(session.silence()),
            unsent_bytes: bytes.unsent,
            cached_bytes: bytes.cached,
            under_way: (self.work.under_way().into_iter())
                .map(|work| RequestUnderWay {
                    operation: work.operation.to_owned(),
                    inode: work.node,
                    thread: work.thread,
                    waiting_ms: waiting_ms(work.since),
                })
                .collect(),
            chunk_waits: (bytes.waits.into_iter())
                .map(|wait| ChunkWait {
                    inode: wait.inode.get(),
                    index: wait.index,
                    write: wait.purpose == Purpose::Write,
                    waiting_ms: waiting_ms(wait.since),
                })
                .collect(),
            lock_waits: self.work.lock_waits(),
            counts: Counts {
                master_requests: statistics.calls(),
                repeats: statistics.repeats(),
                recalls: statistics.recalls(),
                sessions_lost: statistics.sessions_lost(),
                reclaims: statistics.reclaims(),
            },
        }
    }
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Asks the mount with this device what it does.
///
/// # Errors
/// `ConnectionRefused`: no process serves it, or one in another network namespace. `UnexpectedEof`: it does not answer this user.
/// Others of the system.
pub fn ask(device: DeviceNumber) -> io::Result<Standing> {
    let stream = socket::connect(&address(device)?)?;
    if !socket::is_trusted(&stream)? {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "who answers is neither root's nor this user's"));
    }
    stream.set_read_timeout(Some(LIMIT))?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&answer)?)
}

fn address(device: DeviceNumber) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("rfs-mount-{device}"))
}
