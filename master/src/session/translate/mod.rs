//! Between the messages of the metadata session and the operations of the namespace: what a request means, and how an
//! outcome is told.
//!
//! [`Translate`] is implemented once for each request by the tables in [`names`], [`attributes`] and [`data`]; an entry of a
//! table says which operation it is, how the request is turned into it, and how its outcome is turned into the reply.
//! [`parts`] has what several of them share.
//!
//! What always holds: a request is checked completely here (names, numbers of enumerations, times, lengths of lists), so
//! that operations see only valid arguments; messages of the wire stop here; what only the engine knows (leases, places of
//! copies, space) comes from [`Surroundings`].
//!
//! Requests that are no operations of the namespace are not here: AcquireLease, Sync, ReportBadCopy, locks. The first chunk
//! of `Make{open}` is granted by the engine, with [`data::write_grant`].

pub mod parts;
pub mod names;
pub mod attributes;
pub mod data;

use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, InodeId, SessionId};
use rfs_proto::session;
use rfs_proto::session_calls::Call;

use crate::operation::Operation;

/// What replies contain that the namespace does not know.
pub trait Surroundings {
    /// The session that is answered.
    fn session(&self) -> SessionId;
    /// A lease on the node to go with the answer, or nothing if there can be none now.
    fn lease(&mut self, inode: InodeId) -> Option<session::Lease>;
    /// Places of the live copies of a chunk, nearest first; of a chunk just granted: the chain.
    fn places(&mut self, chunk: ChunkId) -> Vec<session::Place>;
    /// Space of the cluster.
    fn space(&self) -> Space;
}

/// Bytes of the cluster, already divided by the goal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// All there is.
    pub total: u64,
    /// What is free.
    pub free: u64,
}

/// A request that is an operation of the namespace.
pub trait Translate: Call {
    /// That operation.
    type Operation: Operation;

    /// The operation that is asked for.
    ///
    /// # Errors
    /// `EINVAL` or the error of the part that is not valid.
    fn operation(&self) -> Result<Self::Operation, Errno>;

    /// The answer.
    fn reply(
        outcome: <Self::Operation as Operation>::Outcome,
        surroundings: &mut dyn Surroundings,
    ) -> <Self as Call>::Reply;
}

/// A table of requests: `Request => Operation, |request| operation, |outcome, surroundings| reply;`
macro_rules! translations {
    ($($message:ty => $operation:ty, |$request:ident| $build:expr, |$outcome:pat_param, $surroundings:pat_param| $reply:expr;)*) => {
        $(impl $crate::session::translate::Translate for $message {
            type Operation = $operation;

            fn operation(&self) -> Result<$operation, rfs_common::errno::Errno> {
                let $request = self;
                Ok($build)
            }

            fn reply(
                outcome: <$operation as $crate::operation::Operation>::Outcome,
                surroundings: &mut dyn $crate::session::translate::Surroundings,
            ) -> <$message as rfs_proto::session_calls::Call>::Reply {
                let ($outcome, $surroundings) = (outcome, surroundings);
                $reply
            }
        })*
    };
}
use translations;

#[cfg(test)]
#[path = "translate_test.rs"]
mod tests;
