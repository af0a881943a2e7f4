//! The requests about locks. Locks live in memory and are reclaimed after a restart, so their answers are remembered in
//! memory only.

use rfs_common::errno::Errno;
use rfs_common::ids::{InodeId, SessionId};
use rfs_proto::session;

use super::calls::{Serve, Served};
use crate::engine::Refusal;
use crate::engine::turn::Turn;
use crate::locks::{
    ByteRange, CancelOutcome, Lock, LockKind, LockOutcome, LockOwner, LockType, Patience, RANGE_END_MAX, Ticket,
};

/// What a range asks for.
pub(super) enum Wanted {
    /// A lock.
    Lock(LockKind, Lock),
    /// That there be none.
    Unlock(LockKind, LockOwner, ByteRange),
}

/// Checks a range that a client names.
///
/// # Errors
/// `EINVAL`.
pub(super) fn wanted(session: SessionId, range: Option<&session::LockRange>) -> Result<Wanted, Errno> {
    let range = range.ok_or(Errno::EINVAL)?;
    let kind = match session::LockKind::try_from(range.kind) {
        Ok(session::LockKind::Posix) => LockKind::Posix,
        Ok(session::LockKind::Flock) => LockKind::Flock,
        Ok(session::LockKind::Unspecified) | Err(_) => return Err(Errno::EINVAL),
    };
    let owner = LockOwner { session, owner: range.owner };
    let bytes = match kind {
        LockKind::Posix => ByteRange::new(range.start, range.end.min(RANGE_END_MAX)).ok_or(Errno::EINVAL)?,
        LockKind::Flock => ByteRange::ALL,
    };
    let lock_type = match session::LockType::try_from(range.r#type) {
        Ok(session::LockType::Unlock) => return Ok(Wanted::Unlock(kind, owner, bytes)),
        Ok(session::LockType::Shared) => LockType::Shared,
        Ok(session::LockType::Exclusive) => LockType::Exclusive,
        Err(_) => return Err(Errno::EINVAL),
    };
    Ok(Wanted::Lock(kind, Lock { owner, lock_type, range: bytes, process_id: range.process_id }))
}

fn range_message(kind: LockKind, lock: &Lock) -> session::LockRange {
    let (kind, lock_type) = (
        match kind {
            LockKind::Posix => session::LockKind::Posix,
            LockKind::Flock => session::LockKind::Flock,
        },
        match lock.lock_type {
            LockType::Shared => session::LockType::Shared,
            LockType::Exclusive => session::LockType::Exclusive,
        },
    );
    session::LockRange {
        kind: kind as i32,
        r#type: lock_type as i32,
        owner: lock.owner.owner,
        start: lock.range.start,
        end: lock.range.end,
        process_id: lock.process_id,
    }
}

impl Serve for session::SetLock {
    fn serve(self, turn: &mut Turn<'_>, _served: &mut Served) -> Result<Self::Reply, Refusal> {
        let inode = InodeId::new(self.inode);
        let granted = match wanted(turn.session(), self.range.as_ref())? {
            Wanted::Unlock(kind, owner, range) => {
                turn.unlock(inode, kind, owner, range);
                true
            }
            Wanted::Lock(kind, lock) => {
                let patience = if self.wait { Patience::Wait(Ticket(self.ticket)) } else { Patience::None };
                match turn.lock(inode, kind, lock, patience) {
                    LockOutcome::Granted => true,
                    LockOutcome::Queued => false,
                    LockOutcome::Conflict => return Err(Errno::EAGAIN.into()),
                    LockOutcome::Deadlock => return Err(Errno::EDEADLK.into()),
                    LockOutcome::TooMany => return Err(Errno::ENOLCK.into()),
                }
            }
        };
        let reply = session::SetLockReply { granted };
        turn.remember(&reply);
        Ok(reply)
    }
}

impl Serve for session::GetLock {
    fn serve(self, turn: &mut Turn<'_>, _served: &mut Served) -> Result<Self::Reply, Refusal> {
        let Wanted::Lock(kind, lock) = wanted(turn.session(), self.range.as_ref())? else {
            return Err(Errno::EINVAL.into());
        };
        let conflict = turn.lock_conflict(InodeId::new(self.inode), kind, &lock);
        Ok(session::GetLockReply { conflict: conflict.map(|conflict| range_message(kind, &conflict)) })
    }
}

impl Serve for session::CancelLock {
    fn serve(self, turn: &mut Turn<'_>, _served: &mut Served) -> Result<Self::Reply, Refusal> {
        let outcome = turn.cancel_lock(InodeId::new(self.inode), Ticket(self.ticket));
        let reply = session::CancelLockReply { granted: outcome == CancelOutcome::AlreadyGranted };
        turn.remember(&reply);
        Ok(reply)
    }
}
