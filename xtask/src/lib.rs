//! rfs xtask.
