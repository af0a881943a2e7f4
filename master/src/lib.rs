//! The master: the namespace, the chunk table, and the sessions of the clients.
//!
//! Modules stand in reading order: first where records are kept, then the rules (what is stored, what an operation is, what
//! each one does), then where copies are and who may do what when, then what brings all of it together and serves it.

pub mod store;
pub mod namespace;
pub mod operation;
pub mod chunks;
pub mod leases;
pub mod locks;
pub mod sessions;
pub mod events;
pub mod metrics;
pub mod engine;
pub mod session;
pub mod status;
pub mod cluster;
pub mod exports;
pub mod admin;
pub mod web;
pub mod config;
pub mod daemon;
pub mod cli;
