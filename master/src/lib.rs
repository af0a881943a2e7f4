//! rfs master.

pub mod store;
