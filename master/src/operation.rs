//! What an operation of the namespace is, and what it asks of whoever runs it.
//!
//! An operation decides and never acts: [`Operation::needs`] says what must be out of other sessions' hands before it may
//! run, [`Operation::run`] reads and changes records through a [`Transaction`]. Whoever runs operations (the engine of the
//! sessions) does so under its lock: ask for the needs, recall what conflicts, wait without the lock, start again; once
//! nothing conflicts, run, take the changes out of the transaction and commit them together with the reply.
//!
//! What always holds: an operation reads no clock, draws no random number and does no IO beyond the transaction's reads; an
//! operation that returns an error leaves changes in its transaction that must be thrown away.

use rfs_common::clock::Time;
use rfs_common::errno::Errno;
use rfs_common::ids::{InodeId, SessionId};
use rfs_common::name::Name;

use crate::namespace::metadata::Transaction;

/// Something that must be out of other sessions' hands (or in the own one's) before an operation may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Attributes or content of the node are read: another session's WRITE lease comes down to READ first, so that its
    /// length and times are known here.
    Read(InodeId),
    /// Attributes of the node change, its data does not: another's WRITE lease comes down to READ, and others forget the
    /// attributes; their leases stay.
    ChangeAttributes(InodeId),
    /// Data of the node changes (or the node as a whole): others' leases come down to NONE.
    ChangeData(InodeId),
    /// These names of the directory change: others forget them and the directory's attributes; their leases stay.
    ChangeEntries(InodeId, Vec<Name>),
    /// The session itself must hold the WRITE lease; the answer is `ESTALE` if it does not.
    Write(InodeId),
}

/// Who asks: checked by the master as a local kernel would.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// Effective user (of a kernel: the filesystem user).
    pub user: u32,
    /// Effective group.
    pub group: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// On whose behalf, and when, an operation runs.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The session that asks.
    pub session: SessionId,
    /// Whether the session may change nothing.
    pub read_only: bool,
    /// The directory that the session takes for its root.
    pub root: InodeId,
    /// The wall clock, read once for the whole operation.
    pub now: Time,
    /// The sessions that know a node (and perhaps hold it open): for these it is kept when its last name goes.
    pub known_by: &'a dyn Fn(InodeId) -> Vec<SessionId>,
    /// Whether another session holds the WRITE lease on a node, so that what is stored of it may be old: a listing leaves
    /// out the attributes of such nodes instead of recalling the lease.
    pub written_elsewhere: &'a dyn Fn(InodeId) -> bool,
}

/// One operation with its arguments.
pub trait Operation {
    /// What it finds or did.
    type Outcome;

    /// Whether it changes records, so that sessions that may only read are refused.
    const CHANGES: bool;

    /// What must be out of others' hands before [`Operation::run`]. May look at records; must not change any. Nodes that
    /// do not exist need nothing: `run` is what answers the error.
    ///
    /// # Errors
    /// Only if records cannot be read.
    fn needs(&self, view: &mut Transaction<'_>, context: &Context<'_>) -> Result<Vec<Need>, Errno>;

    /// Checks and does it.
    ///
    /// # Errors
    /// What the caller is answered; the transaction must then be thrown away.
    fn run(&self, transaction: &mut Transaction<'_>, context: &Context<'_>) -> Result<Self::Outcome, Errno>;
}

/// Runs an operation unless the session may only read and the operation changes something.
///
/// # Errors
/// `EROFS`, and those of the operation.
pub fn perform<O: Operation>(
    operation: &O,
    transaction: &mut Transaction<'_>,
    context: &Context<'_>,
) -> Result<O::Outcome, Errno> {
    if O::CHANGES && context.read_only {
        return Err(Errno::EROFS);
    }
    operation.run(transaction, context)
}
