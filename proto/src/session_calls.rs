//! Which message asks, which answers, and under which frame type: the table of the metadata session.

use prost::Message;

use crate::frame::FrameType;
use crate::session::{
    Access, AcquireLease, AcquireLeaseReply, CancelLock, CancelLockReply, Commit, CopyFailed, Empty, GetAttributes,
    GetLock, GetLockReply, GetXattr, GetXattrReply, GrantWrite, GrantWriteReply, Link, LinkReply, ListXattr,
    ListXattrReply, Locate, LocateReply, Lookup, LookupReply, Make, MakeReply, NodeReply, PunchHole, ReadDirectory,
    ReadDirectoryReply, ReadSymlink, ReadSymlinkReply, Release, Rename, RenameReply, ReportBadCopy, SetAttributes,
    SetLock, SetLockReply, SetXattr, StatFilesystem, StatFilesystemReply, Sync, Touch, TouchReply, Unlink, UnlinkReply,
};

/// Slots that one session may have: operations connections at the same time.
pub const SLOTS_MAX: u32 = 64;

/// Whether a request changes something, so that its reply is remembered and a repetition is answered from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It may be run again.
    Reads,
    /// It must not be run again.
    Changes,
}

/// A request of an operations connection.
pub trait Call: Message + Default {
    /// Its frame's type.
    const FRAME_TYPE: FrameType;
    /// Whether it changes something.
    const EFFECT: Effect;
    /// What answers it.
    type Reply: Message + Default;
}

macro_rules! calls {
    ($($request:ty => $reply:ty, $frame_type:ident, $effect:ident;)*) => {
        $(impl Call for $request {
            const FRAME_TYPE: FrameType = FrameType::$frame_type;
            const EFFECT: Effect = Effect::$effect;
            type Reply = $reply;
        })*
    };
}

calls! {
    Lookup => LookupReply, Lookup, Reads;
    ReadDirectory => ReadDirectoryReply, ReadDirectory, Reads;
    Make => MakeReply, Make, Changes;
    Link => LinkReply, Link, Changes;
    Unlink => UnlinkReply, Unlink, Changes;
    Rename => RenameReply, Rename, Changes;
    GetAttributes => NodeReply, GetAttributes, Reads;
    SetAttributes => NodeReply, SetAttributes, Changes;
    ReadSymlink => ReadSymlinkReply, ReadSymlink, Reads;
    Access => Empty, Access, Reads;
    GetXattr => GetXattrReply, GetXattr, Reads;
    ListXattr => ListXattrReply, ListXattr, Reads;
    SetXattr => Empty, SetXattr, Changes;
    StatFilesystem => StatFilesystemReply, StatFilesystem, Reads;
    Locate => LocateReply, Locate, Reads;
    GrantWrite => GrantWriteReply, GrantWrite, Changes;
    AcquireLease => AcquireLeaseReply, AcquireLease, Reads;
    Commit => NodeReply, Commit, Changes;
    PunchHole => NodeReply, PunchHole, Changes;
    CopyFailed => GrantWriteReply, CopyFailed, Changes;
    ReportBadCopy => Empty, ReportBadCopy, Reads;
    Sync => Empty, Sync, Reads;
    Release => Empty, Release, Reads;
    Touch => TouchReply, Touch, Reads;
    SetLock => SetLockReply, SetLock, Changes;
    GetLock => GetLockReply, GetLock, Reads;
    CancelLock => CancelLockReply, CancelLock, Changes;
}

/// A request id from its two parts.
pub fn request_id(slot: u32, sequence: u64) -> u64 {
    u64::from(slot) << 48 | (sequence & ((1 << 48) - 1))
}

/// The slot and the sequence of a request id.
pub fn slot_and_sequence(request_id: u64) -> (u32, u64) {
    ((request_id >> 48) as u32, request_id & ((1 << 48) - 1))
}
