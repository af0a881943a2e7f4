//! rfs mount: the client library (session, caches, chunk data) and what stands on it.

pub mod session;

pub mod data;

pub mod cache;

pub mod client;

pub mod fuse;

pub mod kernel;

pub mod options;

pub mod mountpoint;

pub mod daemon;
