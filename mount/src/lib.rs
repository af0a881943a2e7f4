//! rfs mount.

pub mod data;
