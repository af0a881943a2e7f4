//! The metadata session: what clients ask of the master.

pub mod translate;
