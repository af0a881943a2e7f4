//! The client side of rfs: the library that speaks with master and chunkservers, the FUSE mount, and the tool.

pub mod tool;
