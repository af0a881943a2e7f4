//! The metadata session: what clients ask of the master, over which connections, and what they are told unasked.
//!
//! [`listener`] accepts connections and gives each a thread; [`handshake`] finds out what a connection is; then it is an
//! operations connection (`stream`: one request at a time, answered by [`calls`]) or a push connection ([`push`]).

pub(crate) mod calls;
mod data_calls;
mod handshake;
pub mod listener;
mod lock_calls;
mod push;
mod stream;
pub mod translate;
