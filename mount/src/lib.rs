//! rfs mount.
pub mod options;
pub mod mountpoint;
