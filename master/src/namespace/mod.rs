//! The namespace: what is stored, what may be done with it, and whether it is whole.
//!
//! [`records`] are the stored bytes, one definition each; [`metadata`] reads and changes them in transactions;
//! [`permission`] says who may; [`ops`] has one file per operation; [`bootstrap`] is what a new cluster contains,
//! [`restored`] what an export says that holds no more, and [`check`] says whether a stored namespace is whole.
//!
//! What always holds: nothing here does IO of its own, reads a clock or knows a message of the wire.

pub mod source;

pub mod records;

pub mod metadata;

pub mod acl;

pub mod permission;

pub mod entries;

pub mod content;

pub mod path;

pub mod names;

pub mod ops;

pub mod bootstrap;

pub mod restored;

pub mod check;

#[cfg(test)]
mod model_test;
