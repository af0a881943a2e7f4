//! The master: the namespace, the chunk table, and the sessions of the clients.
//!
//! Modules stand in reading order: first where records are kept, then the rules (what is stored, what an operation is, what
//! each one does), then what runs them for clients.

pub mod store;

pub mod namespace;

pub mod operation;

pub mod session;
