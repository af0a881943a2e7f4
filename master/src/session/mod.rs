//! The metadata session: what clients ask of the master, over which connections, and what they are told unasked.
//!
//! [`listener`] accepts connections and gives each a thread; [`handshake`] finds out what a connection is; then it is an
//! operations connection ([`operations`]: one request at a time, answered by [`calls`]) or a push connection ([`push`]).

pub mod translate;
pub(crate) mod calls;
mod data_calls;
mod lock_calls;
mod stream;
mod handshake;
mod push;
pub mod listener;
