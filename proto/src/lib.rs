//! What goes over the wire between the programs of rfs: the frame codec of the two hot protocols, the messages of
//! all four, and the tables that say which message answers which.
//!
//! The crate does no IO of its own: [`frame`] turns bytes into frames and back, [`wire`] runs it over any
//! `Read`/`Write`. Message types are made from `proto/*.proto`; the daemons translate them to their own types at
//! their edges.

pub mod data_calls;
pub mod frame;
pub mod session_calls;
pub mod wire;

/// Messages of the metadata session, from `session.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod session {
    include!(concat!(env!("OUT_DIR"), "/rfs.session.rs"));
}

/// Messages of the data connection, from `data.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod data {
    include!(concat!(env!("OUT_DIR"), "/rfs.data.rs"));
}

/// The stream between chunkserver and master, from `cluster.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod cluster {
    include!(concat!(env!("OUT_DIR"), "/rfs.cluster.rs"));
}

/// Administration, from `admin.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod admin {
    include!(concat!(env!("OUT_DIR"), "/rfs.admin.rs"));
}

/// Version of the session and data protocols. Peers refuse another one with a message that names both.
pub const PROTOCOL_VERSION: u32 = 1;
