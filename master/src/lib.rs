//! The master: the namespace, the chunk table, and the sessions of the clients.
//!
//! Modules stand in reading order: first where records are kept, then the rules (what is stored, what an operation is, what
//! each one does), then where copies are and who may do what when, then what brings all of it together and serves it.

pub mod admin;
pub mod chunks;
pub mod cli;
pub mod cluster;
pub mod config;
mod connections;
pub mod daemon;
pub mod engine;
pub mod events;
pub mod exports;
mod grpc;
pub mod leases;
pub mod locks;
pub mod metrics;
pub mod namespace;
pub mod operation;
pub mod session;
pub mod sessions;
pub mod status;
pub mod store;
mod strangers;
pub mod web;
