//! Push connections: recalls and notices down, heartbeats and answers up.
//!
//! Whoever has something to tell writes it itself: no thread is woken for it. While one thread writes, others leave their
//! messages in a bounded queue that the writer empties. A peer that does not read for the send timeout, or lets the queue
//! fill up, loses its connection: everything it has to know is told again over the next one.

use std::collections::VecDeque;
use std::io::Write;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message;
use rfs_common::errno::Errno;
use rfs_common::ids::{InodeId, SessionId};
use rfs_common::socket::{Peer, Socket};
use rfs_proto::frame::{FrameType, Header};
use rfs_proto::session;
use rfs_proto::wire::{Awaited, Connection, Envelope, WireError, cut_foreign_text, encode_head};

use super::calls::{lease_from, lease_message};
use super::lock_calls::{Wanted, wanted};
use super::stream::SessionStream;
use super::translate::attributes::touches;
use crate::engine::{Engine, Failure, Push, PushMessage, ReclaimedState, Storage};
use crate::leases::{RecallId, RecallItems};
use crate::namespace::ops::touch::Seen;

/// Frames that wait for one another thread is writing.
const QUEUE_MAX: usize = 4_096;

/// Nodes that one notice names.
const UNLINKED_MAX: usize = 10_000;

/// Recalls that one heartbeat may name.
const RECALLS_MAX: usize = 4_096;

/// What one Reclaim may name.
const RECLAIMED_MAX: usize = 4_096;

/// What clients send on it.
const FROM_CLIENT: Awaited = Awaited {
    what: "a frame of a push connection",
    admits: |header| {
        use FrameType::{Goodbye, Heartbeat, RecallDone, Reclaim};
        !header.is_reply() && matches!(header.frame_type, Heartbeat | RecallDone | Reclaim | Goodbye)
    },
};

/// The sending half of a push connection.
pub(super) struct PushConnection {
    socket: Socket,
    to: Peer,
    storage: Arc<dyn Storage>,
    outbox: Mutex<Outbox>,
}

#[derive(Debug, Default)]
struct Outbox {
    frames: VecDeque<Vec<u8>>,
    /// A thread is writing and will take what is queued.
    writing: bool,
    closed: bool,
}

impl PushConnection {
    /// Over this socket, whose write timeout is the send timeout, to who is there.
    pub(super) fn new(socket: Socket, to: Peer, storage: Arc<dyn Storage>) -> PushConnection {
        PushConnection { socket, to, storage, outbox: Mutex::new(Outbox::default()) }
    }

    fn send(&self, envelope: Envelope, message: &impl Message) {
        let mut frame = Vec::new();
        let encoded = encode_head(&mut frame, envelope, message, 0);
        let mut outbox = self.outbox();
        if outbox.closed {
            return;
        }
        if let Err(error) = encoded {
            // What cannot be told is told anew over the next connection, in other portions.
            tracing::error!(
                peer = %self.to,
                error = &error as &dyn std::error::Error,
                "a push connection is closed"
            );
            return self.fail(&mut outbox);
        }
        outbox.frames.push_back(frame);
        if outbox.frames.len() > QUEUE_MAX {
            return self.fail(&mut outbox);
        }
        if outbox.writing {
            return;
        }
        outbox.writing = true;
        while let Some(frame) = outbox.frames.pop_front() {
            drop(outbox);
            let written = (&self.socket).write_all(&frame);
            outbox = self.outbox();
            if written.is_err() {
                self.fail(&mut outbox);
            }
        }
        outbox.writing = false;
    }

    fn fail(&self, outbox: &mut Outbox) {
        outbox.closed = true;
        outbox.frames.clear();
        // The reading thread sees the end and takes the connection out; a socket that is closed already needs nothing.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Push for PushConnection {
    fn deliver(&self, message: PushMessage) {
        let notice = Envelope::request(FrameType::Notice, 0);
        let log_position = self.storage.position().get();
        match message {
            PushMessage::Recall(recall, items) => {
                self.send(Envelope::request(FrameType::Recall, 0), &recall_message(recall, &items));
            }
            PushMessage::LockGranted(inode, ticket) => {
                let granted = vec![session::LockGranted { inode: inode.get(), ticket: ticket.0 }];
                self.send(notice, &session::Notice { granted, unlinked: Vec::new(), log_position });
            }
            PushMessage::Unlinked(inodes) => {
                for part in inodes.chunks(UNLINKED_MAX) {
                    let unlinked = part.iter().map(|inode| inode.get()).collect();
                    self.send(notice, &session::Notice { granted: Vec::new(), unlinked, log_position });
                }
            }
        }
    }

    fn close(&self) {
        self.fail(&mut self.outbox());
    }

    fn address(&self) -> String {
        self.to.to_string()
    }
}

fn recall_message(recall: RecallId, items: &RecallItems) -> session::Recall {
    let entries = items.entries.iter().map(|(directory, names)| session::EntryNotice {
        directory: directory.get(),
        names: names.iter().map(|name| name.as_bytes().to_vec().into()).collect(),
    });
    session::Recall {
        recall: recall.0,
        leases: items.leases.iter().map(|lease| lease_message(*lease)).collect(),
        entries: entries.collect(),
        attributes: items.attributes.iter().map(|inode| inode.get()).collect(),
    }
}

/// Reads the push connection of a session until it ends.
///
/// # Errors
/// Why it ended, unless the session did.
pub(super) fn serve(
    engine: &Engine,
    session: SessionId,
    connection: &mut Connection<SessionStream>,
    (socket, peer): (Socket, Peer),
) -> Result<(), WireError> {
    let push = Arc::new(PushConnection::new(socket, peer, engine.storage().clone()));
    let peer: Arc<dyn Push> = push.clone();
    engine.attach_push(session, Arc::clone(&peer));
    let result = read_frames(engine, session, connection, &push);
    engine.detach_push(session, &peer);
    peer.close();
    result
}

fn read_frames(
    engine: &Engine,
    session: SessionId,
    connection: &mut Connection<SessionStream>,
    push: &PushConnection,
) -> Result<(), WireError> {
    loop {
        connection.shrink_buffers();
        let header = connection.receive_head(&FROM_CLIENT)?;
        match header.frame_type {
            FrameType::Heartbeat => {
                let master_start = engine.master_start();
                let heartbeat: session::Heartbeat = connection.message(&header)?;
                let recalls = heartbeat.recalls.into_iter().take(RECALLS_MAX).map(RecallId);
                let beat = engine.heartbeat(session, recalls).map(|()| session::HeartbeatReply { master_start });
                if !answer(push, &header, beat) {
                    return Ok(());
                }
            }
            FrameType::RecallDone => {
                let done: session::RecallDone = connection.message(&header)?;
                if let Ok(touches) = touches(&done.touched, |_| Seen::Present)
                    && !touches.is_empty()
                {
                    engine.note_accesses(session, RecallId(done.recall), touches);
                }
                engine.recall_done(session, RecallId(done.recall));
            }
            FrameType::Reclaim => {
                let reclaim: session::Reclaim = connection.message(&header)?;
                let reclaimed = reclaimed(session, &reclaim).map_err(Failure::from);
                let refused = reclaimed.and_then(|reclaimed| engine.reclaim(session, &reclaimed));
                let reply = refused
                    .map(|refused| session::ReclaimReply { refused: refused.into_iter().map(InodeId::get).collect() });
                if !answer(push, &header, reply) {
                    return Ok(());
                }
            }
            FrameType::Goodbye => {
                push.send(Envelope::reply_to(&header), &session::Goodbye {});
                engine.goodbye(session);
                return Ok(());
            }
            got => return Err(WireError::OutOfPlace { expected: "a frame of a push connection", got }),
        }
    }
}

/// Answers a frame; false if the session is over.
fn answer(push: &PushConnection, header: &Header, result: Result<impl Message, Failure>) -> bool {
    match result {
        Ok(reply) => push.send(Envelope::reply_to(header), &reply),
        Err(failure) => {
            push.send(Envelope::failure_of(header), &failure_message(&failure));
            return failure.errno != Errno::ESTALE;
        }
    }
    true
}

/// A failure as it is told.
pub(super) fn failure_message(failure: &Failure) -> session::Failure {
    session::Failure { errno: failure.errno.raw() as u32, message: cut_foreign_text(failure.message.clone()) }
}

fn reclaimed(session: SessionId, reclaim: &session::Reclaim) -> Result<ReclaimedState, Errno> {
    let counts = [reclaim.leases.len(), reclaim.locks.len(), reclaim.open_inodes.len()];
    if counts.iter().any(|count| *count > RECLAIMED_MAX) {
        return Err(Errno::EINVAL);
    }
    let leases = reclaim.leases.iter().map(lease_from).collect::<Result<_, _>>()?;
    let mut locks = Vec::new();
    for lock in &reclaim.locks {
        if let Wanted::Lock(kind, held) = wanted(session, lock.range.as_ref())? {
            locks.push((InodeId::new(lock.inode), kind, held));
        }
    }
    let open = reclaim.open_inodes.iter().copied().map(InodeId::new).collect();
    Ok(ReclaimedState { leases, locks, open, last: reclaim.last })
}
