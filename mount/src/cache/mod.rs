//! What this client keeps of the namespace, and for how long it may: nodes, attributes, entries, leases.
//!
//! Everything here decides without IO; the client core asks the master, flushes and tells the kernel.
//!
//! What always holds: attributes and entries are given out of here only under a lease; an answer of the master that may
//! be older than a notice about the same node is used once and not kept ([`order`]); of two answers about one node the
//! one with the higher revision stays.
//!
//! Lock order: a shard of the table, then a node, then the order of answers. None is held over IO or a call of the kernel.

pub mod attributes;

pub mod entries;

pub mod locked_pages;

pub mod node;

pub mod order;

pub mod table;

pub mod xattrs;
