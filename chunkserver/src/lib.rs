//! The chunkserver: keeps copies of chunks as files on its volumes, serves them over data connections, and does what the
//! master orders over the cluster stream.
//!
//! Modules stand from the bottom up: one copy, one volume of copies, the volumes of this process, the data port, the
//! link to the master, and the programs made of them.

pub mod chunk;

pub mod volume;

mod system;

pub mod volumes;

pub mod data;

pub mod config;

pub mod link;

pub mod init;

pub mod verify;

pub mod daemon;

pub mod cli;

#[cfg(test)]
mod small_disk;
