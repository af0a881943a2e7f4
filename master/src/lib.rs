//! The master of rfs: the namespace, the chunk table, and who may do what when.

pub mod chunks;
