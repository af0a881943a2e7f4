//! What this client keeps of the namespace, and for how long it may: nodes, attributes, entries, leases.

pub mod attributes;
