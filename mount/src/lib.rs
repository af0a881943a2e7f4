//! rfs mount.
