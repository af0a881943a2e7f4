//! rfs master.
