//! The master: the namespace, the chunk table, and the sessions of the clients.
//!
//! Modules stand in reading order: first the rules (what is stored, what an operation is, what each one does), then who
//! may do what when, then what runs them for clients.

pub mod namespace;
pub mod operation;
pub mod leases;
pub mod locks;
pub mod sessions;
pub mod session;
