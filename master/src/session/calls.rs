//! Every request of an operations connection: decoded, run at the engine, answered.
//!
//! Most requests are one operation of the namespace and one line in the table below; the others stand in this file and in
//! [`super::data_calls`] and [`super::lock_calls`]. The reply that is remembered for a repetition carries no leases: a
//! repetition may come after a restart, when there are none.

use prost::Message;
use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, InodeId, LogPosition, SessionId};
use rfs_proto::frame::FrameType;
use rfs_proto::session;
use rfs_proto::session_calls::Call;

use super::translate::{Space, Surroundings, Translate};
use crate::chunks::Place;
use crate::engine::turn::{Entered, Performed, Turn};
use crate::engine::{Engine, Failure, Refusal, Request};
use crate::leases::{Lease, LeaseMode};
use crate::namespace::ops::inspect::GetAttributes;
use crate::operation::Operation;

/// A request that the engine can answer.
pub(super) trait Serve: Call {
    /// Runs it. Whatever must be on disk before the answer goes is noted in `served`.
    fn serve(self, turn: &mut Turn<'_>, served: &mut Served) -> Result<Self::Reply, Refusal>;
}

/// What is left to be done when an operation has run and the engine's lock is free.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// Up to here everything must be on disk before the answer goes.
    pub(super) durable: Option<LogPosition>,
}

/// Pairs frame types with requests, and says which of them are plain operations of the namespace.
macro_rules! dispatch {
    (plain: $($plain:ident)*; special: $($special:ident)*;) => {
        $(impl Serve for session::$plain {
            fn serve(self, turn: &mut Turn<'_>, _served: &mut Served) -> Result<Self::Reply, Refusal> {
                serve_operation(&self, turn)
            }
        })*

        /// The encoded answer to a request.
        ///
        /// # Errors
        /// [`Refusal`].
        pub(crate) fn answer(
            engine: &Engine,
            request: Request,
            frame_type: FrameType,
            message: &[u8],
        ) -> Result<Vec<u8>, Refusal> {
            match frame_type {
                $(FrameType::$plain => serve::<session::$plain>(engine, request, message),)*
                $(FrameType::$special => serve::<session::$special>(engine, request, message),)*
                _ => Err(Refusal::NotOurs("a frame that does not belong on an operations connection")),
            }
        }
    };
}

dispatch! {
    plain: ReadDirectory Link Unlink Rename GetAttributes SetAttributes ReadSymlink Access GetXattr ListXattr SetXattr
        StatFilesystem PunchHole;
    special: Lookup Make Locate GrantWrite AcquireLease Commit CopyFailed ReportBadCopy Sync Release Touch
        SetLock GetLock CancelLock;
}

/// Requests that never commit anything.
const ONLY_READ: [FrameType; 14] = [
    FrameType::Lookup,
    FrameType::ReadDirectory,
    FrameType::GetAttributes,
    FrameType::ReadSymlink,
    FrameType::Access,
    FrameType::GetXattr,
    FrameType::ListXattr,
    FrameType::StatFilesystem,
    FrameType::Locate,
    FrameType::GetLock,
    FrameType::SetLock,
    FrameType::CancelLock,
    FrameType::AcquireLease,
    FrameType::ReportBadCopy,
];

fn serve<C: Serve>(engine: &Engine, request: Request, message: &[u8]) -> Result<Vec<u8>, Refusal> {
    let Ok(call) = C::decode(message) else { return Err(Refusal::NotOurs("a message that does not decode")) };
    engine.metrics().count_operation(C::FRAME_TYPE);
    let may_change = !ONLY_READ.contains(&C::FRAME_TYPE);
    if may_change {
        engine.storage().wait_for_room();
    }
    let mut served = Served::default();
    let result = match Turn::enter(engine, request) {
        Ok(Entered::Turn(mut turn)) => call.serve(&mut turn, &mut served).map(|reply| {
            drop(turn);
            reply.encode_to_vec()
        }),
        Ok(Entered::Repeated(reply)) => {
            // The first run may have been about to wait for the disk.
            let may_have_to_wait = [FrameType::Commit, FrameType::GrantWrite, FrameType::CopyFailed];
            served.durable = may_have_to_wait.contains(&C::FRAME_TYPE).then(|| engine.storage().position());
            Ok(reply)
        }
        Err(refusal) => Err(refusal),
    };
    if may_change && result.is_ok() && served.durable.is_none() && engine.storage().is_behind() {
        engine.metrics().slow_disk_waits.add_one();
        served.durable = Some(engine.storage().position());
    }
    let result = result.and_then(|reply| {
        let Some(position) = served.durable else { return Ok(reply) };
        let waited = engine.storage().wait_durable(position);
        waited.map(|()| reply).map_err(|refused| Failure::new(refused.errno, refused.message).into())
    });
    result.inspect_err(|refusal| engine.count_refusal(refusal))
}

/// Runs a request that is one operation of the namespace.
fn serve_operation<C>(call: &C, turn: &mut Turn<'_>) -> Result<C::Reply, Refusal>
where
    C: Translate,
    <C::Operation as Operation>::Outcome: Clone,
{
    let operation = call.operation()?;
    let Performed { outcome, changes } = turn.perform(&operation)?;
    if !changes.is_empty() {
        let remembered = C::reply(outcome.clone(), &mut Remembered { session: turn.session(), placed: &[] });
        turn.commit(changes, &remembered)?;
    }
    Ok(C::reply(outcome, &mut Live { turn, placed: &[] }))
}

/// Chunks and the places that replies name for them.
pub(super) type Placed<'a> = &'a [(ChunkId, Vec<Place>)];

/// For replies that are remembered: no leases.
pub(super) struct Remembered<'a> {
    pub(super) session: SessionId,
    pub(super) placed: Placed<'a>,
}

impl Surroundings for Remembered<'_> {
    fn session(&self) -> SessionId {
        self.session
    }

    fn lease(&mut self, _inode: InodeId) -> Option<session::Lease> {
        None
    }

    fn places(&mut self, chunk: ChunkId) -> Vec<session::Place> {
        places_of(self.placed, chunk)
    }

    fn space(&self) -> Space {
        Space::default()
    }
}

/// For replies that are sent: with the leases that can be had, which the session holds from then on.
pub(super) struct Live<'a, 'b> {
    pub(super) turn: &'a mut Turn<'b>,
    pub(super) placed: Placed<'a>,
}

impl Surroundings for Live<'_, '_> {
    fn session(&self) -> SessionId {
        self.turn.session()
    }

    fn lease(&mut self, inode: InodeId) -> Option<session::Lease> {
        let lease = self.turn.answer_lease(inode);
        (lease.mode > LeaseMode::None).then(|| lease_message(lease))
    }

    fn places(&mut self, chunk: ChunkId) -> Vec<session::Place> {
        places_of(self.placed, chunk)
    }

    fn space(&self) -> Space {
        let (total, free) = self.turn.space();
        Space { total, free }
    }
}

fn places_of(placed: Placed<'_>, chunk: ChunkId) -> Vec<session::Place> {
    let places = placed.iter().find(|(placed, _)| *placed == chunk).map_or(&[][..], |(_, places)| places);
    places.iter().map(place_message).collect()
}

fn place_message(place: &Place) -> session::Place {
    session::Place { server: place.server.get(), volume: place.volume.get(), address: place.address.to_string() }
}

/// A lease as it is told.
pub(crate) fn lease_message(lease: Lease) -> session::Lease {
    let mode = match lease.mode {
        LeaseMode::None => session::LeaseMode::None,
        LeaseMode::Read => session::LeaseMode::Read,
        LeaseMode::Write => session::LeaseMode::Write,
    };
    session::Lease { inode: lease.inode.get(), mode: mode as i32, grant: lease.grant.get() }
}

/// A lease that a client names.
///
/// # Errors
/// `EINVAL` if there is no such mode.
pub(super) fn lease_from(message: &session::Lease) -> Result<Lease, Errno> {
    let mode = mode_from(message.mode)?;
    let (inode, grant) = (InodeId::new(message.inode), rfs_common::ids::LeaseGrant::new(message.grant));
    Ok(Lease { inode, mode, grant })
}

fn mode_from(number: i32) -> Result<LeaseMode, Errno> {
    match session::LeaseMode::try_from(number) {
        Ok(session::LeaseMode::None) => Ok(LeaseMode::None),
        Ok(session::LeaseMode::Read) => Ok(LeaseMode::Read),
        Ok(session::LeaseMode::Write) => Ok(LeaseMode::Write),
        Err(_) => Err(Errno::EINVAL),
    }
}

impl Serve for session::Make {
    fn serve(self, turn: &mut Turn<'_>, _served: &mut Served) -> Result<Self::Reply, Refusal> {
        if !self.open {
            return serve_operation(&self, turn);
        }
        let operation = self.operation()?;
        let (Performed { outcome: made, changes }, first) = turn.make_opened(&operation)?;
        let placed: Vec<_> = first.iter().map(|first| (first.grant.chunk, first.places.clone())).collect();
        let mut remembering = Remembered { session: turn.session(), placed: &placed };
        let first_chunk =
            first.as_ref().map(|first| super::translate::data::write_grant(&first.grant, &mut remembering));
        // Without the chunk: it is given under the WRITE lease, which a repetition does not bring. After a restart of the
        // master in between, nobody holds that, and the chunk is about to be deleted.
        let remembered = <Self as Translate>::reply(made.clone(), &mut remembering);
        turn.commit(changes, &remembered)?;
        if made.created {
            turn.first_chunk_given(made.node.inode, first.as_ref());
        }
        let mut reply = <Self as Translate>::reply(made, &mut Live { turn, placed: &placed });
        reply.first_chunk = first_chunk;
        Ok(reply)
    }
}

impl Serve for session::AcquireLease {
    fn serve(self, turn: &mut Turn<'_>, _served: &mut Served) -> Result<Self::Reply, Refusal> {
        let (inode, mode) = (InodeId::new(self.inode), mode_from(self.mode)?);
        turn.check_lease(inode, mode)?;
        turn.acquire(inode, mode)?;
        let operation = GetAttributes { inode };
        let Performed { outcome: node, .. } = turn.perform(&operation)?;
        if mode == LeaseMode::Write {
            turn.take_write(inode);
            let attributes = super::translate::parts::attributes_of(&node);
            let lease = turn.held_lease(inode).map(lease_message);
            return Ok(session::AcquireLeaseReply { node: Some(session::Node { attributes, lease }) });
        }
        let node = super::translate::parts::node(&node, &mut Live { turn, placed: &[] });
        Ok(session::AcquireLeaseReply { node })
    }
}

impl Serve for session::Sync {
    fn serve(self, turn: &mut Turn<'_>, served: &mut Served) -> Result<Self::Reply, Refusal> {
        let chunks: Vec<ChunkId> = self.chunks.iter().copied().map(ChunkId::new).collect();
        turn.chunks_synced(&chunks)?;
        served.durable = Some(turn.position());
        Ok(session::Empty {})
    }
}

impl Serve for session::Touch {
    fn serve(self, turn: &mut Turn<'_>, _served: &mut Served) -> Result<Self::Reply, Refusal> {
        let Performed { outcome: touched, changes } = turn.perform(&self.operation()?)?;
        let reply =
            <Self as Translate>::reply(touched.clone(), &mut Remembered { session: turn.session(), placed: &[] });
        if !changes.is_empty() {
            turn.commit(changes, &reply)?;
            turn.tell_accesses(&touched);
        }
        Ok(reply)
    }
}

impl Serve for session::Release {
    fn serve(self, turn: &mut Turn<'_>, _served: &mut Served) -> Result<Self::Reply, Refusal> {
        let forgotten = super::translate::parts::inodes(&self.forgotten, FORGOTTEN_MAX)?;
        if !self.orphans.is_empty() {
            serve_operation(&self, turn)?;
        }
        turn.forget(&forgotten);
        Ok(session::Empty {})
    }
}

/// Nodes of one Release; the frame's limit comes first.
const FORGOTTEN_MAX: usize = 200_000;
