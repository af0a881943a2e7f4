//! The client side of rfs: the library that speaks with master and chunkservers, the FUSE mount, and the tool.
//!
//! Each module knows only those above it; `tool` knows none of them.

pub mod session;

pub mod data;

pub mod cache;

pub mod client;

pub mod fuse;

pub mod kernel;

pub mod options;

pub mod mountpoint;

pub mod standing;

pub mod daemon;

pub mod tool;
